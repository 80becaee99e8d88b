//! `pglockstep demo`: the tutorial as a person would run it, on a sandbox of its own, each step with its command and
//! outcome.
//!
//! Later capabilities add their steps to [`STEPS`].

use super::client::{Client, Target};
use super::compare::compare_nodes;
use super::process::{Interrupt, Signal, free_ports, signal};
use super::progress::Progress;
use super::running::Sandbox;
use super::{Result, SandboxArgs, SandboxMode, say};
use comfy_table::{Table, presets};
use std::process::Stdio;
use std::time::Duration;

/// The database that the demo makes.
const DATABASE: &str = "demo";

/// One step: its heading, and what it does. An error ends the demo.
type Step = (&'static str, fn(&Stage) -> Result<()>);

const STEPS: &[Step] = &[
    ("Create a database, through the proxy", create_database),
    ("Fill it with pgbench's tables", initialize),
    ("The tables are there on every node (asked directly, past the proxy)", list_tables),
    ("Eight clients for ten seconds", run_pgbench),
    ("The money on every node", sum_balances),
    ("Row counts and row hashes of all tables on every node", compare_all),
    ("The nodes, as every client can see them", show_nodes),
    ("Eight clients again; after four seconds main is stopped as hard as can be", lose_main),
    ("The nodes now: another one is main", show_nodes),
    ("Row counts and row hashes on the nodes that stay", compare_rest),
];

/// How long clients work before main is stopped.
const BEFORE: Duration = Duration::from_secs(4);

/// What the steps work on.
struct Stage<'a> {
    sandbox: &'a Sandbox,
    interrupt: &'a Interrupt,
}

/// Runs the demo; an error says which step did not hold. `args` comes from [`demo_args`] or the command line.
pub fn demo(args: SandboxArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let sandbox = Sandbox::start(&args, &interrupt)?;
    say(&sandbox.description());
    let stage = Stage { sandbox: &sandbox, interrupt: &interrupt };
    for (number, (heading, step)) in (1..).zip(STEPS) {
        interrupt.check()?;
        say(&format!("\n{number}. {heading}"));
        step(&stage).map_err(|e| format!("step {number} ({heading}) failed: {e}"))?;
    }
    say("\nEverything held: the nodes are identical, and no client noticed that main was lost but for conflicts.");
    Ok(())
}

/// A sandbox of three nodes on free ports, in `snapshot_isolation`.
pub fn demo_args() -> Result<SandboxArgs> {
    match free_ports(2)?[..] {
        [port, pcp_port] => {
            Ok(SandboxArgs { mode: SandboxMode::SnapshotIsolation, ..SandboxArgs::on_port(port, pcp_port) })
        }
        _ => Err("no two free ports".into()),
    }
}

impl Stage<'_> {
    fn proxy(&self) -> Target {
        self.sandbox.summary().proxy()
    }

    fn nodes(&self) -> Vec<Target> {
        self.sandbox.summary().direct()
    }

    /// Runs one of PostgreSQL's programs against the proxy, with its command and output shown.
    fn program(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let proxy = self.proxy();
        let port = proxy.port.to_string();
        let mut all = vec!["-h", proxy.host.as_str(), "-p", &port, "-U", &proxy.user];
        all.extend_from_slice(arguments);
        say(&format!("$ {program} {}", all.join(" ")));
        let shown = Progress::start(format!("{program} is at work"));
        let mut command = self.sandbox.programs().command(program);
        command.args(&all).env("PGPASSWORD", &proxy.password).stdin(Stdio::null());
        let output = command.output().map_err(|e| format!("cannot run {program}: {e}"))?;
        drop(shown);
        self.interrupt.check()?;
        for text in [&output.stdout, &output.stderr] {
            String::from_utf8_lossy(text).lines().for_each(|line| say(&format!("  {line}")));
        }
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{program}: {}", output.status).into()),
        }
    }

    /// Asks every node the same and shows the answers side by side.
    fn ask_nodes(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        say(&format!("$ psql -p NODE -d {DATABASE} -c \"{sql}\""));
        let ask = |target: &Target| -> Result<Vec<String>> {
            let rows = Client::connect(target, DATABASE)?.rows(sql)?;
            Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
        };
        let answers = self.nodes().iter().map(ask).collect::<Result<Vec<_>>>()?;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header((0..answers.len()).map(|id| format!("node {id}")));
        let longest = answers.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..longest {
            table.add_row(answers.iter().map(|answer| answer.get(line).cloned().unwrap_or_default()));
        }
        say(&table.to_string());
        Ok(answers)
    }
}

fn all_equal(answers: &[Vec<String>]) -> Result<()> {
    match answers.windows(2).all(|pair| pair[0] == pair[1]) && answers.first().is_some_and(|a| !a.is_empty()) {
        true => Ok(()),
        false => Err("the nodes' answers differ, or are empty".into()),
    }
}

fn create_database(stage: &Stage) -> Result<()> {
    stage.program("createdb", &[DATABASE])?;
    say("  done");
    Ok(())
}

fn initialize(stage: &Stage) -> Result<()> {
    stage.program("pgbench", &["-i", "-q", "-s", "5", DATABASE])
}

fn list_tables(stage: &Stage) -> Result<()> {
    let sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1";
    all_equal(&stage.ask_nodes(sql)?)
}

fn run_pgbench(stage: &Stage) -> Result<()> {
    // At REPEATABLE READ clients that meet at one row run their transaction again, as on any server.
    stage.program("pgbench", &["-c", "8", "-T", "10", "--max-tries=1000", DATABASE])
}

fn sum_balances(stage: &Stage) -> Result<()> {
    all_equal(&stage.ask_nodes("SELECT sum(abalance) FROM pgbench_accounts")?)
}

fn show_nodes(stage: &Stage) -> Result<()> {
    stage.program("psql", &["-X", "-c", "show pool_nodes", DATABASE])
}

/// pgbench fails if a client is cut off, or is told of anything but a conflict, after which it tries again.
fn lose_main(stage: &Stage) -> Result<()> {
    let main = stage.sandbox.summary().nodes.first().map(|n| n.pid).ok_or("there is no node")?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(BEFORE);
            say("$ pg_ctl -D node0 -m immediate stop");
            signal(main, Signal::QUIT);
        });
        run_pgbench(stage)
    })
}

fn compare_all(stage: &Stage) -> Result<()> {
    compare(&stage.nodes(), 0)
}

fn compare_rest(stage: &Stage) -> Result<()> {
    compare(&stage.nodes()[1..], 1)
}

/// `first`: id of the first of them.
fn compare(nodes: &[Target], first: usize) -> Result<()> {
    let comparison = compare_nodes(nodes, DATABASE)?;
    say(&comparison.to_text_from(first));
    match comparison.is_equal() && !comparison.tables.is_empty() {
        true => Ok(()),
        false => Err("the nodes differ".into()),
    }
}
