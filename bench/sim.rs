//! Many runs of the simulator: `cargo run --release --example sim -- --seeds 0..10000`.
//!
//! A seed that fails is reduced (fewer clients, shorter workload, fewer faults) while it still fails, and the command
//! that replays it with a trace is printed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use pglockstep::config::Mode;
use pglockstep::sim::faults::Kind;
use pglockstep::sim::run::{Failure, Options, Report, run_seed};
use pglockstep::sim::workload::maker::Only;

/// Runs the whole proxy in simulated time on simulated PostgreSQL nodes, once per seed, and checks that nodes stay
/// identical, nothing acknowledged is lost, and clients see what one server could have shown them.
///
/// Exit status: 0 if every run held, 1 if one did not. A run depends on its seed and on the options from --clients to
/// --only alone.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Seeds: `FROM..TO` (TO not included), or one.
    #[arg(long, default_value = "0..1000", value_parser = seeds)]
    seeds: Range<u64>,
    /// Print the trace of runs that fail, line by line: time in s, which of how many possibilities the seed chose, who,
    /// what. Runs the seeds one after the other.
    #[arg(long)]
    trace: bool,
    /// With --trace: runs that hold, too.
    #[arg(long, requires = "trace")]
    all: bool,
    /// Threads; 0: one per core.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Most clients of a run; the seed chooses from 1 up to this.
    #[arg(long, default_value_t = Options::default().clients)]
    clients: usize,
    /// Most transactions of a client.
    #[arg(long, default_value_t = Options::default().transactions)]
    transactions: usize,
    /// Most faults of a run.
    #[arg(long, default_value_t = Options::default().faults)]
    faults: usize,
    /// A kind of fault that happens more often than all others together, and in every run: applier, backend, cut, crash,
    /// hang, slow, cancel, vanish, tamper, lose, lag, stall.
    #[arg(long)]
    favour: Option<Kind>,
    /// Statements that name rows by a range (not held yet: the proxy replicates them by their text).
    #[arg(long)]
    ranges: bool,
    /// No node crashes or hangs.
    #[arg(long)]
    nodes_stay: bool,
    /// Only a part of the workload: lists, reads.
    #[arg(long)]
    only: Option<Only>,
    /// Whether transactions go by images and two-phase commit where they need it (true, false); by default each seed
    /// chooses.
    #[arg(long)]
    images: Option<bool>,
    /// The clustering mode of all runs: native (native_replication) or snapshot (snapshot_isolation); by default each
    /// seed chooses.
    #[arg(long, value_parser = mode)]
    mode: Option<Mode>,
    /// Go on after a failure, and reduce nothing.
    #[arg(long)]
    keep_going: bool,
    /// Print what the runs were like as one JSON object, and nothing else on standard output.
    #[arg(long, conflicts_with = "trace")]
    json: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |t: &str| t.parse::<u64>().map_err(|e| format!("{t:?}: {e}"));
    match text.split_once("..") {
        Some((from, to)) => Ok(number(from)?..number(to)?),
        None => number(text).map(|n| n..n + 1),
    }
}

fn mode(word: &str) -> Result<Mode, String> {
    MODES.iter().find(|(_, w)| *w == word).map(|(m, _)| *m).ok_or_else(|| "it is native or snapshot".to_owned())
}

/// The modes, as the command line has them.
const MODES: [(Mode, &str); 2] = [(Mode::NativeReplication, "native"), (Mode::SnapshotIsolation, "snapshot")];

/// A seed that failed.
struct Failed {
    seed: u64,
    what: String,
    /// Run this to see it.
    replay: String,
}

/// What all runs together were like.
#[derive(Default)]
struct Sum {
    runs: u64,
    steps: u64,
    /// Steps of the longest run that held.
    longest: u64,
    time_us: i64,
    outcomes: [u64; 3],
    faults: BTreeMap<&'static str, Times>,
    counted: BTreeMap<&'static str, Times>,
    failed: Vec<Failed>,
}

