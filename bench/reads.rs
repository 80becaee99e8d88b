//! Single reads beside writers in `snapshot_isolation`, by `busy_reads`:
//! `cargo run --release --example reads` (`--json` for programs).
//!
//! The proxy runs inside this process, in front of three servers of its own. pgbench writes (`-N`: no hot rows), readers
//! read one row each by its key, with a prepared statement, as fast as they are answered. Both ways are measured by turns,
//! several times in one run: compare them with each other, not with another run.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use pglockstep::config;
use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::process::{Interrupt, Signal, free_ports, signal};
use pglockstep::sandbox::running::Sandbox;
use pglockstep::sandbox::{SandboxArgs, SandboxMode};
use pglockstep::shard;
use tokio_postgres::NoTls;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Time for the proxy to answer, and for a reload to be in force.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
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
    let interrupt = Interrupt::default();
    let directory = tempfile::tempdir()?;
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let ports = free_ports(2)?;
    let args = SandboxArgs {
        mode: SandboxMode::SnapshotIsolation,
        dir: Some(directory.path().join("sandbox")),
        ..SandboxArgs::on_port(ports[0], ports[1])
    };
    let sandbox = Sandbox::start_servers(&args, &interrupt)?;
    let file = directory.path().join("sandbox/pglockstep.toml");
    let configured = config::load(&file)?;
    let read_again = file.clone();
    let proxy = std::thread::spawn(move || shard::run::run(configured, &read_again, Arc::new(|_| {})));
    let measured = measure(&arguments, &sandbox, &file);
    // The proxy ends as it would by Ctrl-C; nobody is connected any more.
    signal(std::process::id(), Signal::TERM);
    proxy.join().map_err(|_| "the proxy has panicked")??;
    measured
}

fn measure(arguments: &Arguments, sandbox: &Sandbox, file: &Path) -> Result<()> {
    let target = sandbox.summary().proxy();
    let end = Instant::now() + READY_TIMEOUT;
    while let Err(error) = Client::connect(&target, "postgres").and_then(|client| client.value("SELECT 1")) {
        if Instant::now() > end {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let init = pgbench(sandbox, &target, &["-i", "-q", "-s", &SCALE.to_string()])?.wait_with_output()?;
    if !init.status.success() {
        return Err(format!("pgbench -i: {}", String::from_utf8_lossy(&init.stderr)).into());
    }
    if !arguments.json {
        println!(
            "{:<10} {:>6} {:>10} {:>10} {:>10} {:>10} {:>12}",
            "busy_reads", "round", "reads/s", "p50 us", "p99 us", "max us", "writes tps"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for round in 1..=arguments.rounds {
        for way in ["main", "wait"] {
            configure(file, way)?;
            let time = Duration::from_secs(arguments.seconds);
            let (clients, seconds) = (arguments.writers.to_string(), (arguments.seconds + 1).to_string());
            let writers = ["-n", "-N", "-M", "prepared", "--max-tries", "100", "-c", &clients, "-T", &seconds];
            let writers = (arguments.writers > 0).then(|| pgbench(sandbox, &target, &writers)).transpose()?;
            let reads = runtime.block_on(read(&target, arguments.readers, time))?;
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

fn pgbench(sandbox: &Sandbox, target: &Target, arguments: &[&str]) -> Result<Child> {
    let mut command = sandbox.programs().command("pgbench");
    command.env("PGHOST", &target.host).env("PGPORT", target.port.to_string());
    command.env("PGUSER", &target.user).env("PGPASSWORD", &target.password).env("PGDATABASE", "postgres");
    Ok(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// What pgbench says of its transactions, when it has ended.
fn tps_of(pgbench: Child) -> Result<f64> {
    let output = pgbench.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps = told.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    tps.ok_or_else(|| format!("pgbench: {told}{}", String::from_utf8_lossy(&output.stderr)).into())
}
