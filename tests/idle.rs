//! Idle clients cost little, also those that were busy before.

mod support;

use support::raw::{Raw, message};
use support::{Options, Sandbox};

/// Messages at once.
const SYNCS: usize = 4000;
const CLIENTS: usize = 200;
/// What the proxy may keep for an idle client that has no backend, in bytes.
const EACH: usize = 16 << 10;

fn resident(sandbox: &Sandbox) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.proxy_pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

fn assert_small(sandbox: &Sandbox, what: &str, before: usize, limit: usize) {
    let each = resident(sandbox).saturating_sub(before) / CLIENTS;
    println!("{what}: {each} bytes of memory for each client");
    assert!(each < limit, "{what}: {each} bytes of memory for each client");
}

#[test]
fn an_idle_client_costs_little_memory_and_no_backend() {
    let config = "[limits]\nnum_init_children = 1000\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let target = sandbox.summary.proxy();
    // What the process needs once: its receive buffers, what the allocator keeps.
    for _ in 0..40 {
        burst(&mut Raw::login(&target, "postgres"));
    }
    let before = resident(&sandbox);
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::login(&target, "postgres")).collect();
    assert_small(&sandbox, "after the login", before, EACH);
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
                AND application_name NOT LIKE 'pglockstep%'";
    let backends: usize = sandbox.on_nodes("postgres", ours).iter().map(|n| n.parse::<usize>().unwrap()).sum();
    assert!(backends < 10, "{backends} backends for clients that have asked nothing");

    // What was needed to keep many messages at once is given up again, but for what the allocator keeps of it.
    clients.iter_mut().for_each(burst);
    assert_small(&sandbox, "after a burst", before, 4 * EACH);
}

/// Very many messages at once, with answers and without.
fn burst(raw: &mut Raw) {
    let syncs = message(b'S', b"").repeat(SYNCS);
    let flushes = [message(b'H', b"").repeat(SYNCS), message(b'S', b"")].concat();
    for (messages, answers) in [(syncs, SYNCS), (flushes, 1)] {
        std::thread::scope(|threads| {
            let mut writer = Raw { socket: raw.socket.try_clone().unwrap(), key: (0, 0) };
            threads.spawn(move || writer.write(&messages));
            assert!(raw.bytes(6 * answers).unwrap().chunks(6).all(|m| m == b"Z\0\0\0\x05I"));
        });
    }
}