/// How often, and in how many runs.
#[derive(Clone, Copy, Default)]
struct Times {
    times: u64,
    runs: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.steps += report.steps;
        self.time_us += report.time_us;
        self.outcomes.iter_mut().zip(report.outcomes).for_each(|(a, b)| *a += b);
        for (sum, one) in [(&mut self.faults, &report.faults), (&mut self.counted, &report.counted)] {
            for (kind, n) in one {
                let t = sum.entry(kind).or_default();
                t.times += n;
                t.runs += u64::from(*n > 0);
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        clients: arguments.clients,
        transactions: arguments.transactions,
        faults: arguments.faults,
        ranges: arguments.ranges,
        mode: arguments.mode,
        only: arguments.only,
        images: arguments.images,
        favour: arguments.favour,
        nodes_stay: arguments.nodes_stay,
        trace: false,
    };
    if arguments.trace {
        return trace(arguments.seeds, &options, arguments.all);
    }
    let begun = Instant::now();
    let sum = run_all(&arguments, &options);
    if arguments.json {
        println!("{}", json(&sum, &arguments.seeds, begun.elapsed()));
    } else {
        say(&sum, begun.elapsed());
    }
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All seeds on all threads, up to the first that fails.
fn run_all(arguments: &Arguments, options: &Options) -> Sum {
    let jobs = match arguments.jobs {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let total = arguments.seeds.end.saturating_sub(arguments.seeds.start);
    let (next, stop) = (AtomicU64::new(arguments.seeds.start), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let bar = indicatif::ProgressBar::new(total);
    let template = "{pos}/{len} runs {wide_bar} {per_sec}, {eta} left{msg}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
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
                    let run = catch_unwind(|| run_seed(seed, options));
                    bar.inc(1);
                    let Ok(mut sum) = sum.lock() else { return };
                    let what = match run {
                        Ok(Ok(report)) => {
                            sum.longest = sum.longest.max(report.steps);
                            sum.add(&report);
                            continue;
                        }
                        Ok(Err(failure)) => {
                            sum.add(&failure.report);
                            failure.what
                        }
                        Err(_) => "it panicked, as said above".to_owned(),
                    };
                    stop.store(!arguments.keep_going, Ordering::Relaxed);
                    let (seed_replay, count) = (command(seed, options), sum.failed.len() + 1);
                    sum.failed.push(Failed { seed, what, replay: seed_replay });
                    bar.set_message(format!(", {count} failed"));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(first) = sum.failed.first_mut().filter(|_| !arguments.keep_going) {
        eprintln!("seed {} failed; looking for a smaller run that fails", first.seed);
        if let Some((smaller, what)) = reduce(first.seed, options) {
            (first.what, first.replay) = (what, command(first.seed, &smaller));
        }
    }
    sum
}

#[allow(clippy::cast_precision_loss)] // for people to read
fn per_second(n: u64, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64().max(0.001)
}

fn say(sum: &Sum, took: Duration) {
    let (runs, steps) = (per_second(sum.runs, took), per_second(sum.steps, took));
    println!("{} runs in {:.1} s: {runs:.1} runs/s, {steps:.0} steps/s", sum.runs, took.as_secs_f64());
    println!("{} s of simulated time; the longest run that held took {} steps", sum.time_us / 1_000_000, sum.longest);
    let [acknowledged, failed, unknown] = sum.outcomes;
    println!("transactions: {acknowledged} acknowledged, {failed} failed, {unknown} of unknown outcome");
    for (title, counts) in [("faults", &sum.faults), ("what happened", &sum.counted)] {
        println!("{title:<28} {:>9} {:>12}", "times", "in runs");
        for (kind, t) in counts {
            println!("  {kind:<26} {:>9} {:>12}", t.times, t.runs);
        }
    }
    for f in &sum.failed {
        println!("FAILED: seed {}: {}\n  replay: {}", f.seed, f.what, f.replay);
    }
    if sum.failed.is_empty() {
        println!("every run held");
    }
}

fn json(sum: &Sum, seeds: &Range<u64>, took: Duration) -> serde_json::Value {
    let counts = |all: &BTreeMap<&str, Times>| {
        let one =
            |(kind, t): (&&str, &Times)| ((*kind).to_owned(), serde_json::json!({"times": t.times, "runs": t.runs}));
        all.iter().map(one).collect::<serde_json::Map<_, _>>()
    };
    let failed = sum.failed.iter();
    let failed = failed.map(|f| serde_json::json!({"seed": f.seed, "what": f.what, "replay": f.replay}));
    let [acknowledged, refused, unknown] = sum.outcomes;
    serde_json::json!({
        "seeds": [seeds.start, seeds.end],
        "runs": sum.runs,
        "seconds": took.as_secs_f64(),
        "runs_per_second": per_second(sum.runs, took),
        "steps": sum.steps,
        "longest_run_steps": sum.longest,
        "simulated_seconds": sum.time_us / 1_000_000,
        "transactions": {"acknowledged": acknowledged, "failed": refused, "unknown": unknown},
        "faults": counts(&sum.faults),
        "counted": counts(&sum.counted),
        "failed": failed.collect::<Vec<_>>(),
    })
}

fn command(seed: u64, o: &Options) -> String {
    let favour = o.favour.map_or_else(String::new, |k| format!(" --favour {}", k.word()));
    let ranges = if o.ranges { " --ranges" } else { "" };
    let stay = if o.nodes_stay { " --nodes-stay" } else { "" };
    let only = o.only.map(|o| format!(" --only {}", o.word())).unwrap_or_default();
    let word = MODES.iter().find(|(m, _)| Some(*m) == o.mode).map(|(_, w)| w);
    let mode = word.map(|w| format!(" --mode {w}")).unwrap_or_default();
    let images = o.images.map(|i| format!(" --images {i}")).unwrap_or_default();
    format!(
        "cargo run --release --example sim -- --seeds {seed} --clients {} --transactions {} --faults {}{favour}{ranges}{stay}{only}{images}{mode} \
         --trace",
        o.clients, o.transactions, o.faults,
    )
}

/// The smallest run (by its steps) of this seed that fails, and with what.
fn reduce(seed: u64, options: &Options) -> Option<(Options, String)> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut best: Option<(u64, Options, String)> = None;
    for clients in 1..=options.clients {
        for transactions in 1..=options.transactions {
            for faults in 0..=options.faults {
                let smaller = Options { clients, transactions, faults, ..*options };
                let (steps, what) = match catch_unwind(|| run_seed(seed, &smaller)) {
                    Ok(Ok(_)) => continue,
                    Ok(Err(f)) => (f.report.steps, f.what),
                    Err(_) => (u64::MAX, "it panics".to_owned()),
                };
                if best.as_ref().is_none_or(|(least, ..)| steps < *least) {
                    best = Some((steps, smaller, what));
                }
            }
        }
    }
    std::panic::set_hook(hook);
    best.map(|(_, options, what)| (options, what))
}

fn trace(seeds: Range<u64>, options: &Options, all: bool) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for seed in seeds {
        let options = Options { trace: true, ..*options };
        match run_seed(seed, &options) {
            Ok(report) => {
                if all {
                    report.lines.iter().for_each(|l| println!("{l}"));
                }
                println!("seed {seed} held: {} steps, trace {:016x}", report.steps, report.trace_hash);
            }
            Err(failure) => {
                let Failure { what, report } = *failure;
                report.lines.iter().for_each(|l| println!("{l}"));
                println!("seed {seed} failed: {what}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
