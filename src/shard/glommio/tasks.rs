//! The executor's tasks: one per listener and per connection, the doorbell's, and the heartbeat. Each ends by itself
//! when the driver does; none is dropped in the middle of what it waits for.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use futures_io::AsyncRead;
use glommio::net::{AcceptedTcpStream, TcpStream};
use glommio::timer::{Timer, sleep};
use rustix::io::FdFlags;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::slots::Life;
use super::state::{Shared, transient};
use super::sys;
use crate::shard::driver::{Address, Peer};
use crate::shard::limits::ACCEPT_RETRY;
use crate::shard::listen::{Listener, tcp_peer, tune_tcp};

/// glommio 0.9 can go to sleep with a task that is ready to run: in a pass that finds its second ring's completion
/// queue filled it runs nothing and takes that for "nothing to run". This bounds such a sleep.
const HEARTBEAT: Duration = Duration::from_millis(20);
/// Clients that one listener may accept in one turn.
const ACCEPTS_PER_TURN: u32 = 64;
/// Between attempts to connect to a Unix-domain socket whose backlog is full.
const UNIX_RETRY: Duration = Duration::from_millis(10);

/// A task, to be started by the next turn.
pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Waits until something has happened, or for this long.
pub(super) async fn turn(state: &Shared, starts: Vec<Task>, limit: Option<Duration>) {
    // What these and the woken tasks do is done in this same pass, also if the wait is over at once.
    state.borrow_mut().wake_parked();
    for task in starts {
        glommio::spawn_local(task).detach();
    }
    if limit == Some(Duration::ZERO) {
        return;
    }
    let mut timer = limit.map(Timer::new);
    poll_fn(|cx| {
        let mut state = state.borrow_mut();
        if state.restless || timer.as_mut().is_some_and(|timer| Pin::new(timer).poll(cx).is_ready()) {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    })
    .await;
}

/// Waits for the next turn.
async fn next_turn(state: &Shared) {
    let now = state.borrow().turn;
    poll_fn(|cx| {
        let mut state = state.borrow_mut();
        if state.turn > now || state.ending {
            return Poll::Ready(());
        }
        state.park(cx.waker());
        Poll::Pending
    })
    .await;
}

/// Counts a task from its start to its end, whatever that is.
struct Counted(Shared);

impl Counted {
    fn new(state: &Shared) -> Counted {
        state.borrow_mut().tasks += 1;
        Counted(state.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.borrow_mut().tasks -= 1;
    }
}

/// See [`HEARTBEAT`].
pub(super) async fn heartbeat(state: Shared) {
    let _counted = Counted::new(&state);
    while !state.borrow().ending {
        sleep(HEARTBEAT).await;
    }
}

/// Ends the wait that is under way when the doorbell was rung.
pub(super) async fn doorbell(state: Shared, line: OwnedFd) {
    let _counted = Counted::new(&state);
    let mut line = sys::stream(line);
    let mut rings = [0; 64];
    loop {
        match poll_fn(|cx| Pin::new(&mut line).poll_read(cx, &mut rings)).await {
            Ok(1..) => state.borrow_mut().stir(),
            Err(error) if transient(&error) => {}
            // Hung up.
            Ok(0) | Err(_) => return,
        }
    }
}

/// Accepts clients until the listener is shut down. An accept that is pending is never dropped: that would lose the
/// client and its descriptor.
pub(super) async fn accept(state: Shared, listener: Listener) {
    let _counted = Counted::new(&state);
    let (socket, tcp) = match listener {
        Listener::Tcp(listener) => (OwnedFd::from(listener), true),
        Listener::Unix(listener) => (OwnedFd::from(listener), false),
    };
    let listener = sys::listener(socket);
    let mut accepted = (0, 0);
    while !state.borrow().stopping {
        match listener.shared_accept().await.map_err(io::Error::from) {
            Ok(client) => {
                // It waits here, and those behind it in the listener's own queue. (Another listener may have taken the
                // last slot since this one began to accept.)
                while state.borrow().has_no_slot() {
                    next_turn(&state).await;
                }
                admit(&state, client, tcp);
            }
            // A client that gave up while it waited says nothing about the next.
            Err(error) if transient(&error) || error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) if state.borrow().stopping => break,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; whatever else may come must not spin either.
            Err(_) => sleep(ACCEPT_RETRY).await,
        }
        let turn = state.borrow().turn;
        accepted = if accepted.0 == turn { (turn, accepted.1 + 1) } else { (turn, 1) };
        if accepted.1 >= ACCEPTS_PER_TURN {
            state.borrow_mut().stir();
            next_turn(&state).await;
        }
    }
    state.borrow_mut().doors -= 1;
}

/// Takes a client on. One that is accepted although listening has ended, or that is gone already, is closed.
fn admit(state: &Shared, client: AcceptedTcpStream, tcp: bool) {
    let stream = client.bind_to_executor();
    // glommio accepts by two ways, and only one of them sets this flag.
    let _ = rustix::io::fcntl_setfd(sys::fd(&stream), FdFlags::CLOEXEC);
    let peer = if tcp { tcp_peer(sys::fd(&stream)) } else { Ok(Peer::Unix) };
    let (Ok(peer), false) = (peer, state.borrow().stopping) else { return };
    let index = state.borrow_mut().admit(stream, peer);
    if let Some(index) = index {
        glommio::spawn_local(connection(state.clone(), index, None)).detach();
    }
}

/// A connection's whole life, from the connect (if it is ours) to the end of its slot.
pub(super) async fn connection(state: Shared, index: usize, to: Option<Address>) {
    let _counted = Counted::new(&state);
    if let Some(to) = to {
        connect(&state, index, to).await;
    }
    poll_fn(|cx| state.borrow_mut().drive(index, cx)).await;
    let mut state = state.borrow_mut();
    state.slots.release(index);
    // A client may wait for the slot.
    state.stir();
}

/// Connects, unless the shard loses patience first.
async fn connect(state: &Shared, index: usize, to: Address) {
    let result = {
        let mut attempt = pin!(open(to));
        poll_fn(|cx| {
            state.borrow_mut().listen(index, cx);
            if state.borrow().slots[index].life == Life::Dying {
                return Poll::Ready(None);
            }
            attempt.as_mut().poll(cx).map(Some)
        })
        .await
    };
    if let Some(result) = result {
        state.borrow_mut().connected(index, result);
    }
}

async fn open(to: Address) -> io::Result<TcpStream> {
    match to {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            tune_tcp(SockRef::from(&sys::fd(&stream)))?;
            Ok(stream)
        }
        // glommio's own type does not tell its descriptor. A connect to a Unix-domain socket is never under way: it
        // succeeds, fails, or finds the backlog full.
        Address::Unix(path) => {
            let address = SockAddr::unix(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            loop {
                match socket.connect(&address) {
                    Ok(()) => return Ok(sys::stream(socket.into())),
                    Err(error) if transient(&error) => sleep(UNIX_RETRY).await,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}
