//! A TCP relay that delays each direction, for bench/compare: a network of 1 ms round trips on one machine.
//!
//! `delay MICROSECONDS LISTEN_PORT:TARGET_PORT ...`, all on 127.0.0.1. Prints `ready` once it listens, and ends when
//! its standard input is closed: it cannot outlive the program that holds the other end.
//!
//! One thread and one queue: the delay is the same for all bytes, so what came first is due first. Only the order and
//! the delay are a network's; there is no loss, no bandwidth limit, and no back pressure (a benchmark's requests and
//! answers bound what is under way). Connecting itself is not delayed.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error>;

/// The epoll key of standard input; listeners follow, then connections.
const STDIN: u64 = 0;

/// One end of a relayed connection.
struct End {
    stream: TcpStream,
    peer: u64,
    /// Due bytes that the kernel did not take yet.
    backlog: VecDeque<u8>,
    /// Whether epoll is to tell when the kernel takes more.
    blocked: bool,
    /// The other end has closed: close for writing when the backlog is gone.
    closing: bool,
    /// Nothing more comes from here.
    ended: bool,
}

/// Bytes under way to an end; no bytes: the sender has closed.
struct Parcel {
    due: Instant,
    to: u64,
    bytes: Vec<u8>,
}

struct Relay {
    delay: Duration,
    epoll: OwnedFd,
    listeners: HashMap<u64, (TcpListener, u16)>,
    ends: HashMap<u64, End>,
    under_way: VecDeque<Parcel>,
    next_key: u64,
    buffer: Vec<u8>,
}

impl Relay {
    fn new(delay: Duration, ports: &[(u16, u16)]) -> Result<Relay, Error> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, std::io::stdin(), EventData::new_u64(STDIN), EventFlags::IN)?;
        let mut listeners = HashMap::new();
        let mut next_key = STDIN + 1;
        for &(port, target) in ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .map_err(|e| format!("cannot listen on 127.0.0.1:{port}: {e}"))?;
            listener.set_nonblocking(true)?;
            epoll::add(&epoll, &listener, EventData::new_u64(next_key), EventFlags::IN)?;
            listeners.insert(next_key, (listener, target));
            next_key += 1;
        }
        let (ends, under_way) = (HashMap::new(), VecDeque::new());
        Ok(Relay { delay, epoll, listeners, ends, under_way, next_key, buffer: vec![0; 64 * 1024] })
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            if self.wait()? {
                let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once))?;
            }
            for event in &events {
                let (key, flags) = (event.data.u64(), event.flags);
                if key == STDIN {
                    return Ok(());
                } else if self.listeners.contains_key(&key) {
                    self.accept(key)?;
                } else {
                    if flags.contains(EventFlags::OUT) {
                        self.flush(key);
                    }
                    if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                        self.receive(key);
                    }
                }
            }
            self.deliver();
        }
    }

    /// Sleeps until a socket has something (true) or the first parcel is due (false). An epoll descriptor can itself be
    /// polled, and poll's time-out has nanoseconds where epoll_wait's has milliseconds.
    fn wait(&self) -> Result<bool, Error> {
        let left = self.under_way.front().map(|parcel| parcel.due.saturating_duration_since(Instant::now()));
        let timeout = left.map(Timespec::try_from).transpose()?;
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self, key: u64) -> Result<(), Error> {
        while let Some((listener, target)) = self.listeners.get(&key) {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            };
            // A target that is down closes the client's connection, as a refused connection would.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, *target)) else { continue };
            let (first, second) = (self.next_key, self.next_key + 1);
            self.next_key += 2;
            for (key, peer, stream) in [(first, second, client), (second, first, server)] {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll::add(&self.epoll, &stream, EventData::new_u64(key), EventFlags::IN)?;
                let backlog = VecDeque::new();
                self.ends.insert(key, End { stream, peer, backlog, blocked: false, closing: false, ended: false });
            }
        }
        Ok(())
    }

    /// Takes what an end has sent. A short read has emptied the socket; if not, epoll tells again.
    fn receive(&mut self, key: u64) {
        let Some(end) = self.ends.get_mut(&key).filter(|end| !end.ended) else { return };
        let length = match end.stream.read(&mut self.buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => 0,
        };
        let (to, bytes) = (end.peer, self.buffer[..length].to_vec());
        if length == 0 {
            end.ended = true;
            // Without this a closed connection would be reported without end. Failing, it is out of the set already.
            let _gone = epoll::delete(&self.epoll, &end.stream);
        }
        self.under_way.push_back(Parcel { due: Instant::now() + self.delay, to, bytes });
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.under_way.front().is_some_and(|parcel| parcel.due <= now) {
            let Some(Parcel { to, bytes, .. }) = self.under_way.pop_front() else { return };
            let Some(end) = self.ends.get_mut(&to) else { continue };
            end.closing |= bytes.is_empty();
            end.backlog.extend(bytes);
            self.flush(to);
        }
    }

    /// Writes what is due to an end; what the kernel does not take waits for EPOLLOUT.
    fn flush(&mut self, key: u64) {
        let Some(end) = self.ends.get_mut(&key) else { return };
        let mut broken = false;
        while !end.backlog.is_empty() && !broken {
            match end.stream.write(end.backlog.as_slices().0) {
                Ok(length) => drop(end.backlog.drain(..length)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => broken = e.kind() != ErrorKind::Interrupted,
            }
        }
        // Whoever has closed reads no more either: PostgreSQL's protocol knows no half-closed connections.
        broken |= end.ended && !end.backlog.is_empty();
        if !broken && end.blocked == end.backlog.is_empty() {
            end.blocked = !end.blocked;
            let flags = if end.blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            broken = epoll::modify(&self.epoll, &end.stream, EventData::new_u64(key), flags).is_err();
        }
        let closed = end.closing && end.backlog.is_empty();
        if closed {
            broken |= end.stream.shutdown(Shutdown::Write).is_err();
        }
        if broken || (closed && end.ended) {
            let peer = end.peer;
            self.ends.remove(&key);
            self.ends.remove(&peer);
        }
    }
}

/// `LISTEN:TARGET`.
fn ports(text: &str) -> Result<(u16, u16), Error> {
    let (listen, target) = text.split_once(':').ok_or_else(|| format!("{text}: must be LISTEN_PORT:TARGET_PORT"))?;
    Ok((listen.parse()?, target.parse()?))
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((delay, rest)) = arguments.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err("usage: delay MICROSECONDS LISTEN_PORT:TARGET_PORT ...".into());
    };
    let delay = Duration::from_micros(delay.parse().map_err(|e| format!("{delay}: {e}"))?);
    let ports = rest.iter().map(|text| ports(text)).collect::<Result<Vec<_>, _>>()?;
    // The kernel otherwise adds up to 50 microseconds to each sleep, to wake less often.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut relay = Relay::new(delay, &ports)?;
    println!("ready");
    relay.run()
}
