//! The driver on real sockets of the loopback interface.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver with one listener, and a small shard around it that tests look into.
struct Shard {
    driver: RingDriver,
    address: SocketAddr,
    events: VecDeque<Event>,
}

impl Shard {
    fn new() -> Shard {
        Shard::with(RingOptions::default())
    }

    fn with(mut options: RingOptions) -> Shard {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), 512).unwrap();
        let address = listener.local_addr().unwrap();
        options.listeners.push(Listener::Tcp(listener));
        Shard { driver: RingDriver::new(options).unwrap(), address, events: VecDeque::new() }
    }

    /// One turn of at most `limit`.
    fn turn(&mut self, limit: Duration) {
        let until = self.driver.clock().after(limit);
        let mut events = Vec::new();
        self.driver.wait(Some(until), &mut events).unwrap();
        self.events.extend(events);
    }

    /// The next event; panics when none comes.
    fn next(&mut self) -> Event {
        let started = Instant::now();
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(started.elapsed() < PATIENCE, "no event");
            self.turn(Duration::from_millis(200));
        }
    }

    /// No event for this long.
    fn silence(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.turn(Duration::from_millis(10));
            assert!(self.events.is_empty(), "{:?}", self.events);
        }
    }

    /// A client of this shard, and its connection.
    fn client(&mut self) -> (TcpStream, ConnId) {
        self.turn(Duration::ZERO);
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        match self.next() {
            Event::Accepted { conn, peer } => {
                assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
                (client, conn)
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle_to(&mut self, connections: usize) {
        let started = Instant::now();
        while self.driver.counters().connections != connections {
            assert!(started.elapsed() < PATIENCE, "{:?}", self.driver.counters());
            self.turn(Duration::from_millis(10));
        }
    }

    fn received(&mut self, conn: ConnId) -> Bytes {
        match self.next() {
            Event::Received { conn: from, bytes } if from == conn => bytes,
            other => panic!("{other:?}"),
        }
    }

    fn closed(&mut self, conn: ConnId) -> Option<io::Error> {
        match self.next() {
            Event::Closed { conn: gone, error } if gone == conn => error,
            other => panic!("{other:?}"),
        }
    }
}

use crate::shard::driver::Peer;

/// A small generator of its own: the tests want repeatable cuts, not good randomness.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The byte at a position of the test stream.
fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 11) as u8
}

#[test]
fn bytes_come_back_through_two_connections() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address::Tcp(server.local_addr().unwrap());
    let echo = thread::spawn(move || {
        let (mut socket, _) = server.accept().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = socket.read(&mut buffer) {
            socket.write_all(&buffer[..n]).unwrap();
        }
    });
    let mut shard = Shard::new();
    let (mut client, front) = shard.client();
    let back = shard.driver.connect(&to);
    assert!(matches!(shard.next(), Event::Connected { conn } if conn == back));
    for round in 0..50u8 {
        client.write_all(&[round; 100]).unwrap();
        let mut relayed = 0;
        while relayed < 200 {
            let Event::Received { conn, bytes } = shard.next() else { panic!() };
            relayed += bytes.len();
            shard.driver.send(if conn == front { back } else { front }, bytes);
        }
        shard.turn(Duration::ZERO);
        let mut answer = [0; 100];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round; 100]);
    }
    drop(client);
    let gone = loop {
        if let Event::Closed { conn, error } = shard.next() {
            assert!(error.is_none());
            break conn;
        }
    };
    assert_eq!(gone, front);
    shard.driver.close(back);
    shard.settle_to(0);
    echo.join().unwrap();
}

