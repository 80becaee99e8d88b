//! Large things pass in bounded memory, whoever is slow: rows, COPY in both directions, parameters, texts.
//!
//! `PGLOCKSTEP_TEST_LARGE_MB=1000 cargo test --release --test large_memory -- --nocapture` tries it with a gigabyte and
//! prints what was measured.

mod support;

use pglockstep::sandbox::process::{Signal, signal};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use support::raw::{Raw, message};
use support::{Options, Sandbox};

/// Bytes of a large thing.
fn large() -> usize {
    std::env::var("PGLOCKSTEP_TEST_LARGE_MB").map_or(64, |mb| mb.parse::<usize>().unwrap()) * 1_000_000
}

/// What the proxy may take for itself: buffers, queues, `script_limit`, what the allocator keeps.
const OWN: usize = 48 << 20;

fn sandbox(config: &str) -> Sandbox {
    let config = format!("[replication]\nscript_limit = \"4MB\"\n[limits]\nmax_message_size = \"1GB\"\n{config}");
    let sandbox = Sandbox::start(Options { config, ..Options::default() });
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE big (id int PRIMARY KEY, pad text)"]);
    sandbox
}

/// A value of /proc/PID/status, in bytes.
fn memory(sandbox: &Sandbox, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.proxy_pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// By how much the proxy's memory rises above what it is now while `act` is at it.
fn rise(sandbox: &Sandbox, what: &str, act: impl FnOnce()) -> usize {
    // Resets VmHWM (proc_pid_clear_refs(5)).
    std::fs::write(format!("/proc/{}/clear_refs", sandbox.proxy_pid()), "5").unwrap();
    let before = memory(sandbox, "VmRSS");
    act();
    let rise = memory(sandbox, "VmHWM").saturating_sub(before);
    println!(
        "{what}: {} MB, the proxy's memory rose by {} MB from {} MB",
        large() / 1_000_000,
        rise >> 20,
        before >> 20
    );
    rise
}

fn client(sandbox: &Sandbox) -> Raw {
    let raw = Raw::login(&sandbox.summary.proxy(), "postgres");
    raw.socket.set_read_timeout(Some(Duration::from_secs(180))).unwrap();
    raw
}

/// Reads to ReadyForQuery without keeping anything, slowly at first; returns how many bytes of rows and COPY data came.
fn drain(raw: &mut Raw) -> usize {
    let (mut read, mut pauses) = (0, 0);
    loop {
        let header = raw.bytes(5).unwrap();
        let mut left = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4;
        assert_ne!(header[0], b'E', "{}", String::from_utf8_lossy(&raw.bytes(left).unwrap()));
        while left > 0 {
            let n = left.min(1 << 20);
            raw.bytes(n).unwrap();
            left -= n;
            if matches!(header[0], b'D' | b'd') {
                read += n;
                if read > (pauses + 1) << 20 && pauses < 10 {
                    pauses += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        if header[0] == b'Z' {
            return read;
        }
    }
}

#[test]
fn rows_and_copy_data_pass_to_a_slow_client_in_bounded_memory() {
    let sandbox = sandbox("");
    let n = large();
    let rows = n / 1000;
    for sql in [
        format!("SELECT repeat('x', {n})"),
        format!("INSERT INTO big VALUES (1, 'y') RETURNING repeat('x', {n})"),
        format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT"),
        format!("SELECT repeat('x', 1000) FROM generate_series(1, {rows})"),
    ] {
        let mut raw = client(&sandbox);
        let rise = rise(&sandbox, &sql, || {
            raw.query(&sql);
            assert!(drain(&mut raw) >= n);
        });
        assert!(rise < OWN, "{sql}: {} MB more", rise >> 20);
    }
    sandbox.assert_nodes_equal("postgres");
}

/// As one message, and as many.
#[test]
fn copy_from_stdin_passes_to_all_nodes_in_bounded_memory() {
    let sandbox = sandbox("");
    let n = large();
    let line = |id: usize| [format!("{id}\t").as_bytes(), &vec![b'x'; 999_990], b"\n"].concat();
    let lines = n / 1_000_000;
    for whole in [true, false] {
        let mut raw = client(&sandbox);
        let rise = rise(&sandbox, if whole { "COPY of one message" } else { "COPY" }, || {
            raw.query("COPY big FROM STDIN");
            raw.until(b'G');
            if whole {
                let length: usize = (0..lines).map(|i| line(i).len()).sum();
                raw.write(&[b"d", &(length as u32 + 4).to_be_bytes()[..]].concat());
            }
            for i in 0..lines {
                let line = line(if whole { i } else { lines + i });
                if whole {
                    raw.write(&line);
                } else {
                    line.chunks(8192).for_each(|c| raw.write(&message(b'd', c)));
                }
            }
            raw.send(b'c', b"");
            raw.until(b'Z');
        });
        assert!(rise < OWN, "{} MB more", rise >> 20);
    }
    let expected = format!("{}", 2 * lines);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM big"), [expected.as_str(); 3]);
    sandbox.assert_nodes_equal("postgres");
}

/// Their messages are taken whole, however many replicas get them: a Bind once, a text (which is also lexed) up to twice.
#[test]
fn a_large_parameter_or_literal_is_not_held_for_each_replica() {
    let sandbox = sandbox("");
    let n = large();
    let value = vec![b'x'; n];
    let mut raw = client(&sandbox);
    let parameter = rise(&sandbox, "a parameter", || {
        raw.send(b'P', b"\0INSERT INTO big VALUES (1, $1)\0\0\0");
        let length = (n as u32).to_be_bytes();
        raw.write(&[b"B", &(n as u32 + 16).to_be_bytes()[..], b"\0\0\0\0\0\x01", &length].concat());
        raw.write(&value);
        raw.write(b"\0\0");
        raw.send(b'E', b"\0\0\0\0\0");
        raw.send(b'S', b"");
        raw.until(b'Z');
    });
    drop(raw);
    let mut raw = client(&sandbox);
    let literal = rise(&sandbox, "a literal", || {
        let sql = [b"INSERT INTO big VALUES (2, '", &value[..], b"')\0"].concat();
        raw.write(&[b"Q", &(sql.len() as u32 + 4).to_be_bytes()[..]].concat());
        raw.write(&sql);
        raw.until(b'Z');
    });
    let expected = format!("{}", 2 * n);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT sum(length(pad)) FROM big"), [expected.as_str(); 3]);
    sandbox.assert_nodes_equal("postgres");
    assert!(parameter < n + OWN, "a parameter: {} MB more", parameter >> 20);
    assert!(literal < 2 * n + OWN, "a literal: {} MB more", literal >> 20);
}

/// A backend of a replica that stands still keeps the COMMIT of its own client waiting, in bounded memory, and nobody
/// else's.
#[test]
fn a_slow_replica_slows_the_copy_of_its_own_client_and_no_other() {
    let sandbox = sandbox("");
    sandbox.psql_ok(&["-q", "-c", "CREATE TABLE small (a int PRIMARY KEY)"]);
    let line = |id: usize| message(b'd', &[format!("{id}\t").as_bytes(), &vec![b'x'; 99_990], b"\n"].concat());
    let mut raw = client(&sandbox);
    raw.query("COPY big FROM STDIN");
    raw.until(b'G');
    (0..10).for_each(|i| raw.write(&line(i)));
    // Its applier has taken what there is and waits for more: it holds nothing that others need.
    let applier = "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE query LIKE 'COPY big%' AND state = 'active' \
                   AND wait_event = 'ClientRead'";
    let (node, end) = (sandbox.connect_node(1, "postgres"), Instant::now() + Duration::from_secs(20));
    let pid = loop {
        match node.value(applier).unwrap().parse().unwrap() {
            0 => assert!(Instant::now() < end, "no early start"),
            pid => break pid,
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    signal(pid, Signal::STOP);
    let rise = rise(&sandbox, "COPY with a stopped replica", || {
        (10..400).for_each(|i| raw.write(&line(i)));
        raw.send(b'c', b"");
        let other = sandbox.connect("postgres");
        for i in 0..30 {
            other.rows(&format!("INSERT INTO small VALUES ({i})")).unwrap();
            assert_eq!(other.value("SELECT count(*) FROM small").unwrap(), (i + 1).to_string());
        }
        raw.socket.set_nonblocking(true).unwrap();
        let answer = raw.socket.peek(&mut [0]).map_err(|e| e.kind());
        assert_eq!(answer, Err(ErrorKind::WouldBlock), "the COPY is not to be answered yet");
        raw.socket.set_nonblocking(false).unwrap();
    });
    signal(pid, Signal::CONT);
    raw.until(b'C');
    raw.until(b'Z');
    assert!(rise < OWN, "{} MB more", rise >> 20);
    assert_eq!(sandbox.on_nodes("postgres", "SELECT count(*) FROM big"), ["400"; 3]);
    sandbox.assert_nodes_equal("postgres");
}
