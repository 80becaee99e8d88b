//! Two registers, each counted up by a writer of its own, and readers of both, everywhere.
//!
//! What the readers have seen must be the history of one database: of any two pairs of values one is as new as the
//! other in both registers (else two readers have seen two commits in opposite orders, a *long fork*, or one reader has
//! seen half of a history), and whoever starts to read later than a commit was acknowledged, or than somebody else has
//! finished reading it, sees it too.

use super::cluster::{Cluster, PROTOCOLS, Protocol, Session, code, patiently, words};
use crate::support::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_postgres::Error;

/// A way to read both registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// One SELECT outside a transaction block.
    Single,
    /// Two in a READ ONLY transaction of a stated level.
    ReadOnly,
    /// Two in a READ ONLY transaction at the default level.
    ReadOnlyByDefault,
    /// Two in a transaction at the default level that might write.
    Block,
    /// Two of both registers in a READ ONLY transaction at READ COMMITTED, each with a snapshot of its own.
    Committed,
}

const BOTH: &str = "SELECT sum(v) FILTER (WHERE id = 1)::bigint, sum(v) FILTER (WHERE id = 2)::bigint, \
                    (SELECT max(id) FROM node) FROM register";
const FIRST: &str = "SELECT v, (SELECT max(id) FROM node) FROM register WHERE id = 1";
const SECOND: &str = "SELECT v, (SELECT max(id) FROM node) FROM register WHERE id = 2";

impl Reading {
    fn begin(self) -> Option<&'static str> {
        match self {
            Reading::Single => None,
            Reading::ReadOnly => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Reading::ReadOnlyByDefault => Some("BEGIN READ ONLY"),
            Reading::Block => Some("BEGIN"),
            Reading::Committed => Some("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"),
        }
    }

    /// Reads both registers once and notes it.
    pub async fn read(self, session: &Session, who: &str, seen: &RefCell<Seen>) -> Result<(), Error> {
        if let Some(begin) = self.begin() {
            session.run(begin).await?;
        }
        if self == Reading::Committed {
            for _ in 0..2 {
                let floor = seen.borrow().floor.clone();
                let row = session.numbers(BOTH).await?[0].clone();
                seen.borrow_mut().observe(self, who, [row[0], row[1]], row[2], &floor);
            }
            return session.run("COMMIT").await;
        }
        // The snapshot is taken no earlier than by the first statement.
        let floor = seen.borrow().floor.clone();
        let (pair, node) = if self == Reading::Single {
            let row = &session.numbers(BOTH).await?[0];
            ([row[0], row[1]], row[2])
        } else {
            let first = session.numbers(FIRST).await?[0].clone();
            // Its transaction goes on, but whoever begins to read from now on begins later than this was seen.
            let note = format!("{who} has read it on node {}", first[1]);
            seen.borrow_mut().finished(0, first[0], &note);
            let second = session.numbers(SECOND).await?[0].clone();
            session.run("COMMIT").await?;
            ([first[0], second[0]], second[1])
        };
        seen.borrow_mut().observe(self, who, pair, node, &floor);
        Ok(())
    }
}

/// The newest value that must be seen from now on, and why.
type Floor = [(i64, String); 2];

/// What the readers have seen.
pub struct Seen {
    started: Instant,
    floor: Floor,
    /// The pairs seen so far and who saw them first: in this order both values grow, unless there is a fork.
    pairs: BTreeMap<[i64; 2], String>,
    /// Two observations that no order of commits explains.
    pub fork: Option<String>,
    /// An observation of the past.
    pub went_back: Option<String>,
    /// How often each kind of reading was answered by each node.
    pub answers: BTreeMap<(Reading, i64), usize>,
    /// Commits that were acknowledged.
    pub commits: usize,
    /// Errors, where they are noted: who got them, and their SQLSTATE.
    pub errors: BTreeMap<(Option<Reading>, String), usize>,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen {
            started: Instant::now(),
            floor: Floor::default(),
            pairs: BTreeMap::new(),
            fork: None,
            went_back: None,
            answers: BTreeMap::new(),
            commits: 0,
            errors: BTreeMap::new(),
        }
    }
}

impl Seen {
    fn now(&self) -> String {
        format!("at {:.1} ms", self.started.elapsed().as_secs_f64() * 1e3)
    }

    /// Whoever starts from now on must see this value of a register.
    fn finished(&mut self, register: usize, value: i64, why: &str) {
        if value > self.floor[register].0 {
            self.floor[register] = (value, format!("{why}, {}", self.now()));
        }
    }

    /// A writer was told that it has committed this.
    pub fn committed(&mut self, register: usize, value: i64, how: &str) {
        self.commits += 1;
        self.finished(register, value, &format!("its commit was acknowledged ({how})"));
    }

    /// `floor` is what had to be seen when the reading started.
    fn observe(&mut self, reading: Reading, who: &str, pair: [i64; 2], node: i64, floor: &Floor) {
        *self.answers.entry((reading, node)).or_default() += 1;
        let note = format!("{who} on node {node}, {}", self.now());
        for register in [0, 1] {
            let (least, why) = &floor[register];
            if pair[register] < *least && self.went_back.is_none() {
                let value = pair[register];
                self.went_back = Some(format!("{note}, has read {value} of register {register}, not {least}: {why}"));
            }
            self.finished(register, pair[register], &format!("{who} has read it on node {node}"));
        }
        let before = self.pairs.range(..pair).next_back();
        let after = self.pairs.range(pair..).next();
        let other = before.filter(|(p, _)| p[1] > pair[1]).or(after.filter(|(p, _)| p[1] < pair[1]));
        if let Some((other, witness)) = other.filter(|_| self.fork.is_none()) {
            self.fork = Some(format!("{note}, has read {pair:?}, and {witness}, has read {other:?}"));
        }
        self.pairs.entry(pair).or_insert(note);
    }