#[test]
fn a_hundred_megabytes_arrive_in_order_with_bounded_memory() {
    const TOTAL: usize = 100 << 20;
    let mut shard = Shard::with(RingOptions { receive_buffers: 16, ..RingOptions::default() });
    let (client, source) = shard.client();
    let (sink_client, sink) = shard.client();
    let writer = thread::spawn(move || {
        let (mut client, mut seed, mut at) = (client, 7, 0);
        while at < TOTAL {
            let length = (random(&mut seed) as usize % 100_000 + 1).min(TOTAL - at);
            let chunk: Vec<u8> = (at..at + length).map(pattern).collect();
            client.write_all(&chunk).unwrap();
            at += length;
        }
        client
    });
    let reader = thread::spawn(move || {
        let (mut client, mut seed, mut at) = (sink_client, 11, 0);
        let mut buffer = vec![0; 200_000];
        while at < TOTAL {
            let limit = random(&mut seed) as usize % buffer.len() + 1;
            let n = client.read(&mut buffer[..limit]).unwrap();
            assert!(n > 0);
            assert!((0..n).all(|i| buffer[i] == pattern(at + i)), "wrong bytes after {at}");
            at += n;
            if random(&mut seed) % 64 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (mut relayed, mut queued_max, mut pauses, mut paused, mut seed) = (0, 0, 0, false, 3);
    while relayed < TOTAL {
        match shard.next() {
            Event::Received { conn, mut bytes } => {
                assert_eq!(conn, source);
                relayed += bytes.len();
                // Cut at random, so that sends of one chunk and of many, large and small, all occur.
                while !bytes.is_empty() {
                    let cut = (random(&mut seed) as usize % 20_000 + 1).min(bytes.len());
                    shard.driver.send(sink, bytes.split_to(cut));
                }
                let queued = shard.driver.queued(sink);
                queued_max = queued_max.max(queued);
                if queued > RingDriver::HIGH_WATER && !paused {
                    shard.driver.pause(source);
                    (paused, pauses) = (true, pauses + 1);
                }
            }
            Event::Drained { conn } => {
                assert_eq!(conn, sink);
                assert!(shard.driver.queued(sink) < RingDriver::LOW_WATER);
                shard.driver.resume(source);
                paused = false;
            }
            other => panic!("{other:?}"),
        }
    }
    shard.driver.close(sink);
    while !reader.is_finished() {
        shard.turn(Duration::from_millis(10));
    }
    reader.join().unwrap();
    drop(writer.join().unwrap());
    assert!(pauses > 0, "the reader is slow enough to make the source pause");
    // What one turn can receive (16 buffers), and one turn more, may come after the pause.
    assert!(queued_max < RingDriver::HIGH_WATER + 3 * 16 * 65_536, "{queued_max} bytes were queued");
    let buffers = shard.driver.counters().buffers_allocated;
    assert!((buffers as usize) < 2 * TOTAL / 65_536, "{buffers} buffers for {TOTAL} bytes");
}

#[test]
fn small_messages_share_a_buffer() {
    let mut shard = Shard::with(RingOptions { receive_buffers: 2, ..RingOptions::default() });
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
fn a_buffer_that_a_session_keeps_is_not_written_again() {
    let mut shard =
        Shard::with(RingOptions { receive_buffers: 2, receive_buffer_size: 8192, ..RingOptions::default() });
    let (mut client, conn) = shard.client();
    let mut kept = Vec::new();
    for round in 0..200u8 {
        client.write_all(&[round; 1000]).unwrap();
        let mut length = 0;
        while length < 1000 {
            let bytes = shard.received(conn);
            length += bytes.len();
            kept.push((round, bytes));
        }
    }
    assert!(kept.iter().all(|(round, bytes)| bytes.iter().all(|byte| byte == round)));
}

#[test]
fn more_bytes_than_all_buffers_hold_lose_nothing() {
    let mut shard =
        Shard::with(RingOptions { receive_buffers: 1, receive_buffer_size: 4096, ..RingOptions::default() });
    let clients: Vec<_> = (0..8).map(|_| shard.client()).collect();
    let mut totals: HashMap<ConnId, usize> = HashMap::new();
    for (client, conn) in &clients {
        let mut client = client;
        client.write_all(&[7; 50_000]).unwrap();
        totals.insert(*conn, 0);
    }
    while totals.values().any(|total| *total < 50_000) {
        let Event::Received { conn, bytes } = shard.next() else { panic!() };
        *totals.get_mut(&conn).unwrap() += bytes.len();
    }
    assert!(totals.values().all(|total| *total == 50_000));
}

#[test]
fn two_hundred_connections_come_and_go_again_and_again() {
    let mut shard = Shard::new();
    let mut seen = std::collections::HashSet::new();
    for round in 0..10 {
        let mut clients = Vec::new();
        shard.turn(Duration::ZERO);
        for _ in 0..200 {
            clients.push(TcpStream::connect(shard.address).unwrap());
        }
        let mut conns = Vec::new();
        while conns.len() < 200 {
            let Event::Accepted { conn, .. } = shard.next() else { panic!() };
            assert!(seen.insert(conn), "an id is never used twice");
            shard.driver.send(conn, Bytes::from_static(b"hello"));
            conns.push(conn);
        }
        match round % 3 {
            // The peer closes.
            0 => {
                for mut client in clients {
                    shard.turn(Duration::ZERO);
                    client.read_exact(&mut [0; 5]).unwrap();
                }
                for _ in 0..200 {
                    assert!(matches!(shard.next(), Event::Closed { error: None, .. }));
                }
            }
            // The shard closes; the peer sees everything and then the end.
            1 => {
                conns.iter().for_each(|conn| shard.driver.close(*conn));
                for mut client in clients {
                    shard.turn(Duration::ZERO);
                    let mut text = String::new();
                    client.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "hello");
                }
            }
            _ => {
                conns.iter().for_each(|conn| shard.driver.abort(*conn));
                drop(clients);
            }
        }
        shard.settle_to(0);
        assert!(shard.events.is_empty(), "{:?}", shard.events);
    }
}

#[test]
fn an_abort_during_a_send_resets_the_peer_and_frees_the_slot() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    for _ in 0..64 {
        shard.driver.send(conn, Bytes::from(vec![1; 1 << 20]));
    }
    for _ in 0..20 {
        shard.turn(Duration::from_millis(5));
    }
    assert!(shard.driver.queued(conn) > 0, "the peer does not read, so a send is in flight");
    shard.driver.abort(conn);
    assert_eq!(shard.driver.queued(conn), 0);
    shard.settle_to(0);
    let mut bytes = Vec::new();
    let error = client.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "truncation does not look like an end");
    shard.silence(Duration::from_millis(20));
}

#[test]
fn a_peer_that_does_not_read_is_given_up_some_seconds_after_close() {
    let mut shard = Shard::new();
    let (client, conn) = shard.client();
    shard.driver.send(conn, Bytes::from(vec![1; 64 << 20]));
    shard.turn(Duration::from_millis(10));
    let started = Instant::now();
    shard.driver.close(conn);
    shard.settle_to(0);
    let taken = started.elapsed();
    assert!(taken > progress::FLUSH_MAX - Duration::from_millis(100), "{taken:?}");
    assert!(taken < progress::FLUSH_MAX + Duration::from_secs(2), "{taken:?}");
    assert!(shard.events.is_empty());
    drop(client);
}

#[test]
fn last_words_reach_a_peer_that_is_still_talking() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    client.write_all(&[9; 100_000]).unwrap();
    shard.driver.send(conn, Bytes::from_static(b"FATAL"));
    shard.driver.close(conn);
    for _ in 0..5 {
        shard.turn(Duration::from_millis(5));
    }
    client.write_all(&[9; 100_000]).unwrap();
    shard.turn(Duration::from_millis(5));
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "FATAL");
    drop(client);
    shard.settle_to(0);
}

