//! Backends outlive their clients: the next client finds nothing of the last, and there are no more than there may be.

mod support;

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Options, Sandbox};

/// psql with this application_name, which makes a kind of client of its own.
fn psql(sandbox: &Sandbox, application: &str, sql: &str) -> Command {
    let mut command = sandbox.program("psql");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGAPPNAME", application);
    command
}

fn text(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Pid of main's backend; something that only main can do.
const ON_MAIN: &str = "SELECT pg_backend_pid() FROM (SELECT txid_current()) t";

#[test]
fn the_next_client_gets_the_backend_and_nothing_of_the_last_ones_state() {
    let sandbox = Sandbox::start(Options::default());
    let state = "SET work_mem = '1234kB'; CREATE TEMP TABLE left_over (a int); PREPARE left_over AS SELECT 1; \
                 LISTEN left_over; SELECT pg_advisory_lock(7); SET ROLE pg_monitor";
    let first = text(psql(&sandbox, "a", &format!("{ON_MAIN}; {state}")));
    let pid = first.lines().next().unwrap().to_owned();
    // Each shard has pools of its own, and the kernel chooses the shard.
    let look = "SELECT current_setting('work_mem'), current_user, to_regclass('left_over') IS NULL, \
                (SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_over'), \
                (SELECT count(*) FROM pg_listening_channels()), \
                (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7)";
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = text(psql(&sandbox, "a", &format!("{ON_MAIN}; {look}")));
        let (backend, rest) = seen.split_once('\n').unwrap();
        assert_eq!(rest, "4MB|postgres|t|0|0|0");
        if backend == pid {
            break;
        }
        assert!(Instant::now() < end, "no client got backend {pid} again");
    }
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn a_client_that_only_reads_has_no_backend_on_main() {
    // Nothing is kept idle, so what main shows is in use.
    let sandbox = Sandbox::start(Options { config: "[pool]\nmax_pool = 0\n".into(), ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE t (a int PRIMARY KEY)"]);
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reads'";
    let mut on_replicas = 0;
    for _ in 0..30 {
        let mut command = sandbox.program("psql");
        command.args(["-X", "-q", "-A", "-t"]).env("PGAPPNAME", "reads").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "SELECT count(*) FROM t;").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "0");
        let there: Vec<String> = (0..3).map(|n| sandbox.connect_node(n, "postgres").value(count).unwrap()).collect();
        drop(input);
        child.wait().unwrap();
        if there[0] == "0" {
            assert_eq!(there.iter().filter(|n| *n == "1").count(), 1, "{there:?}");
            on_replicas += 1;
        }
    }
    assert!(on_replicas > 5, "{on_replicas} of 30 sessions read without a backend on main");
}

#[test]
fn who_finds_the_pool_full_waits_for_a_turn_or_is_refused_after_queue_timeout() {
    let config = "[shards]\ncount = 1\n[pool]\npool_size = 2\nqueue_timeout = \"2s\"\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let sleep = |seconds: f32| format!("SELECT pg_sleep({seconds}) FROM (SELECT txid_current()) t");
    let start =
        |seconds| psql(&sandbox, "w", &sleep(seconds)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let wait_for_sleepers = |n: &str| {
        sandbox.wait_on_node(0, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", n);
    };
    let (one, two) = (start(1.0), start(6.0));
    wait_for_sleepers("2");
    // Its turn comes when the first is done; the next one's does not come in time.
    let three = start(6.0);
    let done = one.wait_with_output().unwrap();
    assert!(done.status.success());
    wait_for_sleepers("2");
    let begun = Instant::now();
    let four = start(0.0).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&four.stderr).into_owned();
    assert!(!four.status.success() && said.contains("too many backends") && said.contains("pool_size = 2"), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    for child in [two, three] {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
