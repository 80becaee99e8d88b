//! The event loops. Each shard is one pinned thread with its own driver, listener, sessions and pools.
//!
//! [`Shard`] turns the driver's completions into events of sessions and lets each answer at once; what they queue is
//! submitted together by the next [`Driver::wait`]. Nothing on this path is shared between shards but the sequencer
//! and the membership.
//!
//! | file | what it is for |
//! |---|---|
//! | `driver` | the operating system, as a shard sees it |
//! | `ring` | the default driver: io_uring, used directly |
//! | `glommio` | the second driver, for kernels that lack what `ring` needs |
//! | `choice`, `unavailable` | which driver runs here, and why another does not |
//! | `listen`, `slots`, `wake`, `limits` | what drivers share: listeners, the table of connections, the doorbell's agreement, how patient they are |
//! | `core` | owners of connections, timers, the applier pool |
//! | `spill` | files for scripts that exceed memory |
//! | `run` | the `run` command: threads, control plane, signals |

pub mod choice;
pub mod core;
pub mod driver;
pub mod glommio;
mod limits;
pub mod listen;
pub mod pool;
pub mod reload;
pub mod ring;
pub mod run;
mod slots;
pub mod spill;
#[cfg(test)]
mod suite;
pub mod unavailable;
mod wake;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::core::{Core, Deferred, Owner, SessionId};
use self::driver::{ConnId, Driver, Event, Peer, Time};
use crate::cluster::control::{ControlHandle, Reply, Request, Rows, ShardHandle, ShardMessage, Ticket};
use crate::cluster::membership::Membership;
use crate::sequencer::NodeId;
use crate::session::io::{Answer, Cx, Env, Fate, Io, Question};
use crate::session::{Event as SessionEvent, Session};
use crate::sim::planted::{Planted, is};

/// How long last words may take to leave when a shard ends: errors to clients, cancels and farewells to nodes, and the
/// end of commits that nothing can take back.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bits of a cancel key's pid that name the session's slot; the shard's number stands above them.
const SLOT_BITS: u32 = 20;

struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

/// A catalogue that is being read, once for all sessions of this shard that wait for it.
struct Reading {
    version: u64,
    waiting: Vec<(SessionId, u64)>,
}

/// One event loop.
pub struct Shard<D: Driver> {
    number: usize,
    core: Core<D>,
    env: Env,
    sessions: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    /// Sessions whose client had not logged in when this was looked through last, oldest first.
    starting: Vec<SessionId>,
    questions: HashMap<u64, SessionId>,
    catalogues: HashMap<Arc<str>, Reading>,
    control: ControlHandle,
    peers: Vec<ShardHandle>,
    watermarks: Vec<u64>,
    /// The doorbell has been rung since this shard looked last at what waits. Who has rung it has taken the flag that
    /// said so.
    rung: bool,
    stopping: bool,
    /// When idle backends are looked through.
    reap_at: Option<Time>,
    /// What the driver reports; kept for its room.
    events: Vec<Event>,
}

impl<D: Driver> Shard<D> {
    /// A shard with no client yet. `peers` are the handles of all shards, itself included, by number.
    pub fn new(number: usize, core: Core<D>, env: Env, control: ControlHandle, peers: Vec<ShardHandle>) -> Shard<D> {
        let watermarks = vec![0; core.nodes.len()];
        Shard {
            number,
            core,
            env,
            sessions: Vec::new(),
            free: Vec::new(),
            live: 0,
            starting: Vec::new(),
            questions: HashMap::new(),
            catalogues: HashMap::new(),
            control,
            peers,
            watermarks,
            rung: false,
            stopping: false,
            reap_at: None,
            events: Vec::new(),
        }
    }

    /// Runs until told to stop, or until it has drained.
    ///
    /// # Errors
    /// The driver has become unusable.
    pub fn run(&mut self) -> std::io::Result<()> {
        let mut until = self.before_sleep();
        while !self.stopping && (self.live > 0 || !self.env.draining.get()) {
            until = self.turn(until)?;
        }
        self.core.drop_pools(|_| true);
        self.core.drop_backends(|_| true);
        let end = self.core.driver.now().after(LAST_WORDS);
        // Queued only: the first of these turns hands it to the kernel.
        let mut until = self.turn(Some(Time::default()))?;
        while self.core.driver.now() < end && (self.live > 0 || !self.core.driver.is_settled()) {
            until = self.turn(until.into_iter().chain([end]).min())?;
        }
        Ok(())
    }