#[test]
fn a_reset_by_the_peer_is_closed_with_an_error_and_its_end_without() {
    let mut shard = Shard::new();
    let (client, conn) = shard.client();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let error = shard.closed(conn).expect("a reset is an error");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (client, conn) = shard.client();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(shard.closed(conn).is_none());
    shard.settle_to(0);
}

#[test]
fn what_a_server_says_before_it_goes_is_received_although_sending_fails() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    shard.driver.pause(conn);
    shard.turn(Duration::ZERO);
    shard.turn(Duration::from_millis(5));
    client.write_all(b"terminating connection").unwrap();
    drop(client);
    thread::sleep(Duration::from_millis(5));
    // The first send is answered by a reset, the second one fails.
    shard.driver.resume(conn);
    let mut heard = Vec::new();
    let mut closed = 0;
    while closed == 0 {
        shard.driver.send(conn, Bytes::from_static(b"select 1"));
        match shard.next() {
            Event::Received { bytes, .. } => heard.extend_from_slice(&bytes),
            Event::Closed { .. } => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, b"terminating connection");
    shard.settle_to(0);
}

#[test]
fn a_refused_connect_is_closed_with_an_error() {
    let mut shard = Shard::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conn = shard.driver.connect(&Address::Tcp(nobody));
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::ConnectionRefused);
    let conn = shard.driver.connect(&Address::Unix("/nonexistent/.s.PGSQL.5432".into()));
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::NotFound);
    let conn = shard.driver.connect(&Address::Unix("x".repeat(300).into()));
    assert!(shard.closed(conn).is_some());
    shard.settle_to(0);
}

