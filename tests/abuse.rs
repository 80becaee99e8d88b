//! Protocol abuse: whatever a client sends in whatever state, it gets what a plain server gives it.

mod support;

use pglockstep::sandbox::client::Target;
use pglockstep::wire::error::ErrorFields;
use std::time::{Duration, Instant};
use support::raw::{Raw, V3_0, message, startup};
use support::{Options, Sandbox};

fn with_config(config: &str) -> Sandbox {
    Sandbox::start(Options { config: config.into(), ..Options::default() })
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

fn extended(sql: &str) -> Vec<u8> {
    let parse = message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    [parse, message(b'B', &[0; 8]), message(b'E', &[0; 5])].concat()
}

/// What is answered to these bytes, and to a Sync and a Query behind them: errors by SQLSTATE, statuses, and the end.
fn answers(target: &Target, before: &[u8], bytes: &[u8]) -> Vec<String> {
    let mut raw = Raw::login(target, "postgres");
    raw.write(&[before, bytes, &message(b'S', b""), &query("ROLLBACK; SELECT 'alive'")].concat());
    raw.socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut all: Vec<String> = Vec::new();
    loop {
        let next = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| raw.message())) {
            Err(_) => {
                all.push("no answer".to_owned());
                return all;
            }
            Ok(message) => message,
        };
        let next = match next {
            None => "closed".to_owned(),
            Some((b'E', body)) => ErrorFields::parse(&body).sqlstate,
            Some((b'Z', body)) => format!("ready {}", char::from(body[0])),
            Some((b'D', body)) if body.ends_with(b"alive") => "alive".to_owned(),
            // How many rows of a COPY had left is chance.
            Some((b'd' | b'S' | b'N', _)) => continue,
            Some((tag, _)) => char::from(tag).to_string(),
        };
        let done =
            next == "closed" || (all.last().is_some_and(|last| last == "C") && all.contains(&"alive".to_owned()));
        // A server tells what was wrong, and then, with the same code, that it ends the connection for it.
        if all.last() != Some(&next) || next.starts_with("ready") {
            all.push(next);
        }
        if done {
            return all;
        }
    }
}

/// Both the same, or both at an end for the same reason. Of a length that cannot be a server speaks in its log only,
/// with the code that the proxy tells; before it gives up it may tell more.
fn same(ours: &[String], theirs: &[String]) -> bool {
    match (ours, theirs) {
        ([.., our, oc], [.., their, tc]) if oc == "closed" && tc == "closed" => our == their || our == "08P01",
        ([.., our, oc], [tc]) if oc == "closed" && tc == "closed" => our == "08P01",
        _ => ours == theirs,
    }
}

/// What differs, and why that is right.
fn is_explained(state: &str, bytes: &[u8], ours: &[String]) -> bool {
    let closed = ours.last().is_some_and(|last| last == "closed");
    match bytes[0] {
        // A client that has said goodbye is told no more.
        b'X' => closed,
        // Data that is no good, and then a Query in place of its end: the proxy sees the Query before main has seen the
        // data, and a Query in the middle of COPY data ends a connection.
        b'd' => state.starts_with("COPY IN") && closed,
        _ => false,
    }
}

