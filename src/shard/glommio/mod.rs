//! The second driver: glommio's executor, for kernels from 5.8 that lack what `ring` needs, and on request.
//!
//! [`Driver::wait`] is a blocking call and glommio is asynchronous. So the executor runs *inside* the wait, and only
//! there: tasks for listeners and connections push events, and the future that the executor is given is over when
//! there are any. Between two waits the executor stands still while the shard works through the events; what the shard
//! asks for is written down, and done at the beginning of the next wait. Neither the shard nor the trait knows that
//! there are tasks.
//!
//! What is queued leaves by send(2) before the executor runs, many chunks with one call; glommio is asked when the
//! kernel takes no more. Bytes are received into one buffer per shard and go on from there without a copy.
//!
//! glommio 0.9.0 (2024) is the newest there is, and has traps: `tasks` and `doorbell` say how each is stepped around.
//!
//! | file | what it is for |
//! |---|---|
//! | `mod` | the driver: what the shard calls |
//! | `tasks` | what runs in the executor |
//! | `state` | what tasks and driver share: turns, and a connection's part in one |
//! | `progress` | how bytes leave, and how connections end |
//! | `slots` | what this driver keeps of each connection |
//! | `buffer` | what is received into |
//! | `doorbell` | waking a shard that sleeps |
//! | `sys` | from descriptors to glommio's sockets; all `unsafe` |
//! | `probe` | can it run here, and why not |

mod buffer;
mod doorbell;
mod probe;
mod progress;
mod slots;
mod state;
mod sys;
mod tasks;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use glommio::timer::sleep;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use socket2::SockRef;

use super::driver::{Address, ConnId, Doorbell, Driver, DriverOptions, Event, SocketDriver, Time};
use super::unavailable::Unavailable;
use doorbell::GlommioDoorbell;
use slots::{Life, Own};
use state::{Shared, State};
use tasks::Task;

/// Bytes of registered memory that the executor pins, three times over: the least that glommio takes, and no socket
/// uses it. Its default of 10 MiB does not fit common limits of locked memory.
const IO_MEMORY: usize = 64 * 1024;
/// The pre-emption timer, which serves no purpose here (no task runs for long) and whose expiry at the wrong moment
/// puts the executor to sleep with work to do.
const PREEMPT_TIMER: Duration = Duration::from_secs(3600);
/// How long a dropped driver waits for its tasks to end.
const DROP_WAIT: Duration = Duration::from_secs(1);

/// What a driver has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GlommioCounters {
    /// Slots in use now, those included that are being closed.
    pub connections: usize,
    /// Listeners that accept.
    pub listeners: usize,
}

/// The glommio driver of one shard. To be created, used and dropped on the shard's own thread, which is pinned already
/// where that is wanted: an executor without a placement stays where its thread is.
///
/// Leaves to the shard what [`super::ring::RingDriver`] leaves to it.
pub struct GlommioDriver {
    state: Shared,
    /// `None` only in `drop`.
    executor: Option<LocalExecutor>,
    /// The executor has panicked and is of no use any more.
    broken: bool,
    /// Started by the next wait.
    starts: Vec<Task>,
    doorbell: Arc<GlommioDoorbell>,
    /// The listeners once more, to shut them down.
    doors: Vec<OwnedFd>,
    now: Time,
}

impl GlommioDriver {
    /// Makes the executor; its tasks start with the first wait.
    ///
    /// # Errors
    /// Why it cannot run here.
    pub fn new(options: DriverOptions) -> Result<GlommioDriver, Unavailable> {
        probe::memory_lock()?;
        let executor = make_executor().map_err(|error| probe::explain("making an executor", error))?;
        let (doorbell, line) = GlommioDoorbell::new().map_err(|error| probe::explain("a pair of sockets", error))?;
        let receive_buffer_size = options.receive_buffer_size.clamp(4096, u32::MAX as usize);
        let mut state = State::new(&options, receive_buffer_size);
        let mut doors = Vec::new();
        for listener in &options.listeners {
            let handle = listener.blocking().and_then(|()| listener.as_fd().try_clone_to_owned());
            doors.push(handle.map_err(|error| probe::explain("preparing a listener", error))?);
        }
        state.doors = doors.len();
        let state = Rc::new(RefCell::new(state));
        let mut starts: Vec<Task> =
            vec![Box::pin(tasks::heartbeat(state.clone())), Box::pin(tasks::doorbell(state.clone(), line))];
        for listener in options.listeners {
            starts.push(Box::pin(tasks::accept(state.clone(), listener)));
        }
        Ok(GlommioDriver {
            state,
            executor: Some(executor),
            broken: false,
            starts,
            doorbell: Arc::new(doorbell),
            doors,
            now: Time::default(),
        })
    }

    /// What it has done so far.
    pub fn counters(&self) -> GlommioCounters {
        let state = self.state.borrow();
        GlommioCounters { connections: state.slots.len(), listeners: state.doors }
    }

    #[cfg(test)]
    pub(in crate::shard) fn clock(&self) -> Time {
        self.state.borrow().clock()
    }

    /// How long the wait may sleep.
    fn patience(&self, until: Option<Time>) -> Option<Duration> {
        let state = self.state.borrow();
        let first = state.slots.first_deadline().into_iter().chain(until).min()?;
        Some(first.since(state.clock()))
    }