#[test]
fn connections_beyond_the_maximum_are_refused_in_both_directions() {
    let mut shard = Shard::with(RingOptions { connections_max: 2, ..RingOptions::default() });
    let _two = (shard.client(), shard.client());
    let mut third = TcpStream::connect(shard.address).unwrap();
    shard.silence(Duration::from_millis(20));
    assert!(matches!(third.read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(shard.driver.counters().clients_refused, 1);
    let conn = shard.driver.connect(&Address::Tcp(shard.address));
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::QuotaExceeded);
}

#[test]
fn a_cancel_request_is_connect_send_and_close_in_one_breath() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shard = Shard::new();
    let conn = shard.driver.connect(&Address::Tcp(server.local_addr().unwrap()));
    shard.driver.send(conn, Bytes::from_static(b"cancel request"));
    shard.driver.close(conn);
    let reader = thread::spawn(move || {
        let mut text = String::new();
        server.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    shard.turn(Duration::from_millis(50));
    shard.settle_to(0);
    assert_eq!(reader.join().unwrap(), "cancel request");
    assert!(shard.events.is_empty(), "{:?}", shard.events);
}

#[test]
fn a_connect_can_be_aborted() {
    let mut shard = Shard::new();
    // An address of the range kept for documentation: nobody answers.
    let conn = shard.driver.connect(&Address::Tcp("192.0.2.1:5432".parse().unwrap()));
    shard.turn(Duration::from_millis(5));
    shard.driver.abort(conn);
    let conn = shard.driver.connect(&Address::Tcp("192.0.2.1:5432".parse().unwrap()));
    shard.driver.abort(conn);
    let started = Instant::now();
    shard.settle_to(0);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_paused_connection_reports_nothing_until_it_is_resumed() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    shard.driver.pause(conn);
    shard.turn(Duration::ZERO);
    client.write_all(b"later").unwrap();
    shard.silence(Duration::from_millis(20));
    for _ in 0..100 {
        shard.driver.resume(conn);
        shard.driver.pause(conn);
        shard.turn(Duration::ZERO);
    }
    shard.driver.resume(conn);
    shard.driver.pause(conn);
    shard.driver.resume(conn);
    assert_eq!(&shard.received(conn)[..], b"later");
    client.write_all(b"again").unwrap();
    assert_eq!(&shard.received(conn)[..], b"again");
}

#[test]
fn actions_on_a_dead_id_do_nothing() {
    let mut shard = Shard::new();
    let (client, old) = shard.client();
    drop(client);
    assert!(shard.closed(old).is_none());
    shard.settle_to(0);
    let (mut client, new) = shard.client();
    assert_eq!((old.index, old.generation + 1), (new.index, new.generation));
    shard.driver.send(old, Bytes::from_static(b"stale"));
    shard.driver.close(old);
    shard.driver.abort(old);
    shard.driver.pause(old);
    client.write_all(b"x").unwrap();
    assert_eq!(&shard.received(new)[..], b"x");
    assert_eq!((shard.driver.queued(old), shard.driver.queued(new)), (0, 0));
}

#[test]
fn unix_clients_and_servers_work_alike() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".s.PGSQL.5432");
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let mut shard = Shard::with(RingOptions { listeners: vec![listener], ..RingOptions::default() });
    shard.turn(Duration::ZERO);
    let mut client = UnixStream::connect(&path).unwrap();
    let Event::Accepted { conn: front, peer: Peer::Unix } = shard.next() else { panic!() };
    client.write_all(b"hello").unwrap();
    assert_eq!(&shard.received(front)[..], b"hello");
    let back = shard.driver.connect(&Address::Unix(path));
    let (mut connected, mut accepted) = (false, false);
    while !(connected && accepted) {
        match shard.next() {
            Event::Connected { conn } if conn == back => connected = true,
            Event::Accepted { peer: Peer::Unix, .. } => accepted = true,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn no_client_is_accepted_after_listening_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let mut shard = Shard::with(RingOptions { listeners: vec![listener], ..RingOptions::default() });
    let (mut client, conn) = shard.client();
    shard.driver.stop_listening();
    assert!(TcpStream::connect(shard.address).is_err());
    shard.silence(Duration::from_millis(20));
    assert!(shard.driver.doors.iter().all(Option::is_none), "the listeners are closed");
    assert!(UnixStream::connect(&path).is_err());
    client.write_all(b"still here").unwrap();
    assert_eq!(&shard.received(conn)[..], b"still here");
}

#[test]
fn a_wait_ends_on_time_and_not_before() {
    let mut shard = Shard::new();
    let mut events = Vec::new();
    shard.driver.wait(Some(Time(0)), &mut events).unwrap();
    for milliseconds in [1, 5, 20] {
        let until = shard.driver.now().after(Duration::from_millis(milliseconds));
        shard.driver.wait(Some(until), &mut events).unwrap();
        let late = shard.driver.now().since(until);
        assert!(shard.driver.now() >= until && late < Duration::from_millis(50), "{late:?} late");
        assert!(events.is_empty());
    }
}

#[test]
fn a_wait_does_not_sleep_on_what_has_happened_already() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    shard.turn(Duration::ZERO);
    client.write_all(b"x").unwrap();
    thread::sleep(Duration::from_millis(5));
    let mut events = Vec::new();
    shard.driver.wait(None, &mut events).unwrap();
    assert!(matches!(&events[..], [Event::Received { conn: from, .. }] if *from == conn));
}

#[test]
fn all_sends_of_a_turn_leave_with_its_one_system_call() {
    let mut shard = Shard::new();
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
fn a_turn_with_more_operations_than_the_queue_holds_loses_none() {
    let mut shard = Shard::with(RingOptions { connections_max: 4000, ..RingOptions::default() });
    shard.turn(Duration::ZERO);
    let to = Address::Tcp(shard.address);
    let conns: Vec<_> = (0..1500).map(|_| shard.driver.connect(&to)).collect();
    let (mut connected, mut accepted) = (0, 0);
    while (connected, accepted) != (conns.len(), conns.len()) {
        match shard.next() {
            Event::Connected { .. } => connected += 1,
            Event::Accepted { .. } => accepted += 1,
            other => panic!("{other:?}"),
        }
    }
    conns.iter().for_each(|conn| shard.driver.send(*conn, Bytes::from_static(b"x")));
    let mut received = 0;
    while received < conns.len() {
        let Event::Received { bytes, .. } = shard.next() else { panic!() };
        received += bytes.len();
    }
}

#[test]
fn no_ring_of_the_doorbell_is_lost() {
    let mut shard = Shard::new();
    let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    const ROUNDS: u64 = 20_000;
    // Each thread waits for its ring to be seen before the next, so a lost one stops the test.
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (bell, sent, seen) = (shard.driver.doorbell(), Arc::clone(&sent), Arc::clone(&seen));
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    let mine = sent.fetch_add(1, Ordering::SeqCst) + 1;
                    bell.ring();
                    while seen.load(Ordering::SeqCst) < mine {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut events = Vec::new();
    while seen.load(Ordering::SeqCst) < 3 * ROUNDS {
        let until = shard.driver.clock().after(PATIENCE);
        shard.driver.wait(Some(until), &mut events).unwrap();
        assert!(shard.driver.now() < until, "a ring was lost");
        if events.drain(..).any(|event| matches!(event, Event::Woken)) {
            seen.store(sent.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_sleeping_shard_is_woken_and_an_awake_one_costs_no_system_call() {
    let (send_bell, bells) = mpsc::channel();
    let shard = thread::spawn(move || {
        let mut shard = Shard::new();
        send_bell.send(shard.driver.doorbell()).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            shard.driver.wait(None, &mut events).unwrap();
        }
        assert!(matches!(events[..], [Event::Woken]));
        shard.silence(Duration::from_millis(20));
    });
    let bell = bells.recv().unwrap();
    thread::sleep(Duration::from_millis(20));
    bell.ring();
    shard.join().unwrap();
    // The driver is gone; ringing does no harm.
    bell.ring();
}

#[test]
fn a_dropped_driver_takes_its_connections_with_it() {
    let mut shard = Shard::new();
    let (mut client, conn) = shard.client();
    let (_silent, stuck) = shard.client();
    shard.driver.send(conn, Bytes::from_static(b"x"));
    shard.driver.send(stuck, Bytes::from(vec![0; 64 << 20]));
    shard.turn(Duration::from_millis(5));
    let started = Instant::now();
    drop(shard);
    assert!(started.elapsed() < Duration::from_secs(1), "nothing had to be leaked");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"x");
}

#[test]
fn random_bytes_differ() {
    let mut shard = Shard::new();
    let (mut one, mut two) = ([0; 32], [0; 32]);
    shard.driver.random(&mut one);
    shard.driver.random(&mut two);
    assert_ne!(one, two);
}
