//! What only this driver promises: how many buffers and system calls it needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::RingDriver;
use crate::shard::driver::{Driver, DriverOptions, Event};
use crate::shard::suite::Shard;

#[test]
fn small_messages_share_a_buffer() {
    let mut shard = Shard::<RingDriver>::with(DriverOptions { receive_buffers: 2, ..DriverOptions::default() });
    let (mut client, conn) = shard.client();
    let before = shard.driver.counters().buffers_allocated;
    for round in 0..3000u16 {
        client.write_all(&[round as u8; 100]).unwrap();
        assert_eq!(shard.received(conn), vec![round as u8; 100]);
    }
    let after = shard.driver.counters().buffers_allocated;
    // 300,000 bytes fill five buffers of 64 KiB less the remainders that are too short to be provided again.
    assert!(after - before <= 6, "{} buffers", after - before);
}

#[test]
fn all_sends_of_a_turn_leave_with_its_one_system_call() {
    let mut shard = Shard::<RingDriver>::new();
    let clients: Vec<_> = (0..20).map(|_| shard.client()).collect();
    shard.turn(Duration::ZERO);
    let before = shard.driver.counters().system_calls;
    for (_, conn) in &clients {
        for _ in 0..10 {
            shard.driver.send(*conn, Bytes::from_static(b"0123456789"));
        }
    }
    shard.turn(Duration::from_millis(5));
    assert_eq!(shard.driver.counters().system_calls, before + 1);
    for (mut client, _) in clients {
        client.read_exact(&mut [0; 100]).unwrap();
    }
}

#[test]
#[ignore = "lowers the process's limit of descriptors; run it alone"]
fn running_out_of_descriptors_neither_spins_nor_loses_clients() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut shard = Shard::<RingDriver>::new();
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(shard.address).unwrap()).collect();
    let limit = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 2), maximum: limit.maximum }).unwrap();
    let before = shard.driver.counters().system_calls;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        shard.turn(Duration::from_secs(1));
    }
    let calls = shard.driver.counters().system_calls - before;
    assert!(calls < 40, "{calls} system calls in a second");
    assert!(shard.events.len() < clients.len());
    setrlimit(Resource::Nofile, limit).unwrap();
    for _ in &clients {
        assert!(matches!(shard.next(), Event::Accepted { .. }));
    }
}
