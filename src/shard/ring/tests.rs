//! What only this driver promises: how many buffers and system calls it needs.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;

use super::RingDriver;
use crate::shard::driver::{Driver, DriverOptions};
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
