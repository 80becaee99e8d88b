//! What every driver over sockets must do, on real ones of the loopback interface: each test runs on each driver. Here:
//! how connections come and go.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::driver::{Address, ConnId, DriverOptions, Event, Peer, SocketDriver, Time};
use super::glommio::GlommioDriver;
use super::limits::FLUSH_MAX;
use super::listen::{Listener, listen_tcp};
use super::ring::RingDriver;

/// Makes a test of each function for each driver.
macro_rules! on_each_driver {
    ($($test:ident,)*) => {
        mod ring {
            $(#[test] fn $test() { super::$test::<crate::shard::ring::RingDriver>() })*
        }
        mod glommio {
            $(#[test] fn $test() { super::$test::<crate::shard::glommio::GlommioDriver>() })*
        }
    };
}

mod flow;
mod waking;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the tests see of a driver beside what shards see.
pub(super) trait Tested: SocketDriver {
    fn clock(&self) -> Time;
    /// Slots in use.
    fn connections(&self) -> usize;
    /// Listeners that accept.
    fn listeners(&self) -> usize;
    /// Receive buffers allocated so far, if it counts them.
    fn buffers(&self) -> Option<u64>;
}

impl Tested for RingDriver {
    fn clock(&self) -> Time {
        RingDriver::clock(self)
    }
    fn connections(&self) -> usize {
        self.counters().connections
    }
    fn listeners(&self) -> usize {
        self.counters().listeners
    }
    fn buffers(&self) -> Option<u64> {
        Some(self.counters().buffers_allocated)
    }
}

impl Tested for GlommioDriver {
    fn clock(&self) -> Time {
        GlommioDriver::clock(self)
    }
    fn connections(&self) -> usize {
        self.counters().connections
    }
    fn listeners(&self) -> usize {
        self.counters().listeners
    }
    fn buffers(&self) -> Option<u64> {
        None
    }
}

/// A driver with one listener, and a small shard around it that tests look into.
pub(super) struct Shard<D> {
    pub(super) driver: D,
    pub(super) address: SocketAddr,
    pub(super) events: VecDeque<Event>,
}

impl<D: Tested> Shard<D> {
    pub(super) fn new() -> Shard<D> {
        Shard::with(DriverOptions::default())
    }

    pub(super) fn with(mut options: DriverOptions) -> Shard<D> {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), 4096).unwrap();
        let address = listener.local_addr().unwrap();
        options.listeners.push(Listener::Tcp(listener));
        Shard { driver: D::open(options).unwrap(), address, events: VecDeque::new() }
    }

    /// One turn of at most `limit`.
    pub(super) fn turn(&mut self, limit: Duration) {
        let until = self.driver.clock().after(limit);
        let mut events = Vec::new();
        self.driver.wait(Some(until), &mut events).unwrap();
        self.events.extend(events);
    }

    /// The next event; panics when none comes.
    pub(super) fn next(&mut self) -> Event {
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
    pub(super) fn silence(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.turn(Duration::from_millis(10));
            assert!(self.events.is_empty(), "{:?}", self.events);
        }
    }

    /// A client of this shard, and its connection.
    pub(super) fn client(&mut self) -> (TcpStream, ConnId) {
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

    pub(super) fn settle_to(&mut self, connections: usize) {
        let started = Instant::now();
        while self.driver.connections() != connections {
            assert!(started.elapsed() < PATIENCE, "{} connections", self.driver.connections());
            self.turn(Duration::from_millis(10));
        }
    }

    pub(super) fn received(&mut self, conn: ConnId) -> Bytes {
        match self.next() {
            Event::Received { conn: from, bytes } if from == conn => bytes,
            other => panic!("{other:?}"),
        }
    }

    /// The first event that is looked for; those before it are dropped.
    pub(super) fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next();
            if wanted(&event) {
                return event;
            }
        }
    }

    pub(super) fn closed(&mut self, conn: ConnId) -> Option<io::Error> {
        match self.next() {
            Event::Closed { conn: gone, error } if gone == conn => error,
            other => panic!("{other:?}"),
        }
    }
}

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

fn two_hundred_connections_come_and_go_again_and_again<D: Tested>() {
    let mut shard = Shard::<D>::new();
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

fn an_abort_during_a_send_resets_the_peer_and_frees_the_slot<D: Tested>() {
    let mut shard = Shard::<D>::new();
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
    // The kernel may be told of the close with the next turn only.
    shard.silence(Duration::from_millis(20));
    let mut bytes = Vec::new();
    let error = client.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "truncation does not look like an end");
}

fn a_peer_that_does_not_read_is_given_up_some_seconds_after_close<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (client, conn) = shard.client();
    shard.driver.send(conn, Bytes::from(vec![1; 64 << 20]));
    shard.turn(Duration::from_millis(10));
    let started = Instant::now();
    shard.driver.close(conn);
    shard.settle_to(0);
    let taken = started.elapsed();
    assert!(taken > FLUSH_MAX - Duration::from_millis(100), "{taken:?}");
    assert!(taken < FLUSH_MAX + Duration::from_secs(2), "{taken:?}");
    assert!(shard.events.is_empty());
    drop(client);
}

fn a_reset_by_the_peer_is_closed_with_an_error_and_its_end_without<D: Tested>() {
    let mut shard = Shard::<D>::new();
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

fn a_refused_connect_is_closed_with_an_error<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let conn = shard.driver.connect(&Address::Tcp(nobody));
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::ConnectionRefused);
    let conn = shard.driver.connect(&Address::Unix("/nonexistent/.s.PGSQL.5432".into()));
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::NotFound);
    let conn = shard.driver.connect(&Address::Unix("x".repeat(300).into()));
    assert!(shard.closed(conn).is_some());
    shard.settle_to(0);
}