    /// The pairs of values that were seen.
    pub fn pairs(&self) -> Vec<[i64; 2]> {
        self.pairs.keys().copied().collect()
    }

    /// Fails if anything was seen that one server would not have shown.
    pub fn assert_sound(&self) {
        assert!(self.fork.is_none() && self.went_back.is_none(), "{:?} {:?}", self.fork, self.went_back);
    }

    /// The least number of answers to one kind of reading that one of these nodes gave.
    pub fn least(&self, reading: Reading, nodes: std::ops::Range<i64>) -> usize {
        nodes.map(|n| self.answers.get(&(reading, n)).copied().unwrap_or(0)).min().unwrap_or(0)
    }

    /// One line for the test's output.
    pub fn summary(&self) -> String {
        let (commits, pairs, answers) = (self.commits, self.pairs.len(), &self.answers);
        format!("{commits} commits, {pairs} pairs of values, answers by node {answers:?}, errors {:?}", self.errors)
    }
}

/// What clients do about errors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// There must be none.
    Fail,
    /// They note them and go on.
    Note,
}

/// Both writers write at each beat: their commits are under way at the same time, and then all is quiet for a while, so
/// that replicas have something to answer.
const BEAT: Duration = Duration::from_millis(50);

/// How clients of [`work`] are to behave.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub readings: &'a [Reading],
    /// Sessions for each kind of reading.
    pub readers: usize,
    pub errors: Errors,
}

impl<'a> Plan<'a> {
    pub fn of(readings: &'a [Reading]) -> Plan<'a> {
        Plan { readings, readers: 3, errors: Errors::Fail }
    }
}

/// Both writers and the readers at work, until `enough` says so; it is asked every few milliseconds.
pub async fn work(cluster: &Cluster, plan: Plan<'_>, mut enough: impl FnMut(&Seen, Duration) -> bool) -> Seen {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let stop = Rc::new(Cell::new(false));
    let mut tasks = Vec::new();
    for register in [0, 1] {
        let sessions = [cluster.session(Protocol::Simple).await, cluster.session(Protocol::Prepared).await];
        let id = register as i64 + 1;
        let last = cluster.on_node(0).await.numbers(&format!("SELECT v FROM register WHERE id = {id}")).await.unwrap();
        let (seen, stop, last) = (seen.clone(), stop.clone(), last[0][0]);
        tasks.push(tokio::task::spawn_local(write(sessions, register, last, plan.errors, seen, stop)));
    }
    for (i, &reading) in plan.readings.iter().cycle().take(plan.readings.len() * plan.readers).enumerate() {
        let protocol = PROTOCOLS[(i / plan.readings.len()) % PROTOCOLS.len()];
        let mut session = cluster.session(protocol).await;
        let url = cluster.sandbox.url("postgres");
        let (seen, stop, errors) = (seen.clone(), stop.clone(), plan.errors);
        tasks.push(tokio::task::spawn_local(async move {
            let (who, mut random) = (format!("reader {i} ({reading:?}, {protocol:?})"), Random::new(i as u64));
            while !stop.get() {
                if let Err(error) = reading.read(&session, &who, &seen).await {
                    note(errors, &who, Some(reading), &error, &seen);
                    if session.run("ROLLBACK").await.is_err() {
                        session = Session::connect(&url, protocol).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(random.below(3) as u64)).await;
            }
        }));
    }
    let started = Instant::now();
    while !enough(&seen.borrow(), started.elapsed()) && !tasks.iter().any(|t| t.is_finished()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.set(true);
    for task in tasks {
        patiently("a client's end", task).await.unwrap();
    }
    Rc::into_inner(seen).unwrap().into_inner()
}

fn note(errors: Errors, who: &str, reading: Option<Reading>, error: &Error, seen: &RefCell<Seen>) {
    assert!(errors == Errors::Note, "{who}: {}", words(error));
    *seen.borrow_mut().errors.entry((reading, code(error))).or_default() += 1;
}

/// Counts one register up, each time in another way.
async fn write(
    [simple, prepared]: [Session; 2],
    register: usize,
    last: i64,
    errors: Errors,
    seen: Rc<RefCell<Seen>>,
    stop: Rc<Cell<bool>>,
) {
    let mut random = Random::new(register as u64 + 100);
    for n in last + 1.. {
        let beat = seen.borrow().started.elapsed().as_micros() / BEAT.as_micros() + 1;
        let next = seen.borrow().started + BEAT * u32::try_from(beat).unwrap();
        tokio::time::sleep_until(next.into()).await;
        tokio::time::sleep(Duration::from_millis(random.below(4) as u64)).await;
        if stop.get() {
            return;
        }
        let update = format!("UPDATE register SET v = {n} WHERE id = {}", register + 1);
        let how = ["a single statement", "an extended one", "a block", "an extended block", "one string"];
        let how = how[n as usize % how.len()];
        let done = match n % 5 {
            0 => simple.run(&update).await,
            1 => prepared.run(&update).await,
            2 => in_block(&simple, &update).await,
            3 => in_block(&prepared, &update).await,
            _ => simple.run(&format!("BEGIN; {update}; COMMIT")).await,
        };
        match done {
            Ok(()) => seen.borrow_mut().committed(register, n, how),
            Err(error) => {
                note(errors, &format!("writer {register}, {how}"), None, &error, &seen);
                for session in [&simple, &prepared] {
                    session.run("ROLLBACK").await.unwrap();
                }
            }
        }
    }
}

async fn in_block(session: &Session, update: &str) -> Result<(), Error> {
    session.run("BEGIN").await?;
    session.run(update).await?;
    session.run("COMMIT").await
}