#[test]
fn what_is_malformed_or_out_of_turn_is_answered_as_by_a_plain_server() {
    let sandbox = with_config("");
    sandbox.psql_ok(&["-qc", "CREATE TABLE t (a int PRIMARY KEY)"]);
    let (proxy, node) = (sandbox.summary.proxy(), sandbox.nodes()[0].clone());
    let states: Vec<(&str, Vec<u8>)> = vec![
        ("idle", vec![]),
        ("open block", query("BEGIN; SELECT 1")),
        ("block of which no server knows", query("BEGIN")),
        ("failed block", [query("BEGIN"), query("SELECT 1/0")].concat()),
        ("batch", extended("SELECT 1")),
        ("batch that writes", extended("DELETE FROM t")),
        ("failed batch", extended("SELECT 1/0")),
        ("COPY IN", query("COPY t FROM STDIN")),
        ("COPY IN of a batch", extended("COPY t FROM STDIN")),
        ("COPY OUT", query("COPY (SELECT generate_series(1, 1000)) TO STDOUT")),
    ];
    let abuse: Vec<Vec<u8>> = vec![
        message(b'S', b"x"),
        message(b'H', b"x"),
        message(b'X', b"x"),
        message(b'c', b"x"),
        message(b'f', b"no end"),
        message(b'f', b"enough\0"),
        message(b'd', b"nonsense\n"),
        message(b'Q', b""),
        message(b'Q', b"SELECT 1"),
        message(b'Q', b"SELECT 1\0SELECT 2\0"),
        message(b'Q', b"COMMIT\0x"),
        message(b'P', b""),
        message(b'P', b"s\0SELECT 1\0\xff\xff\0\0\0\x17"),
        message(b'P', b"s\0BEGIN\0\0\0x"),
        message(b'B', b"no end"),
        message(b'B', b"\0none\0\0\0\0\0\0\0"),
        message(b'D', b"X\0"),
        message(b'D', b"Snone\0"),
        message(b'D', b"S\0x"),
        message(b'E', b"\0"),
        message(b'E', b"none\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\0x"),
        message(b'C', b"?s\0"),
        message(b'C', b"Sx\0x"),
        message(b'F', b""),
        message(b'y', b""),
        message(b'p', b"md5\0"),
        message(b'E', &[b'x'; 10_001]),
        message(b'S', &[b'x'; 10_001]),
        b"Q\0\0\0\x03".to_vec(),
        b"S\xff\xff\xff\xff".to_vec(),
        vec![0; 12],
    ];
    let mut wrong = Vec::new();
    for (state, before) in &states {
        for bytes in &abuse {
            let [ours, theirs] = [&proxy, &node].map(|target| answers(target, before, bytes));
            if same(&ours, &theirs) || is_explained(state, bytes, &ours) {
                continue;
            }
            let shown = &bytes[..bytes.len().min(30)];
            wrong.push(format!("{state}, {}: {ours:?}, a server: {theirs:?}", shown.escape_ascii()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    sandbox.assert_nothing_in_transaction();
    sandbox.assert_nodes_equal("postgres");
}

#[test]
fn half_open_connections_keep_nobody_out_and_do_not_stay() {
    let sandbox = with_config(
        "[authentication]\nauthentication_timeout = '8s'\n[limits]\nnum_init_children = 5\nstarting_clients = 20\n",
    );
    let proxy = sandbox.summary.proxy();
    let half = startup(&[("user", "postgres")], V3_0);
    let mut silent: Vec<Raw> = (0..500)
        .map(|i| {
            let mut raw = Raw::open(&proxy);
            raw.write(&half[..[0, 4, 20][i % 3]]);
            raw
        })
        .collect();
    assert_eq!(sandbox.connect("postgres").value("SELECT 'alive'").unwrap(), "alive");
    for raw in &mut silent {
        let (error, closed) = raw.refusal();
        assert!(error.is_none() && closed, "{error:?}");
    }
    sandbox.wait_for_log("starting_clients is reached");
    sandbox.wait_for_log("canceling authentication due to timeout");
    // Who is in the middle of its login keeps its place.
    let mut slow: Vec<Raw> = (0..4).map(|_| Raw::open(&proxy)).collect();
    slow.iter_mut().for_each(|raw| raw.write(&half));
    slow.iter_mut().for_each(|raw| assert_eq!(raw.message().unwrap().0, b'R'));
    let _others: Vec<Raw> = (0..100).map(|_| Raw::open(&proxy)).collect();
    assert_eq!(sandbox.connect("postgres").value("SELECT 'alive'").unwrap(), "alive");
    slow[0].send(b'p', b"x");
    assert_eq!(slow[0].refusal().0.unwrap().sqlstate, "08P01");
}

#[test]
fn who_comes_while_all_places_are_taken_by_logins_is_told_so() {
    let sandbox = with_config("[limits]\nnum_init_children = 500\nstarting_clients = 10\n");
    let proxy = sandbox.summary.proxy();
    let half = startup(&[("user", "postgres")], V3_0);
    let mut asked = Vec::new();
    let error = loop {
        let mut raw = Raw::open(&proxy);
        raw.write(&half);
        match raw.message().unwrap() {
            (b'R', _) => asked.push(raw),
            (b'E', body) => break body,
            (tag, _) => panic!("{}", tag.escape_ascii()),
        }
        assert!(asked.len() < 1000, "nobody is refused");
    };
    let fields = ErrorFields::parse(&error);
    assert_eq!((fields.severity.as_str(), fields.sqlstate.as_str()), ("FATAL", "53300"));
    assert!(String::from_utf8_lossy(&error).contains("starting_clients allows 10 connections per shard"));
    assert!(asked.len() >= 10);
    // Their places are free when they have gone.
    drop(asked);
    let end = Instant::now() + Duration::from_secs(60);
    while !sandbox.psql(&["-c", "SELECT 1"]).status.success() {
        assert!(Instant::now() < end, "{}", sandbox.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn replication_connections_are_refused_clearly() {
    let sandbox = with_config("");
    let proxy = sandbox.summary.proxy();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let (host, port) = (proxy.host.as_str(), proxy.port.to_string());
    let server = ["-h", host, "-p", port.as_str(), "-U", proxy.user.as_str()];
    for (program, arguments) in [
        ("psql", vec!["-c", "IDENTIFY_SYSTEM", "dbname=postgres replication=database"]),
        ("pg_receivewal", [&["-n", "-D", path][..], &server].concat()),
        ("pg_basebackup", [&["-D", path][..], &server].concat()),
    ] {
        let output = sandbox.program(program).env("PGPASSWORD", &proxy.password).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{program}: {said}");
        assert!(said.contains("replication connections are not relayed"), "{program}: {said}");
        assert!(said.contains("Connect to a node directly"), "{program}: {said}");
    }
    assert!(Instant::now() < end, "none of them tries for ever");
    for value in ["maybe", ""] {
        let [ours, theirs] = [&proxy, &sandbox.nodes()[0]].map(|target| {
            let mut raw = Raw::open(target);
            raw.write(&startup(&[("user", "postgres"), ("replication", value)], V3_0));
            let (e, closed) = raw.refusal();
            let e = e.unwrap();
            (e.sqlstate, e.message, closed)
        });
        assert_eq!(ours, theirs);
    }
}