fn clients_beyond_the_maximum_wait_and_do_not_keep_servers_out<D: Tested>() {
    let options = DriverOptions { connections_max: 4, clients_max: 2, ..DriverOptions::default() };
    let mut shard = Shard::<D>::with(options);
    // More than there are slots, with what they have to say, before the driver looks for the first time.
    let mut clients: Vec<_> = (0..100).map(|_| TcpStream::connect(shard.address).unwrap()).collect();
    clients.iter_mut().for_each(|client| client.write_all(b"hello").unwrap());
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address::Tcp(server.local_addr().unwrap());
    let mut open = VecDeque::new();
    for served in 0..clients.len() {
        if served >= 2 {
            shard.settle_to(2);
            shard.turn(Duration::from_millis(1));
            assert!(!shard.events.iter().any(|event| matches!(event, Event::Accepted { .. })));
            let out = shard.driver.connect(&to);
            shard.until(|event| matches!(event, Event::Connected { conn } if *conn == out));
            shard.driver.abort(out);
            shard.driver.abort(open.pop_front().unwrap());
        }
        let Event::Accepted { conn, .. } = shard.until(|event| matches!(event, Event::Accepted { .. })) else {
            panic!()
        };
        open.push_back(conn);
    }
    shard.until(|event| matches!(event, Event::Received { conn, bytes } if *conn == open[1] && bytes == "hello"));
    for _ in 0..2 {
        let out = shard.driver.connect(&to);
        shard.until(|event| matches!(event, Event::Connected { conn } if *conn == out));
    }
    let conn = shard.driver.connect(&to);
    assert_eq!(shard.closed(conn).unwrap().kind(), io::ErrorKind::QuotaExceeded);
    // Whoever waits when listening ends is closed.
    let mut late = TcpStream::connect(shard.address).unwrap();
    shard.silence(Duration::from_millis(20));
    shard.driver.stop_listening();
    shard.silence(Duration::from_millis(20));
    assert!(matches!(late.read(&mut [0; 1]), Ok(0) | Err(_)));
}

fn a_cancel_request_is_connect_send_and_close_in_one_breath<D: Tested>() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut shard = Shard::<D>::new();
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

fn a_connect_can_be_aborted<D: Tested>() {
    let mut shard = Shard::<D>::new();
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

fn actions_on_a_dead_id_do_nothing<D: Tested>() {
    let mut shard = Shard::<D>::new();
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

fn unix_clients_and_servers_work_alike<D: Tested>() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".s.PGSQL.5432");
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let mut shard = Shard::<D>::with(DriverOptions { listeners: vec![listener], ..DriverOptions::default() });
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

fn no_client_is_accepted_after_listening_stops<D: Tested>() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
    let mut shard = Shard::<D>::with(DriverOptions { listeners: vec![listener], ..DriverOptions::default() });
    let (mut client, conn) = shard.client();
    shard.driver.stop_listening();
    assert!(TcpStream::connect(shard.address).is_err());
    shard.silence(Duration::from_millis(20));
    assert!(shard.driver.listeners() == 0, "the listeners are closed");
    assert!(UnixStream::connect(&path).is_err());
    client.write_all(b"still here").unwrap();
    assert_eq!(&shard.received(conn)[..], b"still here");
}

/// The shard learns of the end of one connection while it opens another: it must still find who owned the first.
fn a_slot_is_not_used_again_before_the_shard_has_been_through_the_events<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address::Tcp(listener.local_addr().unwrap());
    let (client, first) = shard.client();
    drop(client);
    shard.closed(first);
    // Its slot may be free already, with the event in the shard's hands.
    let second = shard.driver.connect(&to);
    assert_ne!(second.index, first.index);
    shard.turn(Duration::ZERO);
    shard.turn(Duration::ZERO);
    let third = shard.driver.connect(&to);
    assert_eq!((third.index, third.generation), (first.index, first.generation + 1));
}

fn running_out_of_descriptors_neither_spins_nor_loses_clients<D: Tested>() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut shard = Shard::<D>::new();
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(shard.address).unwrap()).collect();
    let limit = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 2), maximum: limit.maximum }).unwrap();
    let mut turns = 0;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        shard.turn(Duration::from_secs(1));
        turns += 1;
    }
    assert!(turns < 40, "{turns} turns in a second");
    assert!(shard.events.len() < clients.len());
    setrlimit(Resource::Nofile, limit).unwrap();
    for _ in &clients {
        assert!(matches!(shard.next(), Event::Accepted { .. }));
    }
}

#[test]
#[ignore = "lowers the process's limit of descriptors; make test runs it alone"]
fn running_out_of_descriptors_is_survived_by_ring() {
    running_out_of_descriptors_neither_spins_nor_loses_clients::<RingDriver>();
}

#[test]
#[ignore = "lowers the process's limit of descriptors; make test runs it alone"]
fn running_out_of_descriptors_is_survived_by_glommio() {
    running_out_of_descriptors_neither_spins_nor_loses_clients::<GlommioDriver>();
}

on_each_driver!(
    two_hundred_connections_come_and_go_again_and_again,
    an_abort_during_a_send_resets_the_peer_and_frees_the_slot,
    a_peer_that_does_not_read_is_given_up_some_seconds_after_close,
    a_reset_by_the_peer_is_closed_with_an_error_and_its_end_without,
    a_refused_connect_is_closed_with_an_error,
    clients_beyond_the_maximum_wait_and_do_not_keep_servers_out,
    a_cancel_request_is_connect_send_and_close_in_one_breath,
    a_connect_can_be_aborted,
    actions_on_a_dead_id_do_nothing,
    unix_clients_and_servers_work_alike,
    no_client_is_accepted_after_listening_stops,
    a_slot_is_not_used_again_before_the_shard_has_been_through_the_events,
);