    /// Lets the executor run until this is over. A panic inside it is glommio's way to say that the kernel refused it
    /// something.
    fn run(&mut self, future: impl Future<Output = ()>) -> io::Result<()> {
        let Some(executor) = self.executor.as_ref().filter(|_| !self.broken) else {
            return Err(io::Error::other("glommio's executor has panicked before"));
        };
        catch_unwind(AssertUnwindSafe(|| executor.run(future))).map_err(|panic| {
            self.broken = true;
            let why = panic.downcast_ref::<String>().map(String::as_str);
            let why = why.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no word)");
            io::Error::other(format!("glommio's executor has panicked: {why}"))
        })
    }
}

/// An executor on this thread.
fn make_executor() -> io::Result<LocalExecutor> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY).preempt_timer(PREEMPT_TIMER);
    builder.make().map_err(io::Error::from)
}

impl SocketDriver for GlommioDriver {
    fn open(options: DriverOptions) -> Result<GlommioDriver, Unavailable> {
        GlommioDriver::new(options)
    }

    fn probe() -> Result<String, Unavailable> {
        probe::probe()
    }
}

impl Driver for GlommioDriver {
    fn connect(&mut self, to: &Address) -> ConnId {
        let mut state = self.state.borrow_mut();
        match state.slots.insert(Life::Connecting { closing: false }, Own::default()) {
            Ok(index) => {
                self.starts.push(Box::pin(tasks::connection(self.state.clone(), index, Some(to.clone()))));
                state.slots.id(index)
            }
            Err(_) => {
                let conn = state.slots.phantom();
                let error = io::Error::new(io::ErrorKind::QuotaExceeded, "the shard's connections_max is reached");
                state.report(Event::Closed { conn, error: Some(error) });
                conn
            }
        }
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        let mut state = self.state.borrow_mut();
        let Some(index) = state.slots.find(conn) else { return };
        let slot = &mut state.slots[index];
        if bytes.is_empty() || slot.send_error.is_some() {
            return;
        }
        slot.queued += bytes.len();
        slot.above_high |= slot.queued > Self::HIGH_WATER;
        slot.queue.push_back(bytes);
        state.touch(index, false);
    }

    fn queued(&self, conn: ConnId) -> usize {
        let state = self.state.borrow();
        state.slots.find(conn).map_or(0, |index| state.slots[index].queued)
    }

    fn pause(&mut self, conn: ConnId) {
        let mut state = self.state.borrow_mut();
        let Some(index) = state.slots.find(conn) else { return };
        state.slots[index].receive_wanted = false;
    }

    fn resume(&mut self, conn: ConnId) {
        let mut state = self.state.borrow_mut();
        let Some(index) = state.slots.find(conn) else { return };
        state.slots[index].receive_wanted = true;
        state.touch(index, true);
    }

    fn close(&mut self, conn: ConnId) {
        let mut state = self.state.borrow_mut();
        let Some(index) = state.slots.find(conn) else { return };
        state.begin_close(index);
    }

    /// A connection with bytes that were not sent is reset, so that the peer does not take what it has for the whole;
    /// any other is closed in the ordinary way.
    fn abort(&mut self, conn: ConnId) {
        let mut state = self.state.borrow_mut();
        let Some(index) = state.slots.find(conn) else { return };
        let reset = state.slots[index].queued > 0;
        state.die(index, reset);
    }

    fn stop_listening(&mut self) {
        self.state.borrow_mut().stopping = true;
        for door in self.doors.drain(..) {
            // At once; the kernel resets clients that nobody has accepted, and ends the accept that is pending.
            let _ = SockRef::from(&door).shutdown(std::net::Shutdown::Both);
        }
    }

    fn is_settled(&self) -> bool {
        self.state.borrow().slots.settled()
    }

    fn now(&self) -> Time {
        self.now
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::clone(&self.doorbell) as Arc<dyn Doorbell>
    }

    fn random(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("getrandom(2) does not fail once the machine's pool has been initialised");
    }

    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> io::Result<()> {
        self.state.borrow_mut().begin_turn();
        let may_sleep = !self.state.borrow().restless && self.doorbell.bell.fall_asleep();
        let limit = if may_sleep { self.patience(until) } else { Some(Duration::ZERO) };
        let (state, starts) = (self.state.clone(), std::mem::take(&mut self.starts));
        let ran = self.run(async move { tasks::turn(&state, starts, limit).await });
        let rung = self.doorbell.bell.awake();
        let mut state = self.state.borrow_mut();
        self.now = state.clock();
        state.expire(self.now);
        if rung {
            events.push(Event::Woken);
        }
        events.append(&mut state.events);
        state.restless = false;
        state.waiting = None;
        ran
    }
}

impl Drop for GlommioDriver {
    /// An executor that is dropped with live tasks can panic: each is led to its end first, and an executor that cannot
    /// be emptied is leaked.
    fn drop(&mut self) {
        self.stop_listening();
        self.doorbell.hang_up();
        let state = self.state.clone();
        {
            let mut state = state.borrow_mut();
            state.ending = true;
            let in_use: Vec<usize> = state.slots.in_use().collect();
            for index in in_use {
                state.die(index, false);
            }
            state.begin_turn();
        }
        let starts = std::mem::take(&mut self.starts);
        let ended = self.state.clone();
        let end = async move {
            let started = Instant::now();
            tasks::turn(&ended, starts, Some(Duration::ZERO)).await;
            while ended.borrow().tasks > 0 && started.elapsed() < DROP_WAIT {
                sleep(Duration::from_millis(1)).await;
                ended.borrow_mut().wake_parked();
            }
            // What their sockets waited for is cancelled by a pass of the executor.
            sleep(Duration::from_millis(1)).await;
        };
        let ran = if std::thread::panicking() { Err(io::ErrorKind::Other.into()) } else { self.run(end) };
        if ran.is_err() || state.borrow().tasks > 0 {
            std::mem::forget(self.executor.take());
        }
    }
}
