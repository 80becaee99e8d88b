//! System calls and allocations of the proxy per relayed message, in steady state:
//! `cargo run --release --example relay -- --io-driver ring`.
//!
//! The proxy runs inside this process, in front of three servers of its own, and pgbench reads through it (`-S`). Each
//! figure is the difference of a long run and a short one, divided by the transactions that the long one has more:
//! connecting, logging in and warming up cancel out. Allocations are counted by the allocator of this process, system
//! calls by perf (its tracepoint raw_syscalls:sys_enter needs root or CAP_PERFMON); without it they are left out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use inside::{Inside, Result};
use pglockstep::sandbox::process::{Signal, signal};
use pglockstep::sandbox::{SandboxArgs, SandboxDriver};
use pglockstep::{config, shard};

mod inside;

/// Transactions of each client before those that are measured.
const SHORT: u64 = 300;
/// Time for perf to attach to all threads.
const PERF_START: Duration = Duration::from_millis(500);

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
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Counts what the proxy does for each message that it relays.
#[derive(Parser)]
struct Arguments {
    /// Driver of the shards' event loops.
    #[arg(long, value_enum, default_value = "auto")]
    io_driver: SandboxDriver,
    /// Shards; 0: one per core.
    #[arg(long, default_value_t = 0)]
    shards: usize,
    /// Numbers of clients, each measured.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    clients: Vec<u64>,
    /// Measured transactions of each client.
    #[arg(long, default_value_t = 3000)]
    transactions: u64,
}

/// pgbench's protocols, and the messages that one of its reads consists of.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    /// Query; RowDescription, DataRow, CommandComplete, ReadyForQuery.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync; ParseComplete, BindComplete and the four above.
    Extended,
    /// The same without Parse.
    Prepared,
}

impl Protocol {
    fn messages(self) -> f64 {
        match self {
            Protocol::Simple => 5.0,
            Protocol::Extended => 11.0,
            Protocol::Prepared => 9.0,
        }
    }
}

/// What was counted.
#[derive(Clone, Copy)]
struct Counts {
    allocations: u64,
    system_calls: Option<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (io_driver, shards) = (arguments.io_driver, Some(arguments.shards));
    Inside::run(|args| SandboxArgs { io_driver, shards, ..args }, |inside| measure(&arguments, inside))
}

fn measure(arguments: &Arguments, inside: &Inside) -> Result<()> {
    println!("io_driver {}", shard::choice::choose(config::load(&inside.file)?.shards.io_driver)?);
    inside.run_pgbench(&["-i", "-q", "-s", "10"])?;
    println!("{:<10} {:>8} {:>24} {:>24}", "", "", "system calls", "allocations");
    println!("{:<10} {:>8} {:>12}{:>12} {:>12}{:>12}", "protocol", "clients", "/read", "/message", "/read", "/message");
    for protocol in Protocol::value_variants() {
        for clients in &arguments.clients {
            let run = |transactions: u64| counted(inside, *protocol, *clients, transactions);
            // What is read and proven once (catalogues, statements) is no part of the steady state.
            run(SHORT)?;
            let (short, long) = (run(SHORT)?, run(SHORT + arguments.transactions)?);
            let reads = (clients * arguments.transactions) as f64;
            let each = |long: u64, short: u64| long.saturating_sub(short) as f64 / reads;
            let calls = long.system_calls.zip(short.system_calls).map(|(long, short)| each(long, short));
            let allocations = each(long.allocations, short.allocations);
            let name = format!("{protocol:?}").to_lowercase();
            let shown = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.2}"));
            println!(
                "{name:<10} {clients:>8} {:>12}{:>12} {:>12}{:>12}",
                shown(calls),
                shown(calls.map(|n| n / protocol.messages())),
                shown(Some(allocations)),
                shown(Some(allocations / protocol.messages())),
            );
        }
    }
    Ok(())
}

/// One run of pgbench, and what happened in this process meanwhile.
fn counted(inside: &Inside, protocol: Protocol, clients: u64, transactions: u64) -> Result<Counts> {
    let (mode, clients, transactions) =
        (format!("{protocol:?}").to_lowercase(), clients.to_string(), transactions.to_string());
    let output = inside.directory().join("perf");
    let perf = start_perf(&output);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let ran = inside.run_pgbench(&["-n", "-S", "-M", &mode, "-c", &clients, "-t", &transactions]);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let system_calls = perf.and_then(|perf| end_perf(perf, &output));
    ran.map(|()| Counts { allocations, system_calls })
}

/// Counts in the threads that there are, not in children: pgbench is one.
fn start_perf(output: &Path) -> Option<Child> {
    let mut command = Command::new("perf");
    command.args(["stat", "-i", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &std::process::id().to_string()]);
    let child = command.arg("-o").arg(output).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
    std::thread::sleep(PERF_START);
    child
}

/// The count; none if perf may not count here.
fn end_perf(mut perf: Child, output: &Path) -> Option<u64> {
    signal(perf.id(), Signal::INT);
    perf.wait().ok()?;
    let text = std::fs::read_to_string(output).ok()?;
    text.lines().find(|line| line.contains("raw_syscalls"))?.split(',').next()?.parse().ok()
}