    /// One turn: waits until something has happened or `until` has come, takes it, and says when the next timer is due.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn turn(&mut self, until: Option<driver::Time>) -> std::io::Result<Option<driver::Time>> {
        let mut events = std::mem::take(&mut self.events);
        self.core.driver.wait(until, &mut events)?;
        for event in events.drain(..) {
            self.event(event);
            self.settle();
        }
        self.events = events;
        self.inbox();
        while let Some((session, kind)) = self.core.due() {
            self.tell(session, SessionEvent::Timer(kind));
            self.settle();
        }
        self.commits_moved();
        let until = self.before_sleep();
        Ok(self.reap(until))
    }

    /// Closes backends that have been idle for too long; when the next one may have been.
    fn reap(&mut self, until: Option<Time>) -> Option<Time> {
        let (limits, now) = (self.env.pool_limits(), self.core.driver.now());
        if self.reap_at.is_some_and(|at| at <= now) {
            let old = self.core.backends.reap(&limits, now);
            self.core.close_idle(old);
            self.reap_at = None;
        }
        if self.reap_at.is_none() {
            self.reap_at = self.core.backends.next_reap(&limits).map(|d| now.after(d));
        }
        until.into_iter().chain(self.reap_at).min()
    }

    /// Says that this shard waits for watermarks or at the gate, then looks once more: between the two nothing is lost.
    fn before_sleep(&mut self) -> Option<Time> {
        while !self.core.watchers.is_empty() {
            self.env.sequencer.watch(self.number);
            // What sessions acknowledge in this look takes the flag back, also from those that wait on: once more.
            if !self.commits_moved() {
                break;
            }
        }
        let others = self.env.sequencer.waiters_to_ring(self.number);
        for (i, peer) in self.peers.iter().enumerate() {
            if others & (1 << i) != 0 {
                peer.doorbell.ring();
            }
        }
        self.core.next_timer()
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Accepted { conn, peer } => self.accept(conn, peer),
            Event::Connected { conn } => match self.core.owner(conn) {
                Owner::Server(s) => self.tell(s, SessionEvent::Connected(conn)),
                Owner::Cancel(_, bytes) => {
                    // The server answers nothing; it closes when it has done its part.
                    self.core.driver.send(conn, bytes);
                }
                _ => {}
            },
            Event::Received { conn, bytes } => match self.core.owner(conn) {
                Owner::Client(s) => self.tell(s, SessionEvent::Client(bytes)),
                Owner::Server(s) => self.tell(s, SessionEvent::Server(conn, bytes)),
                Owner::Pooled(key) => self.core.drop_pooled(&key, conn),
                // What it says is news to the next client: that one gets another.
                Owner::Idle(_) => self.core.abort(conn),
                Owner::Cancel(..) | Owner::Nobody => {}
            },
            Event::Drained { conn } => match self.core.owner(conn) {
                Owner::Client(s) => self.tell(s, SessionEvent::ClientDrained),
                Owner::Server(s) => self.tell(s, SessionEvent::ServerDrained),
                _ => {}
            },
            Event::Closed { conn, error } => {
                let owner = self.core.owner(conn);
                self.core.own(conn, Owner::Nobody);
                self.core.backends.gone(conn);
                match owner {
                    Owner::Client(s) => self.tell(s, SessionEvent::ClientGone),
                    Owner::Server(s) => {
                        let why =
                            error.map_or_else(|| "the server closed the connection".to_owned(), |e| e.to_string());
                        self.tell(s, SessionEvent::ServerGone(conn, why));
                    }
                    Owner::Pooled(key) => {
                        self.core.drop_pooled(&key, conn);
                        self.probe(key.node);
                    }
                    Owner::Idle(node) => self.probe(node),
                    Owner::Cancel(s, _) => self.tell(s, SessionEvent::CancelDone),
                    Owner::Nobody => {}
                }
            }
            Event::Woken => self.rung = !is(Planted::DeafToRings),
        }
    }

    /// A connection that nobody used has broken: does its node stand?
    fn probe(&mut self, node: NodeId) {
        // Nobody waits for the answer: it has no token.
        let ticket = Ticket { shard: self.number, token: 0 };
        self.control.ask(ticket, Request::Stands { node });
    }

    /// Sees to it that one more connection may start. False: none may.
    fn makes_room(&mut self) -> bool {
        let limit = self.env.config.limits.starting_clients;
        if self.starting.len() < limit {
            return true;
        }
        let sessions = &self.sessions;
        let session = |id: &SessionId| {
            let slot = sessions.get(id.slot as usize).filter(|s| s.generation == id.generation)?;
            slot.session.as_deref()
        };
        self.starting.retain(|id| session(id).is_some_and(Session::is_starting));
        if self.starting.len() < limit {
            return true;
        }
        let Some(at) = self.starting.iter().position(|id| session(id).is_some_and(Session::is_unknown)) else {
            return false;
        };
        let oldest = self.starting.remove(at);
        self.tell(oldest, SessionEvent::MakeRoom);
        true
    }

    fn accept(&mut self, conn: ConnId, peer: Peer) {
        if !self.makes_room() {
            let limit = self.env.config.limits.starting_clients;
            self.core.driver.send(conn, crate::session::startup::too_many_starting(limit).encode());
            return self.core.driver.close(conn);
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(Slot { generation: 0, session: None });
            u32::try_from(self.sessions.len() - 1).unwrap_or(u32::MAX) // the driver's table is far smaller
        });
        let generation = self.sessions[slot as usize].generation;
        let id = SessionId { slot, generation };
        self.starting.push(id);
        self.core.own(conn, Owner::Client(id));
        self.core.current = id;
        let mut secret = [0u8; 4];
        self.core.driver.random(&mut secret);
        let pid = (u32::try_from(self.number).unwrap_or(0) << SLOT_BITS) | (slot + 1);
        let mut cx = Cx { env: &self.env, io: &mut self.core };
        let session = Session::new(conn, peer, (pid, u32::from_be_bytes(secret)), &mut cx);
        self.sessions[slot as usize].session = Some(Box::new(session));
        self.live += 1;
        self.env.recorder.borrow_mut().counters.sessions += 1;
    }

    /// Lets a session take an event. One that is gone takes none.
    fn tell(&mut self, id: SessionId, event: SessionEvent) {
        let Some(slot) = self.sessions.get_mut(id.slot as usize) else { return };
        if slot.generation != id.generation {
            return;
        }
        let Some(mut session) = slot.session.take() else { return };
        self.core.current = id;
        session.event(event, &mut Cx { env: &self.env, io: &mut self.core });
        let slot = &mut self.sessions[id.slot as usize];
        if session.is_over() {
            self.core.backends.forget(id);
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(id.slot);
            self.live -= 1;
        } else {
            slot.session = Some(session);
        }
    }

    /// What sessions left to be done.
    fn settle(&mut self) {
        for id in self.core.backends.take_turns() {
            self.tell(id, SessionEvent::Turn);
        }
        while let Some(next) = self.core.deferred.pop() {
            match next {
                Deferred::Cancel { pid, secret } => self.route_cancel(pid, secret),
                Deferred::Ask { session, token, question } => self.ask(session, token, question),
            }
        }
    }

    fn route_cancel(&mut self, pid: u32, secret: u32) {
        let shard = (pid >> SLOT_BITS) as usize;
        if shard == self.number {
            return self.cancel(pid, secret);
        }
        if let Some(peer) = self.peers.get(shard) {
            // A full inbox loses a cancel, which the protocol allows; nothing else goes this way.
            let _ = peer.inbox.push(ShardMessage::Cancel { pid, secret });
            peer.doorbell.ring();
        }
    }

    fn cancel(&mut self, pid: u32, secret: u32) {
        let at = (pid & ((1 << SLOT_BITS) - 1)).wrapping_sub(1);
        let Some(slot) = self.sessions.get(at as usize) else { return };
        if slot.session.as_ref().is_some_and(|s| s.cancel_key() == (pid, secret)) {
            let id = SessionId { slot: at, generation: slot.generation };
            self.tell(id, SessionEvent::Cancel);
        }
    }

    fn ask(&mut self, session: SessionId, token: u64, question: Question) {
        let request = match question {
            Question::Role { user } => Request::Role { user },
            Question::Catalogue { database } => return self.ask_catalogue(session, token, database),
            Question::BackendGone { node, pid } => Request::BackendGone { node, pid },
            Question::Blocks { node, pid } => Request::Blocks { node, pid },
            Question::Probe { node, pid } => Request::Probe { node, pid },
            Question::Prepared { database, gid, commit } => Request::Prepared { database, gid, commit },
            Question::Resolve { node, pid, database, gid, commit } => {
                Request::Resolve { node, pid, database, gid, commit }
            }
            Question::Slot { database, moment } => Request::Slot { database, moment },
            Question::NoSlot { databases } => Request::NoSlot { databases },
            Question::Image { database, gid, xid, version } => Request::Image { database, gid, xid, version },
            Question::Forget { databases } => return self.control.forget(databases),
            Question::Terminate { node, pid } => Request::TerminateBackend { node, pid },
            Question::Fate { node, database, xid } => Request::XactStatus { node, database, xid },
            Question::Detach { node, reason } => Request::Detach { node, reason },
            Question::Stands { node } => Request::Stands { node },
        };
        self.questions.insert(token, session);
        self.control.ask(Ticket { shard: self.number, token }, request);
    }

    fn inbox(&mut self) {
        while let Some(message) = self.peers[self.number].inbox.pop() {
            match message {
                ShardMessage::Reply { token, reply } => self.reply(token, reply),
                ShardMessage::Cancel { pid, secret } => self.cancel(pid, secret),
                ShardMessage::ForgetDatabase { database } => self.forget(&database),
                ShardMessage::Confirm { next } => self.confirm(&next),
                ShardMessage::Go { epoch } => self.go(epoch),
                ShardMessage::Reload(new) => {
                    self.env.config = new.config.clone();
                    self.env.pool_passwd.clone_from(&new.pool_passwd);
                }
                ShardMessage::Drain => self.drain(),
                ShardMessage::Stop => self.stop(),
            }
            self.settle();
        }
    }

    /// Idle backends of this database are closed (empty: all), and what its clients are told at their login is asked anew.
    fn forget(&mut self, database: &str) {
        let is = |name: &str| database.is_empty() || name == database;
        self.core.drop_pools(|key| is(&key.database));
        self.core.drop_backends(|key| is(&key.database));
        self.env.welcomes.borrow_mut().forget();
    }

    fn stop(&mut self) {
        for s in self.sessions.iter().filter_map(|s| s.session.as_ref()) {
            tracing::warn!(shard = self.number, session = s.summary(), "cut off");
        }
        self.stopping = true;
        self.tell_all(|| SessionEvent::Stop);
    }

    fn drain(&mut self) {
        tracing::info!(shard = self.number, sessions = self.live, "draining");
        self.env.draining.set(true);
        self.core.driver.stop_listening();
        self.tell_all(|| SessionEvent::Drain);
    }

    /// Relays nothing any more of nodes that are not in this membership, and says so.
    fn confirm(&mut self, next: &Membership) {
        let main = self.env.membership.load().main;
        if self.env.membership.confirm(next) {
            // Main has no appliers.
            self.core.drop_pools(|key| !next.is_up(key.node) || key.node == next.main);
            self.core.drop_backends(|key| !next.is_up(key.node) || (key.reader && key.node == next.main));
            if next.main != main {
                // What was read of the old main's catalogue has its OIDs.
                self.env.catalogue_versions.raise_all();
            }
            self.tell_all(|| SessionEvent::Confirm { main_lost: next.main != main });
        }
        self.control.confirmed(self.number, next.epoch);
    }

    /// All shards have confirmed: work goes on in the new membership.
    fn go(&mut self, epoch: u64) {
        if self.env.membership.go(epoch, self.env.sequencer.newest()) {
            self.tell_all(|| SessionEvent::Go);
        }
    }

    fn tell_all(&mut self, event: impl Fn() -> SessionEvent) {
        for slot in 0..self.sessions.len() {
            let id =
                SessionId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation: self.sessions[slot].generation };
            self.tell(id, event());
            self.settle();
        }
    }

    fn reply(&mut self, token: u64, reply: Reply) {
        if let Reply::Catalogue { database, rows } = reply {
            return self.take_catalogue(&database, rows);
        }
        let Some(session) = self.questions.remove(&token) else { return };
        let answer = match reply {
            Reply::Role(r) => Answer::Role(r.and_then(|row| row.map(run::role_from_row).transpose())),
            Reply::BackendGone(gone) => Answer::Gone(gone),
            Reply::Catalogue { .. } | Reply::Terminated => return,
            Reply::Blocks(blocks) => Answer::Blocks(blocks),
            Reply::Probe(probe) => Answer::Probe(probe),
            Reply::Prepared(fate) => Answer::Fate(fate),
            Reply::XactStatus(s) => Answer::Fate(match s.as_deref() {
                Some("committed") => Fate::Committed,
                Some("aborted") => Fate::Aborted,
                _ => Fate::Unknown,
            }),
            Reply::Detached(r) => Answer::Detached(r),
            Reply::Stands(s) => Answer::Stands(s),
            Reply::Slot(r) => Answer::Slot(r),
            Reply::Image(r) => Answer::Image(r),
        };
        self.tell(session, SessionEvent::Answer(token, answer));
    }

    /// Reads a catalogue, unless it is being read already and what is read will be new enough.
    fn ask_catalogue(&mut self, session: SessionId, token: u64, database: String) {
        let name: Arc<str> = Arc::from(database.as_str());
        let version = self.env.catalogue_versions.of(&name).current();
        if let Some(reading) = self.catalogues.get_mut(&name) {
            return reading.waiting.push((session, token));
        }
        self.catalogues.insert(name, Reading { version, waiting: vec![(session, token)] });
        self.control.ask(Ticket { shard: self.number, token }, Request::Catalogue { database });
    }

    fn take_catalogue(&mut self, database: &str, rows: Result<Vec<Rows>, String>) {
        let Some((name, reading)) = self.catalogues.remove_entry(database) else { return };
        let taken = rows.and_then(|rows| run::catalogue_from_rows(reading.version, &rows, &self.env.config));
        let answer = taken.map(|c| {
            self.env.catalogues.borrow_mut().insert(name, Arc::new(c));
        });
        for (session, token) in reading.waiting {
            self.tell(session, SessionEvent::Answer(token, Answer::Catalogue(answer.clone())));
        }
    }

    /// Tells sessions that wait for watermarks or at the gate that these have moved, or that it was handed over, until
    /// nothing moves any more. False: nothing had.
    fn commits_moved(&mut self) -> bool {
        let mut any = false;
        loop {
            let mut moved = std::mem::take(&mut self.rung);
            moved |= self.env.sequencer.is_due(self.number);
            for (i, seen) in self.watermarks.iter_mut().enumerate() {
                let now = self.env.sequencer.watermark(NodeId(u8::try_from(i).unwrap_or(u8::MAX)));
                moved |= now != *seen;
                *seen = now;
            }
            if !moved {
                return any;
            }
            any = true;
            for id in std::mem::take(&mut self.core.watchers) {
                // Who still waits afterwards says so again.
                self.tell(id, SessionEvent::Watermarks);
                self.settle();
            }
        }
    }

    /// Sessions that are not over, one line each; for logs and checkers.
    pub fn summaries(&self) -> Vec<String> {
        self.sessions.iter().filter_map(|s| s.session.as_ref()).map(|s| s.summary()).collect()
    }

    /// What each session keeps, by its slot.
    pub fn held(&self) -> impl Iterator<Item = (usize, crate::session::held::Held)> + '_ {
        self.sessions.iter().enumerate().filter_map(|(slot, s)| Some((slot, s.session.as_ref()?.held())))
    }

    /// Questions to the control plane that are not answered.
    pub fn open_questions(&self) -> usize {
        self.questions.len() + self.catalogues.len()
    }

    /// Clients of the whole process that count against num_init_children.
    pub fn counted_clients(&self) -> usize {
        self.env.clients.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// What sessions act upon.
    pub fn core(&self) -> &Core<D> {
        &self.core
    }

    /// What has been counted so far.
    pub fn counters(&self) -> crate::telemetry::Counters {
        self.env.recorder.borrow().counters
    }

    /// What was measured.
    pub fn recorder(self) -> crate::telemetry::Recorder {
        self.env.recorder.into_inner()
    }
}
