//! Backends outlive their clients: the next client finds nothing of the last, and there are no more than there may be.

mod support;

use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::raw::Raw;
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

/// What a server keeps for good after SET of a name with a dot is no business of the next client: it reads NULL, as on a
/// new connection, and not an empty string.
#[test]
fn a_custom_setting_is_unknown_to_the_next_client() {
    let sandbox = Sandbox::start(Options { config: "[shards]\ncount = 1\n".into(), ..Options::default() });
    let table = "CREATE TABLE t (a int PRIMARY KEY)";
    sandbox.psql_ok(&["-q", "-c", table]);
    let look = "SELECT current_setting('my.var', true) IS NULL FROM (SELECT txid_current()) t";
    let read = "SELECT current_setting('my.var', true) IS NULL FROM (SELECT count(*) FROM t) t";
    for set in ["SET my.var = 'x'", "SELECT set_config('my.var', 'x', false)", "BEGIN; SET LOCAL my.var = 'x'; COMMIT"]
    {
        text(psql(&sandbox, "c", &format!("{ON_MAIN}; {set}; SELECT count(*) FROM t")));
        for _ in 0..6 {
            assert_eq!(text(psql(&sandbox, "c", look)), "t", "{set}");
            assert_eq!(text(psql(&sandbox, "c", read)), "t", "{set}");
        }
    }
}

/// What a trigger reads of a custom setting is the same on all nodes: set, set and reset, never heard of.
#[test]
fn a_custom_setting_is_the_same_on_all_nodes_while_a_script_is_applied() {
    let sandbox = Sandbox::start(Options { config: "[shards]\ncount = 1\n".into(), ..Options::default() });
    let tables = "CREATE TABLE t (a int PRIMARY KEY, who text); \
        CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS \
        $$ BEGIN NEW.who := coalesce(current_setting('app.who', true), 'nobody'); RETURN NEW; END $$; \
        CREATE TRIGGER who BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION who()";
    sandbox.psql_ok(&["-q", "-c", tables]);
    let insert = "INSERT INTO t SELECT count(*) + 1 FROM t";
    let sessions = [
        format!("{insert}; SET app.who = 'a'; {insert}; RESET app.who; {insert}"),
        insert.to_owned(),
        format!("SELECT set_config('app.who', 'b', false); {insert}"),
        insert.to_owned(),
        format!("BEGIN; SET LOCAL app.who = 'c'; {insert}; COMMIT; {insert}"),
        format!("BEGIN; SET LOCAL app.who = 'd'; {insert}; ROLLBACK; {insert}"),
        insert.to_owned(),
        format!("BEGIN; SELECT set_config('app.who', 'e', true); {insert}; COMMIT; {insert}"),
        insert.to_owned(),
    ];
    for session in sessions {
        // Each statement by itself, as psql -c would take them for one transaction.
        let steps: Vec<&str> = session.split("; ").flat_map(|s| ["-c", s]).collect();
        sandbox.psql_ok(&[&["-q", "-o", "/dev/null"][..], &steps].concat());
    }
    let found = "SELECT string_agg(who, ',' ORDER BY a) FROM t";
    let wanted = "nobody,a,,nobody,b,nobody,c,,,nobody,e,,nobody";
    assert_eq!(sandbox.on_nodes("postgres", found), [wanted; 3]);
    let mut with_options = sandbox.program("psql");
    with_options.args(["-X", "-q", "-c", insert]).env("PGOPTIONS", "-c app.who=f");
    assert!(with_options.output().unwrap().status.success());
    let wanted = format!("{wanted},f");
    assert_eq!(sandbox.on_nodes("postgres", found), [wanted.as_str(); 3]);
    sandbox.assert_nodes_equal("postgres");
}

fn count(sandbox: &Sandbox, node: usize, condition: &str) -> usize {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {condition}");
    sandbox.connect_node(node, "postgres").value(&sql).unwrap().parse().unwrap()
}

fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !there() {
        assert!(Instant::now() < end, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sessions keep their lanes on main; what is applied on the replicas goes through as few backends as are busy at once.
#[test]
fn a_thousand_writing_sessions_share_a_few_appliers() {
    let sandbox = Sandbox::start(Options::default());
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE t (a int PRIMARY KEY)"]);
    let target = sandbox.summary.proxy();
    for hundred in 0..10 {
        let mut sessions: Vec<Raw> = (0..100).map(|_| Raw::login(&target, "postgres")).collect();
        for (i, raw) in sessions.iter_mut().enumerate() {
            raw.run(&format!("INSERT INTO t VALUES ({})", 100 * hundred + i));
        }
        for node in 1..3 {
            let appliers = count(&sandbox, node, "application_name = 'pglockstep applier'");
            assert!((1..=4).contains(&appliers), "{appliers} appliers on node {node}");
        }
    }
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["1000"; 3]);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn idle_backends_live_for_connection_life_time_and_min_pool_stay() {
    let config = "[shards]\ncount = 1\n[pool]\nconnection_life_time = \"1s\"\nmin_pool = 2\nmax_pool = 50\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let mut target = sandbox.summary.proxy();
    target.user = sandbox.summary.user.clone();
    let mut sessions: Vec<Raw> = (0..8).map(|_| Raw::login(&target, "postgres")).collect();
    sessions.iter_mut().for_each(|raw| raw.run("SELECT txid_current()"));
    let lanes = "backend_type = 'client backend' AND application_name = '' AND pid <> pg_backend_pid()";
    assert!(count(&sandbox, 0, lanes) >= 8);
    drop(sessions);
    wait_until("an end of the idle backends", || count(&sandbox, 0, lanes) <= 2);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(count(&sandbox, 0, lanes), 2);
}

/// One that was idle for longer than `server_check_delay` is asked for a sign of life; the next client gets it all the
/// same. One whose reset fails is closed.
#[test]
fn a_backend_is_checked_after_a_while_and_closed_if_it_cannot_forget() {
    let config = "[shards]\ncount = 1\n[pool]\nserver_check_delay = \"1s\"\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let pid = || text(psql(&sandbox, "k", ON_MAIN));
    let first = pid();
    // Longer than the delay: it is asked.
    wait_until("the backend's return", || {
        std::thread::sleep(Duration::from_millis(1200));
        pid() == first
    });
    // Terminated while idle: the next client gets another one and hears nothing of it.
    let ended = sandbox.connect_node(0, "postgres").value(&format!("SELECT pg_terminate_backend({first})")).unwrap();
    assert_eq!(ended, "t");
    assert_ne!(pid(), first);

    let config = "[shards]\ncount = 1\n[pool]\nreset_query_list = [\"DISCARD ALL\", \"SELECT 1/0\"]\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let pids: std::collections::BTreeSet<String> = (0..4).map(|_| text(psql(&sandbox, "k", ON_MAIN))).collect();
    assert_eq!(pids.len(), 4, "a backend that could not reset itself was used again");
}
