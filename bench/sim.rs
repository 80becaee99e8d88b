//! Many runs of the simulator: `cargo run --release --example sim -- --seeds 0..10000`.
//!
//! A seed that fails is reduced (fewer clients, shorter workload, fewer faults) while it still fails, and the command
//! that replays it with a trace is printed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use pglockstep::sim::run::{Failure, Options, Report, run_seed};

/// Runs the simulator.
#[derive(Parser)]
struct Arguments {
    /// Seeds, `from..to`, or one.
    #[arg(long, default_value = "0..1000", value_parser = seeds)]
    seeds: Range<u64>,
    /// Print the trace of every run.
    #[arg(long)]
    trace: bool,
    /// Threads; 0: one per core.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Most clients of a run.
    #[arg(long, default_value_t = Options::default().clients)]
    clients: usize,
    /// Most transactions of a client.
    #[arg(long, default_value_t = Options::default().transactions)]
    transactions: usize,
    /// Most faults of a run.
    #[arg(long, default_value_t = Options::default().faults)]
    faults: usize,
    /// Statements that name rows by a range.
    #[arg(long)]
    ranges: bool,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?}: {e}"));
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => number(text).map(|n| n..n + 1),
    }
}

/// What all runs together were like.
#[derive(Default)]
struct Sum {
    runs: u64,
    steps: u64,
    time_us: i64,
    outcomes: [u64; 3],
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.steps += report.steps;
        self.time_us += report.time_us;
        self.outcomes.iter_mut().zip(report.outcomes).for_each(|(a, b)| *a += b);
        for (kind, n) in report.faults.iter().chain(&report.counted) {
            *self.counts.entry(kind).or_default() += n;
        }
    }
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        clients: arguments.clients,
        transactions: arguments.transactions,
        faults: arguments.faults,
        ranges: arguments.ranges,
        trace: false,
    };
    if arguments.trace {
        return trace(arguments.seeds, &options);
    }
    let jobs = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let total = arguments.seeds.end.saturating_sub(arguments.seeds.start);
    let (next, stop, sum) = (AtomicU64::new(arguments.seeds.start), AtomicBool::new(false), Mutex::new(Sum::default()));
    let begun = Instant::now();
    let bar = indicatif::ProgressBar::new(total);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{pos}/{len} runs {wide_bar} {per_sec} {eta}") {
        bar.set_style(style);
    }
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds.end {
                        return;
                    }
                    let run = std::panic::catch_unwind(|| run_seed(seed, &options));
                    bar.inc(1);
                    let Ok(mut sum) = sum.lock() else { return };
                    match run {
                        Ok(Ok(report)) => sum.add(&report),
                        Ok(Err(failure)) => {
                            sum.add(&failure.report);
                            sum.failed.push(seed);
                            drop(sum);
                            stop.store(!arguments.keep_going, Ordering::Relaxed);
                            bar.suspend(|| told(seed, &options, &failure, !arguments.keep_going));
                        }
                        Err(_) => {
                            sum.failed.push(seed);
                            stop.store(!arguments.keep_going, Ordering::Relaxed);
                            bar.suspend(|| println!("seed {seed} panicked; replay: {}", command(seed, &options)));
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let Ok(sum) = sum.into_inner() else { return std::process::ExitCode::FAILURE };
    say(&sum, begun.elapsed());
    if sum.failed.is_empty() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn say(sum: &Sum, took: Duration) {
    let seconds = took.as_secs_f64().max(0.001);
    #[allow(clippy::cast_precision_loss)] // for people to read
    let rate = |n: u64| n as f64 / seconds;
    println!("{} runs in {seconds:.1} s: {:.1} runs/s, {:.0} steps/s", sum.runs, rate(sum.runs), rate(sum.steps));
    println!("{} s of simulated time", sum.time_us / 1_000_000);
    let [acknowledged, failed, unknown] = sum.outcomes;
    println!("transactions: {acknowledged} acknowledged, {failed} failed, {unknown} unknown");
    for (kind, n) in &sum.counts {
        println!("{n:>9} {kind}");
    }
    if !sum.failed.is_empty() {
        println!("failed seeds: {:?}", sum.failed);
    }
}

fn told(seed: u64, options: &Options, failure: &Failure, reduced: bool) {
    println!("seed {seed} failed: {}", failure.what);
    if !reduced {
        return;
    }
    let (smaller, what) = reduce(seed, options, failure);
    println!("reduced: {what}\nreplay:  {}", command(seed, &smaller));
}

fn command(seed: u64, o: &Options) -> String {
    format!(
        "cargo run --release --example sim -- --seeds {seed} --clients {} --transactions {} --faults {}{} --trace",
        o.clients,
        o.transactions,
        o.faults,
        if o.ranges { " --ranges" } else { "" }
    )
}

/// Makes the run smaller as long as it fails; what it then fails with.
fn reduce(seed: u64, options: &Options, failure: &Failure) -> (Options, String) {
    let (mut best, mut what, mut steps) = (*options, failure.what.clone(), failure.report.steps);
    for clients in 1..=options.clients {
        for transactions in 1..=options.transactions {
            for faults in 0..=options.faults {
                let smaller = Options { clients, transactions, faults, ..*options };
                if let Ok(Err(f)) = std::panic::catch_unwind(|| run_seed(seed, &smaller)) {
                    if f.report.steps < steps {
                        (best, what, steps) = (smaller, f.what, f.report.steps);
                    }
                }
            }
        }
    }
    (best, what)
}

fn trace(seeds: Range<u64>, options: &Options) -> std::process::ExitCode {
    let mut all_well = true;
    for seed in seeds {
        let options = Options { trace: true, ..*options };
        match run_seed(seed, &options) {
            Ok(report) => println!("seed {seed}: well, {} steps, trace {:016x}", report.steps, report.trace_hash),
            Err(failure) => {
                failure.lines.iter().for_each(|l| println!("{l}"));
                println!("seed {seed} failed: {}", failure.what);
                all_well = false;
            }
        }
    }
    if all_well { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
