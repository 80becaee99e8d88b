//! What the sequencer's gate costs: `cargo run --release --example gate` (`--json` for programs).
//!
//! Each thread plays a shard with one session that enters, and leaves at once; nothing is done inside, so the figures
//! are those of the gate alone, at its busiest. Who has to wait lets other threads run and polls again, as a shard
//! does that has other sessions to serve. A commit takes a number inside, and opens and closes a window.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use pglockstep::sequencer::{Entry, Pass, Sequencer};
use serde::Serialize;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Of so many guards one is timed: two looks at the clock cost as much as a guard.
const TIMED: u64 = 16;
/// Longest time told from longer ones, in ns.
const LONGEST: u64 = 10_000_000_000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Measures guards per second and the time from asking to having left.
#[derive(Parser)]
struct Arguments {
    /// Numbers of threads, each measured.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    threads: Vec<usize>,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Who enters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Classes {
    Snapshots,
    Commits,
    /// Each thread by turns.
    Mixed,
}

/// One line of the report.
#[derive(Serialize)]
struct Line {
    classes: Classes,
    threads: usize,
    guards_per_second: f64,
    p50_ns: u64,
    p99_ns: u64,
    p999_ns: u64,
    waited_percent: f64,
    allocations: u64,
}

/// What one thread has seen.
struct Seen {
    guards: u64,
    waited: u64,
    times: Histogram<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut lines = Vec::new();
    for classes in Classes::value_variants() {
        for threads in &arguments.threads {
            lines.push(measure(*classes, *threads, Duration::from_secs(arguments.seconds))?);
        }
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    let heads = ["classes", "threads", "guards/s", "p50 ns", "p99 ns", "p99.9 ns", "waited %", "allocations"];
    println!("{}", heads.map(|head| format!("{head:>12}")).concat());
    for l in lines {
        let classes = format!("{:?}", l.classes).to_lowercase();
        print!("{classes:>12}{:>12}{:>12.0}", l.threads, l.guards_per_second);
        println!("{:>12}{:>12}{:>12}{:>12.1}{:>12}", l.p50_ns, l.p99_ns, l.p999_ns, l.waited_percent, l.allocations);
    }
    Ok(())
}

fn measure(classes: Classes, threads: usize, length: Duration) -> Result<Line> {
    // Without nodes nobody has a commit's number to acknowledge: the window never fills.
    let sequencer = Arc::new(Sequencer::new(0, 1 << 16, 0));
    let (end, start, stopped) = (AtomicBool::new(false), Barrier::new(threads + 1), Barrier::new(threads + 1));
    let (seen, allocations, lasted) = std::thread::scope(|scope| {
        let shards: Vec<_> = (0..threads)
            .map(|shard| {
                let (sequencer, end, start, stopped) = (&sequencer, &end, &start, &stopped);
                scope.spawn(move || -> Result<Seen> {
                    let mut seen = Seen { guards: 0, waited: 0, times: Histogram::new_with_bounds(1, LONGEST, 3)? };
                    start.wait();
                    while !end.load(Ordering::Relaxed) {
                        let commit = match classes {
                            Classes::Snapshots => false,
                            Classes::Commits => true,
                            Classes::Mixed => (seen.guards + shard as u64) % 2 == 0,
                        };
                        // The odd factor has a timed guard be of either class.
                        let timed = (seen.guards % (TIMED + 1) == 0).then(Instant::now);
                        seen.waited += u64::from(guard(sequencer, shard, commit)?);
                        if let Some(began) = timed {
                            seen.times.saturating_record(u64::try_from(began.elapsed().as_nanos())?);
                        }
                        seen.guards += 1;
                    }
                    stopped.wait();
                    Ok(seen)
                })
            })
            .collect();
        start.wait();
        let (began, before) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
        std::thread::sleep(length);
        end.store(true, Ordering::Relaxed);
        stopped.wait();
        let (allocations, lasted) = (ALLOCATIONS.load(Ordering::Relaxed) - before, began.elapsed());
        let seen: Vec<_> = shards.into_iter().map(|s| s.join().map_err(|_| "a thread has panicked")?).collect();
        (seen, allocations, lasted)
    });
    let mut all = Seen { guards: 0, waited: 0, times: Histogram::new_with_bounds(1, LONGEST, 3)? };
    for seen in seen {
        let seen = seen?;
        all.guards += seen.guards;
        all.waited += seen.waited;
        all.times.add(seen.times)?;
    }
    Ok(Line {
        classes,
        threads,
        guards_per_second: all.guards as f64 / lasted.as_secs_f64(),
        p50_ns: all.times.value_at_quantile(0.5),
        p99_ns: all.times.value_at_quantile(0.99),
        p999_ns: all.times.value_at_quantile(0.999),
        waited_percent: 100.0 * all.waited as f64 / all.guards as f64,
        allocations,
    })
}

/// Enters and leaves. True: it had to wait.
fn guard(sequencer: &Arc<Sequencer>, shard: usize, commit: bool) -> Result<bool> {
    let waited = if commit {
        let (pass, waited) = entered(sequencer.enter_commit(shard)?);
        sequencer.open_commit()?;
        drop(pass);
        waited
    } else {
        entered(sequencer.enter_snapshot(shard)?).1
    };
    // Every shard does this once per turn. Nobody sleeps here, so nobody is rung.
    let _ = (sequencer.is_due(shard), sequencer.waiters_to_ring(shard));
    Ok(waited)
}

fn entered<G: Pass>(entry: Entry<G>) -> (G, bool) {
    let mut waiting = match entry {
        Entry::In(pass) => return (pass, false),
        Entry::Wait(waiting) => waiting,
    };
    loop {
        std::thread::yield_now();
        waiting = match waiting.poll() {
            Ok(pass) => return (pass, true),
            Err(waiting) => waiting,
        };
    }
}
