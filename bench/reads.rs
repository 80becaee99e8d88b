//! Single reads beside writers in `snapshot_isolation`, by `busy_reads`:
//! `cargo run --release --example reads` (`--json` for programs).
//!
//! The proxy runs inside this process, in front of three servers of its own. pgbench writes (`-N`: no hot rows), readers
//! read one row each by its key, with a prepared statement, as fast as they are answered. Both ways are measured by turns,
//! several times in one run: compare them with each other, not with another run.

use std::error::Error;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use inside::{Inside, Result};
use pglockstep::sandbox::client::Target;
use pglockstep::sandbox::process::{Signal, signal};
use pglockstep::sandbox::{SandboxArgs, SandboxMode};
use tokio_postgres::NoTls;

mod inside;

/// Time for a reload to be in force.
const RELOAD: Duration = Duration::from_millis(500);
/// Rows of pgbench_accounts in each unit of its scale.
const ROWS: i32 = 100_000;
const SCALE: i32 = 5;

/// Measures single reads beside writers.
#[derive(Parser)]
struct Arguments {
    /// Clients that read.
    #[arg(long, default_value_t = 4)]
    readers: usize,
    /// Clients that write; 0: none.
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each way is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One JSON object for each measurement, instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mode = SandboxMode::SnapshotIsolation;
    Inside::run(|args| SandboxArgs { mode, ..args }, |inside| measure(&arguments, inside))
}

fn measure(arguments: &Arguments, inside: &Inside) -> Result<()> {
    inside.run_pgbench(&["-i", "-q", "-s", &SCALE.to_string()])?;
    if !arguments.json {
        println!(
            "{:<10} {:>6} {:>10} {:>10} {:>10} {:>10} {:>12}",
            "busy_reads", "round", "reads/s", "p50 us", "p99 us", "max us", "writes tps"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for round in 1..=arguments.rounds {
        for way in ["main", "wait"] {
            configure(&inside.file, way)?;
            let time = Duration::from_secs(arguments.seconds);
            let (clients, seconds) = (arguments.writers.to_string(), (arguments.seconds + 1).to_string());
            let writers = ["-n", "-N", "-M", "prepared", "--max-tries", "100", "-c", &clients, "-T", &seconds];
            let writers = (arguments.writers > 0).then(|| inside.pgbench(&writers).spawn()).transpose()?;
            let reads = runtime.block_on(read(&inside.target, arguments.readers, time))?;
            let tps = writers.map_or(Ok(0.0), tps_of)?;
            let each = |q: f64| reads.value_at_quantile(q);
            let rate = reads.len() as f64 / time.as_secs_f64();
            let (p50, p99, max) = (each(0.5), each(0.99), reads.max());
            if arguments.json {
                println!(
                    "{{\"busy_reads\":\"{way}\",\"round\":{round},\"reads_per_second\":{rate:.0},\"p50_us\":{p50},\"p99_us\":{p99},\"max_us\":{max},\"writes_tps\":{tps:.0}}}"
                );
            } else {
                println!("{way:<10} {round:>6} {rate:>10.0} {p50:>10} {p99:>10} {max:>10} {tps:>12.0}");
            }
        }
    }
    Ok(())
}

/// Takes the key over by a reload.
fn configure(file: &Path, way: &str) -> Result<()> {
    let mut table: toml::Table = std::fs::read_to_string(file)?.parse()?;
    let balance = table.entry("load_balance").or_insert_with(|| toml::Table::new().into());
    balance.as_table_mut().ok_or("load_balance is no table")?.insert("busy_reads".into(), way.into());
    std::fs::write(file, table.to_string())?;
    signal(std::process::id(), Signal::HUP);
    std::thread::sleep(RELOAD);
    Ok(())
}

/// All readers, for so long. Microseconds from the request to its answer.
async fn read(target: &Target, readers: usize, time: Duration) -> Result<Histogram<u64>> {
    let mut tasks = tokio::task::JoinSet::new();
    for reader in 0..readers {
        let (client, connection) = tokio_postgres::connect(&target.url("postgres"), NoTls).await?;
        tokio::spawn(connection);
        tasks.spawn(async move {
            let mut latencies: Histogram<u64> = Histogram::new(3)?;
            let statement = client.prepare("SELECT abalance FROM pgbench_accounts WHERE aid = $1").await?;
            let end = Instant::now() + time;
            let mut row = reader as i32 * 7919;
            while Instant::now() < end {
                row = (row + 104_729) % (ROWS * SCALE);
                let began = Instant::now();
                client.query_one(&statement, &[&(row + 1)]).await?;
                latencies.record(began.elapsed().as_micros() as u64)?;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(latencies)
        });
    }
    let mut all = Histogram::new(3)?;
    while let Some(one) = tasks.join_next().await {
        all.add(one??)?;
    }
    Ok(all)
}

/// What pgbench says of its transactions, when it has ended.
fn tps_of(pgbench: Child) -> Result<f64> {
    let output = pgbench.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| format!("pgbench: {told}{}", String::from_utf8_lossy(&output.stderr)).into())
}
