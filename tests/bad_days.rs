//! Bad input and bad days: whatever a client sends or whoever vanishes, the others go on and nothing is left behind.

mod support;

use pglockstep::sandbox::client::Target;
use pglockstep::sandbox::process::{Signal, signal};
use pglockstep::wire::error::ErrorFields;
use std::path::Path;
use std::time::{Duration, Instant};
use support::raw::{Raw, V3_0, message, packet, startup};
use support::{Options, Sandbox};

/// Code of a CancelRequest, an SSLRequest and a GSSENCRequest.
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

fn with_config(config: &str) -> Sandbox {
    Sandbox::start(Options { config: config.into(), ..Options::default() })
}

/// Sends `bytes` on a new connection and returns what it was refused with; it must be closed.
fn refused(target: &Target, bytes: &[u8]) -> Option<ErrorFields> {
    let mut raw = Raw::open(target);
    raw.write(bytes);
    let (error, closed) = raw.refusal();
    assert!(closed, "{} is not refused", bytes.escape_ascii());
    error
}

/// Ends a session as a client should, and waits until the proxy has done the same.
fn leave(mut raw: Raw) {
    raw.send(b'X', b"");
    assert!(raw.message().is_none());
}

fn assert_alive(sandbox: &Sandbox) {
    assert!(Path::new(&format!("/proc/{}", sandbox.proxy_pid())).exists(), "the proxy has ended");
    assert_eq!(sandbox.connect("postgres").value("SELECT 'alive'").unwrap(), "alive");
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn malformed_messages_cost_one_connection_and_nothing_else() {
    let sandbox = with_config("[authentication]\nauthentication_timeout = '1500ms'\n");
    let proxy = sandbox.summary.proxy();
    let code = |e: Option<ErrorFields>| e.map_or_else(String::new, |e| e.sqlstate);
    sandbox.psql_ok(&["-qc", "CREATE TABLE t (a int PRIMARY KEY)"]);

    // Two start-ups that never end, one of them in the middle of its password exchange.
    let started = Instant::now();
    let mut silent = [Raw::open(&proxy), Raw::open(&proxy), Raw::open(&proxy)];
    silent[1].write(&startup(&[("user", "postgres")], V3_0)[..20]);
    silent[2].write(&startup(&[("user", "postgres")], V3_0));

    // Start-up.
    for (bytes, sqlstate) in [
        (b"GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_vec(), "08P01"),
        (startup(&[("user", "postgres"), ("options", &"x".repeat(10_001))], V3_0), "08P01"),
        (0xffff_ffffu32.to_be_bytes().to_vec(), "08P01"),
        (4u32.to_be_bytes().to_vec(), "08P01"),
        (packet(&[&V3_0.to_be_bytes()[..], b"user\0postgres\0"].concat()), "08P01"),
        (packet(&[&V3_0.to_be_bytes()[..], b"user\0postgres\0\0rest"].concat()), "08P01"),
        (packet(&[&V3_0.to_be_bytes()[..], b"user\0\xff\xfe\0\0"].concat()), "08P01"),
        (startup(&[("database", "postgres")], V3_0), "28000"),
        (startup(&[("user", "postgres")], 2 << 16), "0A000"),
        (startup(&[("user", "postgres")], 4 << 16), "0A000"),
        (startup(&[("user", "postgres"), ("replication", "true")], V3_0), "0A000"),
        (packet(&CANCEL.to_be_bytes()), "08P01"),
    ] {
        assert_eq!(code(refused(&proxy, &bytes)), sqlstate, "{}", bytes.escape_ascii());
    }

    // Instead of a password.
    for bytes in [
        message(b'Q', b"SELECT 1\0"),
        message(b'p', b""),
        message(b'p', b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x"),
        message(b'p', b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=x"),
        message(b'p', b"SCRAM-SHA-9\0\0\0\0\x09n,,n=,r=x"),
        message(b'p', &[b'x'; 1100]),
        b"p\0\0\0\x01".to_vec(),
        b"p\x7f\xff\xff\xff".to_vec(),
    ] {
        let bytes = [startup(&[("user", "postgres")], V3_0), bytes, message(b'p', b"again")].concat();
        assert_eq!(code(refused(&proxy, &bytes)), "08P01", "{}", bytes.escape_ascii());
    }

    // Once logged in: alone, and with a transaction open that has written.
    let bind = |rest: &[u8]| [&b"\0\0"[..], rest].concat();
    for (tag, body) in [
        (b'y', b"what?".to_vec()),
        (0, vec![]),
        (b'p', b"md5\0".to_vec()),
        (b'P', b"s\0SELECT 1".to_vec()),
        (b'P', b"s\0SELECT 1\0\xff\xff\0\0\0\x17".to_vec()),
        (b'P', b"".to_vec()),
        (b'B', b"no end".to_vec()),
        (b'B', bind(b"\0\0\0\x01\x7f\xff\xff\xffx")),
        (b'B', bind(b"\xff\xff")),
        (b'B', bind(b"\0\0\0\0\0")),
        (b'E', b"\0".to_vec()),
        (b'E', b"no end".to_vec()),
        (b'D', b"X\0".to_vec()),
        (b'D', b"S".to_vec()),
        (b'C', b"?s\0".to_vec()),
        (b'C', b"".to_vec()),
        (b'Q', b"SELECT 1".to_vec()),
        (b'Q', b"SELECT 1\0SELECT 2\0".to_vec()),
        (b'Q', b"".to_vec()),
    ] {
        for begin in ["", "BEGIN; INSERT INTO t VALUES (1)"] {
            let mut raw = Raw::login(&proxy, "postgres");
            raw.run(begin);
            let prepared = message(b'P', b"\0SELECT $1::text\0\0\0");
            raw.write(&if tag == b'B' { prepared } else { vec![] });
            raw.send(tag, &body);
            raw.send(b'S', b"");
            let (error, _) = raw.refusal();
            let what = format!("'{}' {}", tag.escape_ascii(), body.escape_ascii());
            assert_eq!(code(error), "08P01", "{what} {begin}");
        }
    }
    for header in [&b"Q\0\0\0\x03"[..], b"Q\x7f\xff\xff\xff", b"d\xff\xff\xff\xff"] {
        let mut raw = Raw::login(&proxy, "postgres");
        raw.run("BEGIN; INSERT INTO t VALUES (1)");
        raw.write(header);
        let (error, closed) = raw.refusal();
        assert_eq!((code(error).as_str(), closed), ("08P01", true), "{}", header.escape_ascii());
    }
    // COPY data out of turn is ignored, as PostgreSQL does; anything but COPY data in its turn is not.
    let mut raw = Raw::login(&proxy, "postgres");
    raw.send(b'd', b"1\n");
    raw.send(b'c', b"");
    raw.run("SELECT 1");
    raw.query("COPY t FROM STDIN");
    raw.until(b'G');
    raw.query("SELECT 1");
    assert_eq!(code(raw.refusal().0), "08P01");

    for raw in &mut silent {
        let (error, closed) = raw.refusal();
        assert!(error.is_none() && closed, "{error:?}");
    }
    assert!(started.elapsed() > Duration::from_millis(1400), "not so soon");
    assert_alive(&sandbox);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["0"; 3]);
}

#[test]
fn what_a_start_up_asks_for_is_answered_as_postgresql_answers() {
    let sandbox =
        with_config("[limits]\nnum_init_children = 5\n[logging]\nlog_connections = true\nlog_disconnections = true\n");
    let (proxy, node) = (sandbox.summary.proxy(), sandbox.nodes()[0].clone());

    // A newer minor protocol and options that nobody knows: byte for byte what a server of this version says.
    for (protocol, option) in [(V3_0 + 2, ""), (V3_0 + 2, "_pq_.new"), (V3_0, "_pq_.other"), (V3_0 + 9999, "_pq_.x")] {
        let mut parameters = vec![("user", "postgres"), ("database", "postgres")];
        parameters.extend((!option.is_empty()).then_some((option, "1")));
        let [ours, theirs] = [&proxy, &node].map(|target| {
            let mut raw = Raw::open(target);
            raw.write(&startup(&parameters, protocol));
            (raw.message().unwrap(), raw.message().unwrap())
        });
        assert_eq!(ours, theirs);
        assert_eq!(ours.0.0, b'v');
    }
    // No encryption is offered, and the connection goes on in clear.
    let mut raw = Raw::open(&proxy);
    for code in [SSL, GSS] {
        raw.write(&packet(&code.to_be_bytes()));
        assert_eq!(raw.bytes(1).unwrap(), b"N");
    }
    raw.write(&startup(&[("user", "postgres"), ("database", "postgres")], V3_0));
    assert_eq!(raw.message().unwrap().0, b'R');
    drop(raw);

    // A cancel needs the right key.
    let mut sleeper = Raw::login(&proxy, "postgres");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(6%' AND state = 'active'";
    sleeper.query("SELECT pg_sleep(60)");
    sandbox.wait_on_node(0, running, "1");
    let cancel = |pid: u32, secret: u32| {
        let mut raw = Raw::open(&proxy);
        raw.write(&packet(&[CANCEL.to_be_bytes(), pid.to_be_bytes(), secret.to_be_bytes()].concat()));
        assert!(raw.message().is_none(), "a cancel is not answered");
    };
    let (pid, secret) = sleeper.key;
    for (pid, secret) in [(pid, secret ^ 1), (pid + 1, secret), (0, secret), (u32::MAX, secret)] {
        cancel(pid, secret);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(sandbox.on_nodes("postgres", running)[0], "1", "a wrong key has cancelled the statement");
    cancel(pid, secret);
    assert_eq!(sleeper.refusal().0.unwrap().sqlstate, "57014");
    leave(sleeper);
    // Nor need the one who cancels stay to see what comes of it.
    for _ in 0..10 {
        let mut sleeper = Raw::login(&proxy, "postgres");
        let (pid, secret) = sleeper.key;
        sleeper.query("SELECT pg_sleep(60)");
        sandbox.wait_on_node(0, running, "1");
        let mut raw = Raw::open(&proxy);
        raw.write(&packet(&[CANCEL.to_be_bytes(), pid.to_be_bytes(), secret.to_be_bytes()].concat()));
        drop(raw);
        assert_eq!(sleeper.refusal().0.unwrap().sqlstate, "57014");
        leave(sleeper);
    }

    // Logins that fail, in PostgreSQL's own words.
    let wrong = [
        (Target { password: "wrong".into(), ..proxy.clone() }, "postgres"),
        (Target { user: "nobody".into(), ..proxy.clone() }, "postgres"),
        (proxy.clone(), "nowhere"),
    ];
    for (target, database) in wrong {
        let direct = Target { port: node.port, ..target.clone() };
        let [ours, mut theirs] = [&target, &direct].map(|target| Raw::try_login(target, database).1.unwrap_err());
        // The name of the function that reported it is the server's own.
        theirs.routine.clone_from(&ours.routine);
        assert_eq!(ours, theirs);
        assert!(["28P01", "3D000"].contains(&ours.sqlstate.as_str()));
    }

    // As many clients as num_init_children allows.
    let mut clients: Vec<Raw> = (0..5).map(|_| Raw::login(&proxy, "postgres")).collect();
    let error = Raw::try_login(&proxy, "postgres").1.unwrap_err();
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("53300", "sorry, too many clients already"));
    leave(clients.remove(0));
    clients.insert(0, Raw::login(&proxy, "postgres"));
    let port = clients[0].socket.local_addr().unwrap().port();
    drop(clients);
    sandbox.wait_for_log(&format!("user=postgres database=postgres host=127.0.0.1 port={port}"));
    let log = sandbox.whole_log();
    assert!(log.contains(&format!("connection received: host=127.0.0.1 port={port}\n")), "{log}");
    assert!(log.contains("connection authorized: user=postgres database=postgres"), "{log}");
    assert!(log.contains("disconnection: session time: 0:00:0"), "{log}");
    assert!(!log.contains("database=nowhere host="), "a session that was not let in has no end");
    assert_alive(&sandbox);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_running_on_any_node() {
    let sandbox = Sandbox::start(Options::default());
    let proxy = sandbox.summary.proxy();
    sandbox.psql_ok(&["-qc", "CREATE TABLE t (a int PRIMARY KEY, b text)", "-c", "INSERT INTO t VALUES (1, 'one')"]);
    let vanish = |stage: &str, act: &dyn Fn(&mut Raw)| {
        // Without and with a moment for the last message to get to work.
        for pause in [0, 200] {
            let mut raw = Raw::login(&proxy, "postgres");
            act(&mut raw);
            std::thread::sleep(Duration::from_millis(pause));
            drop(raw);
            eprintln!("a client has vanished {stage}");
            sandbox.assert_nothing_runs();
        }
    };
    vanish("in mid transaction", &|raw| raw.run("BEGIN; UPDATE t SET b = 'lost'"));
    vanish("in a failed transaction", &|raw| {
        raw.query("BEGIN; UPDATE t SET b = 'lost'; SELECT 1/0");
        assert_eq!(raw.refusal().0.unwrap().sqlstate, "22012");
    });
    vanish("in mid statement", &|raw| raw.query("SELECT pg_sleep(600)"));
    vanish("in mid statement of a transaction", &|raw| {
        raw.run("BEGIN; UPDATE t SET b = 'lost'");
        raw.query("SELECT pg_sleep(600)");
    });
    vanish("in mid statement of an extended batch", &|raw| {
        raw.send(b'P', b"\0UPDATE t SET b = 'lost' WHERE a = 1 AND pg_sleep(600) IS NOT NULL\0\0\0");
        raw.send(b'B', b"\0\0\0\0\0\0\0\0");
        raw.send(b'E', b"\0\0\0\0\0");
        raw.send(b'S', b"");
    });
    vanish("before its Sync", &|raw| {
        raw.send(b'P', b"\0UPDATE t SET b = 'lost'\0\0\0");
        raw.send(b'B', b"\0\0\0\0\0\0\0\0");
        raw.send(b'E', b"\0\0\0\0\0");
        raw.send(b'H', b"");
        raw.until(b'C');
    });
    vanish("in mid COPY", &|raw| {
        raw.query("COPY t FROM STDIN");
        raw.until(b'G');
        for n in 0..1000 {
            raw.send(b'd', format!("{n}\tlost\n").as_bytes());
        }
    });
    vanish("in mid COPY line", &|raw| {
        raw.run("BEGIN");
        raw.query("COPY t FROM STDIN");
        raw.until(b'G');
        raw.write(b"d\0\0\x10\0half a messa");
    });
    vanish("without reading an endless answer", &|raw| {
        raw.query("SELECT repeat('x', 1000) FROM generate_series(1, 3000) a, generate_series(1, 3000) b");
        raw.until(b'D');
    });
    vanish("with a thousand transactions under way", &|raw| {
        for _ in 0..1000 {
            raw.query("BEGIN; UPDATE t SET b = b WHERE a = 1; COMMIT");
        }
    });
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(a || b, ',') FROM t"), ["1one"; 3]);
    assert_alive(&sandbox);
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn a_terminated_backend_costs_its_own_session_at_most() {
    let sandbox = Sandbox::start(Options::default());
    let proxy = sandbox.summary.proxy();
    let mut other = Raw::login(&proxy, "postgres");
    other.run("CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)");
    let kill = "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity \
                WHERE application_name = 'pglockstep applier'";
    let replica = sandbox.connect_node(1, "postgres");

    // Idle appliers, between statements.
    for _ in 0..3 {
        other.run("UPDATE t SET b = b + 1");
        assert_ne!(replica.value(kill).unwrap(), "0");
        sandbox.wait_on_node(1, &kill.replace("pg_terminate_backend(pid)", "*"), "0");
    }
    other.run("UPDATE t SET b = b + 1");

    // An applier that waits for a lock, before COMMIT.
    for lock in ["LOCK TABLE t IN EXCLUSIVE MODE", "UPDATE t SET b = b WHERE a = 2"] {
        replica.rows(&format!("BEGIN; {lock}")).unwrap();
        other.query("BEGIN; UPDATE t SET b = b + 1 WHERE a < 3; COMMIT");
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE application_name = 'pglockstep applier' AND wait_event_type = 'Lock'";
        for _ in 0..2 {
            sandbox.wait_on_node(1, waiting, "1");
            let pid = sandbox.connect_node(1, "postgres");
            let pid = pid.value(&waiting.replace("count(*)", "pg_terminate_backend(pid), pg_sleep(0.2), pid")).unwrap();
            assert_eq!(pid, "t");
        }
        replica.rows("ROLLBACK").unwrap();
        other.until(b'Z');
    }
    sandbox.assert_nodes_equal("postgres");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(b::text, ',' ORDER BY a) FROM t"), ["6,6,4"; 3]);

    // The backend on main of one session: idle, in a transaction, at work.
    for (begin, statement) in
        [("", ""), ("BEGIN; UPDATE t SET b = -1", ""), ("BEGIN", "UPDATE t SET b = pg_backend_pid() FROM pg_sleep(60)")]
    {
        let mut victim = Raw::login(&proxy, "postgres");
        victim.run(&format!("SET application_name = 'victim'; {begin}"));
        if !statement.is_empty() {
            victim.query(statement);
        }
        let main = sandbox.connect_node(0, "postgres");
        sandbox.wait_on_node(0, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim'", "1");
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'";
        assert_eq!(main.value(end).unwrap(), "t");
        let (error, closed) = victim.refusal();
        assert_eq!((error.unwrap().sqlstate.as_str(), closed), ("57P01", true), "{begin} {statement}");
        other.run("UPDATE t SET b = b + 1");
    }
    assert_alive(&sandbox);
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_no_node_lost();
}

#[test]
fn sigterm_lets_transactions_finish_and_a_second_one_does_not() {
    let mut sandbox = with_config("[limits]\ndrain_timeout = '5s'\n");
    let proxy = sandbox.summary.proxy();
    sandbox.restart_proxy(Signal::TERM); // a child of our own, whose exit status we get
    let refuses = || {
        let end = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect((proxy.host.as_str(), proxy.port)).is_ok() {
            assert!(Instant::now() < end, "new clients are let in");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let idle_is_told = |mut idle: Raw| {
        let (error, closed) = idle.refusal();
        assert_eq!((error.unwrap().sqlstate.as_str(), closed), ("57P01", true));
    };
    Raw::login(&proxy, "postgres").run("CREATE TABLE t (a int PRIMARY KEY)");

    // An open transaction may finish. Two statements that run may, too.
    let (mut busy, idle) = (Raw::login(&proxy, "postgres"), Raw::login(&proxy, "postgres"));
    let mut sleeper = Raw::login(&proxy, "postgres");
    busy.run("BEGIN; INSERT INTO t VALUES (1)");
    sleeper.query("INSERT INTO t SELECT 2 FROM pg_sleep(1)");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg\\_sleep%' AND wait_event = 'PgSleep'";
    sandbox.wait_on_node(0, running, "1");
    signal(sandbox.proxy_pid(), Signal::TERM);
    refuses();
    idle_is_told(idle);
    busy.run("INSERT INTO t VALUES (3)");
    busy.run("COMMIT");
    idle_is_told(busy);
    sleeper.until(b'Z');
    idle_is_told(sleeper);
    assert_eq!(sandbox.wait_for_proxy(), Some(0));
    let log = sandbox.whole_log();
    let table = log.split("shutting down").last().unwrap();
    assert!(table.contains("class  phase") && table.contains("commit total") && table.contains("p99 us"), "{table}");
    assert!(table.contains("sessions ") && table.contains(" commits 3 "), "{table}");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["3"; 3]);
    sandbox.assert_nothing_runs();

    // One that does not finish is ended when drain_timeout has passed.
    sandbox.start_proxy();
    let mut stays = Raw::login(&proxy, "postgres");
    stays.run("BEGIN; INSERT INTO t VALUES (4)");
    let started = Instant::now();
    signal(sandbox.proxy_pid(), Signal::TERM);
    idle_is_told(stays);
    assert_eq!(sandbox.wait_for_proxy(), Some(0));
    assert!((4..12).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    sandbox.assert_nothing_runs();

    // A second signal does not wait.
    sandbox.start_proxy();
    let (mut stays, mut sleeper) = (Raw::login(&proxy, "postgres"), Raw::login(&proxy, "postgres"));
    stays.run("BEGIN; INSERT INTO t VALUES (5)");
    sleeper.query("INSERT INTO t SELECT 6 FROM pg_sleep(600)");
    sandbox.wait_on_node(0, running, "1");
    let started = Instant::now();
    signal(sandbox.proxy_pid(), Signal::TERM);
    refuses();
    signal(sandbox.proxy_pid(), Signal::INT);
    idle_is_told(stays);
    idle_is_told(sleeper);
    assert_eq!(sandbox.wait_for_proxy(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    sandbox.assert_nothing_runs();
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM t"), ["3"; 3]);
}

#[test]
fn a_start_that_cannot_go_well_says_why_and_what_to_do() {
    let mut sandbox = Sandbox::start(Options::default());
    let config = sandbox.dir().join("pglockstep.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = sandbox.dir().join("other.toml");
    let by_hand = |text: &str| {
        std::fs::write(&other, text).unwrap();
        let (status, words) = sandbox.run_by_hand(&other);
        assert_eq!(status, Some(1), "{words}");
        words
    };

    // A second proxy: in the same directory, in another one on the same port, and on another port.
    let words = by_hand(&text);
    let pid = sandbox.proxy_pid();
    assert!(words.contains(&format!("another pglockstep (pid {pid}) uses work_dir")), "{words}");
    assert!(words.contains("stop it first"), "{words}");
    let elsewhere = text.replace("/work\"", "/work2\"");
    assert_ne!(elsewhere, text);
    let words = by_hand(&elsewhere);
    assert!(
        words.contains(&format!("port {} on 127.0.0.1 is taken by another process", sandbox.summary.port)),
        "{words}"
    );
    let port = pglockstep::sandbox::process::free_ports(1).unwrap()[0];
    let moved = elsewhere.replace(&format!("port = {}\n", sandbox.summary.port), &format!("port = {port}\n"));
    assert_ne!(moved, elsewhere);
    let words = by_hand(&moved);
    assert!(words.contains("another pglockstep holds the advisory lock"), "{words}");

    // One node is not there: the others serve.
    sandbox.psql_ok(&["-qc", "CREATE TABLE t (a int PRIMARY KEY)"]);
    sandbox.stop_proxy(Signal::TERM);
    signal(sandbox.summary.nodes[1].pid, Signal::INT);
    sandbox.start_proxy();
    sandbox.psql_ok(&["-qc", "INSERT INTO t VALUES (1)"]);
    for _ in 0..10 {
        assert_eq!(sandbox.psql_ok(&["-Atc", "SELECT a FROM t"]), "1\n");
    }
    let log = sandbox.whole_log();
    assert!(log.contains("node is not used node=1 status=down"), "{log}");
    assert_eq!(sandbox.connect_node(2, "postgres").value("SELECT a FROM t").unwrap(), "1");
    let activity = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pglockstep control'";
    assert_ne!(sandbox.connect_node(2, "postgres").value(activity).unwrap(), "0");

    // No node is there.
    sandbox.stop_proxy(Signal::TERM);
    signal(sandbox.summary.nodes[0].pid, Signal::INT);
    signal(sandbox.summary.nodes[2].pid, Signal::INT);
    let (status, words) = sandbox.run_by_hand(&config);
    assert_eq!(status, Some(1), "{words}");
    assert!(words.contains("no node can be used: node 0 (127.0.0.1:") && words.contains("refused"), "{words}");
    assert!(words.contains("node 2 (127.0.0.1:"), "{words}");
}

/// The reader's backend is ended in every place where its session cannot simply read elsewhere.
#[test]
fn a_reader_that_is_lost_costs_an_error_at_most() {
    let weights = "[[node]]\nid = 0\nbackend_weight = 0\n[[node]]\nid = 2\nbackend_weight = 0\n";
    let sandbox = Sandbox::start(Options { config: weights.into(), ..Options::default() });
    let mut raw = Raw::login(&sandbox.summary.proxy(), "postgres");
    raw.run("SET application_name = 'reads'; CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let reads = "SELECT pid FROM pg_stat_activity WHERE application_name = 'reads' AND state = 'idle in transaction'";
    let node = sandbox.connect_node(1, "postgres");
    let pid = || node.value(reads).unwrap().parse::<u32>().unwrap();
    let end = |pid: u32| {
        assert_eq!(node.value(&format!("SELECT pg_terminate_backend({pid})")).unwrap(), "t");
        signal(pid, Signal::CONT);
        sandbox.wait_on_node(1, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"), "0");
    };
    let begin = |raw: &mut Raw| {
        raw.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        raw.run("SELECT a FROM t");
    };

    // Between two statements of a block, which has one snapshot and cannot go on elsewhere.
    begin(&mut raw);
    end(pid());
    raw.query("SELECT a FROM t");
    let e = raw.refusal().0.unwrap();
    assert!(e.sqlstate == "40001" && e.message.contains("the backend that served it was lost"), "{e:?}");
    raw.query("SELECT a FROM t");
    assert_eq!(raw.refusal().0.unwrap().sqlstate, "25P02");
    raw.run("ROLLBACK");

    // At work on a statement of it, by both protocols.
    for extended in [false, true] {
        begin(&mut raw);
        let reader = pid();
        signal(reader, Signal::STOP);
        if extended {
            raw.send(b'P', b"\0SELECT a FROM t\0\0\0");
            raw.send(b'B', b"\0\0\0\0\0\0\0\0");
            raw.send(b'E', b"\0\0\0\0\0");
            raw.send(b'S', b"");
        } else {
            raw.query("SELECT a FROM t");
        }
        std::thread::sleep(Duration::from_millis(100));
        end(reader);
        assert_eq!(raw.refusal().0.unwrap().sqlstate, "40001");
        raw.query("COMMIT");
        assert_eq!(raw.until(b'C'), b"ROLLBACK\0");
        raw.until(b'Z');
    }

    // At its end there is nothing left that could fail.
    for (ends, chain) in [("COMMIT", ""), ("ROLLBACK", ""), ("COMMIT", " AND CHAIN")] {
        begin(&mut raw);
        let reader = pid();
        signal(reader, Signal::STOP);
        raw.query(&format!("{ends}{chain}"));
        std::thread::sleep(Duration::from_millis(100));
        end(reader);
        assert_eq!(raw.until(b'C'), [ends.as_bytes(), b"\0"].concat());
        assert_eq!(raw.until(b'Z'), if chain.is_empty() { b"I" } else { b"T" });
    }
    raw.run("ROLLBACK");
    raw.run("INSERT INTO t VALUES (2)");
    sandbox.assert_nothing_in_transaction();
    sandbox.assert_nodes_equal("postgres");
    sandbox.assert_no_node_lost();
}
