//! One client: a small state machine that speaks the protocol and holds every answer against what it asked.
//!
//! | part | what it is for |
//! |---|---|
//! | `speak` | by which messages a request is said, and what each must be answered with |
//! | `names` | which statements it has prepared |
//! | `hear` | what it is told, message by message |
//! | this file | transactions: what is sent next, and how each has ended |

mod hear;
mod names;
mod speak;

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;

use self::hear::Awaited;
use self::speak::{Place, Speaker};
use super::schedule::Random;
use super::workload::maker::{Maker, Mix};
use super::workload::{ACCOUNTS, BALANCE, Effect, How, Plan, Request, Sees, Statement};
use crate::wire::front;

/// Most transactions that are sent at once.
const BURST_MAX: usize = 4;

/// What is known of a transaction's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The client was told that it is committed.
    Acknowledged,
    /// It is not, and will not be.
    Failed,
    /// The client does not know.
    Unknown,
}

/// A transaction that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was meant.
    pub plan: Plan,
    /// How it ended.
    pub outcome: Outcome,
    /// Its statements saw one snapshot.
    pub snapshot: bool,
    /// Lists that were read.
    pub lists: Vec<ListRead>,
    /// Numbers of the statements whose rows were read to their end.
    pub tokens: Vec<i64>,
    /// Of these, reads of one row.
    pub of_one: Vec<i64>,
    /// The number of the connection on which it was sent.
    pub connection: usize,
}

/// A list as it was read.
#[derive(Clone, Debug)]
pub struct ListRead {
    /// Which.
    pub list: i64,
    /// The transactions that had appended to it, in order.
    pub entries: Vec<i64>,
    /// How often it had been appended to, if that alone was read.
    pub length: Option<i64>,
    /// The statement's number.
    pub token: i64,
}

/// How far the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not connected.
    Away,
    /// The first ReadyForQuery is awaited.
    Starting,
    /// It may send something.
    Idle,
    /// It sends COPY data.
    Copying,
    /// Answers are awaited.
    Waiting,
    /// It has done everything.
    Done,
}

impl State {
    /// A transaction is under way, or may begin.
    #[must_use]
    pub fn is_at_work(self) -> bool {
        matches!(self, State::Idle | State::Copying | State::Waiting)
    }
}

/// A transaction that is under way.
#[derive(Debug)]
struct Flight {
    plan: Plan,
    /// Requests of the plan that were sent.
    sent: usize,
    awaited: VecDeque<Awaited>,
    /// A COMMIT is under way, or what commits by itself.
    commit_sent: bool,
    acknowledged: bool,
    /// ROLLBACK had to clear it up.
    given_up: bool,
    kept: Option<i64>,
    lists: Vec<ListRead>,
    /// A ledger's balance, as it was read or as its entries add up to.
    ledgers: Vec<(i64, i64)>,
    /// An account's balance.
    accounts: Vec<(i64, i64)>,
    tokens: Vec<i64>,
    of_one: Vec<i64>,
}

/// One client.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// How far it is.
    pub state: State,
    /// Its connection: shard and slot.
    pub conn: Option<(usize, u32)>,
    /// Pid and secret for a CancelRequest.
    pub key: Option<(u32, u32)>,
    /// Bytes for the proxy.
    pub out: BytesMut,
    /// Transactions that have ended.
    pub records: Vec<Record>,
    /// Transactions to come.
    pub left: usize,
    /// What was not as it must be.
    pub wrong: Option<String>,
    /// What a new session's transactions see if nobody says otherwise.
    usual: Sees,
    /// The session's own default.
    level: Sees,
    /// Connections so far.
    connections: usize,
    maker: Maker,
    speaker: Speaker,
    random: Random,
    input: BytesMut,
    /// In the order in which they were sent. All but the first were sent whole.
    flights: VecDeque<Flight>,
    /// Made, but not begun.
    next: Option<Plan>,
    /// COPY messages that the server waits for.
    pieces: VecDeque<BytesMut>,
}

impl Client {
    /// A client that has this many transactions to do. `usual`: what they see unless somebody says otherwise.
    #[must_use]
    pub fn new(number: usize, left: usize, mix: Mix, usual: Sees, mut random: Random) -> Client {
        let (maker, speaker) = (Maker::new(number, mix, random.split()), Speaker::new(mix.flushes, random.split()));
        Client {
            number,
            state: State::Away,
            conn: None,
            key: None,
            out: BytesMut::new(),
            records: Vec::new(),
            left,
            wrong: None,
            usual,
            level: Sees::Usual,
            connections: 0,
            maker,
            speaker,
            random,
            input: BytesMut::new(),
            flights: VecDeque::new(),
            next: None,
            pieces: VecDeque::new(),
        }
    }

    /// What the current transaction is, for traces.
    #[must_use]
    pub fn doing(&self) -> &'static str {
        self.flights.front().map_or("nothing", |f| f.plan.kind)
    }

    /// A transaction is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.flights.is_empty()
    }

    /// It can do something by itself.
    #[must_use]
    pub fn can_act(&self) -> bool {
        matches!(self.state, State::Away | State::Idle | State::Copying)
    }

    /// The connection stands: the start-up packet leaves.
    pub fn connected(&mut self, conn: (usize, u32)) {
        self.conn = Some(conn);
        self.connections += 1;
        self.state = State::Starting;
        front::startup(&mut self.out, [("user", "postgres"), ("database", "d")]);
    }

    /// Sends the next request, or some more of COPY's data.
    pub fn act(&mut self) {
        if self.state == State::Copying {
            return self.send_pieces();
        }
        if self.flights.is_empty() {
            if self.left == 0 {
                self.out.extend_from_slice(front::TERMINATE);
                self.state = State::Done;
                return;
            }
            self.take_off();
        }
        let burst = self.flights.len() > 1;
        for i in 0..self.flights.len() {
            let f = &mut self.flights[i];
            let from = f.sent;
            let to = if f.plan.early { f.plan.requests.len() } else { from + 1 };
            f.sent = to;
            let requests: Vec<Request> = f.plan.requests[from..to].to_vec();
            let alone = !burst && to - from == 1;
            for request in requests {
                self.send(i, request, alone);
            }
        }
    }

    /// The next transaction, or several.
    fn take_off(&mut self) {
        let most = if self.random.percent(30) { BURST_MAX } else { 1 };
        while self.left > 0 && self.flights.len() < most {
            let plan = self.next.take().unwrap_or_else(|| self.maker.plan());
            let first = self.flights.is_empty();
            if !first && !plan.ends_by_itself() {
                self.next = Some(plan);
                return;
            }
            let goes_on = plan.ends_by_itself();
            self.left -= 1;
            self.flights.push_back(Flight {
                plan,
                sent: 0,
                awaited: VecDeque::new(),
                commit_sent: false,
                acknowledged: false,
                given_up: false,
                kept: None,
                lists: Vec::new(),
                ledgers: Vec::new(),
                accounts: Vec::new(),
                tokens: Vec::new(),
                of_one: Vec::new(),
            });
            if !goes_on {
                return;
            }
        }
    }

    fn send(&mut self, flight: usize, request: Request, alone: bool) {
        let Some(f) = self.flights.get_mut(flight) else { return };
        let in_block = f.plan.is_explicit() && f.sent > 1;
        let speech = self.speaker.say(&request, Place { alone, in_block, kept: f.kept });
        let commits = !f.plan.is_explicit() || request.statements.iter().any(|s| s.tag == "COMMIT");
        // Where data is to follow nothing commits before that.
        f.commit_sent |= commits && speech.held.is_empty();
        f.awaited.push_back(Awaited::new(request, &speech, commits));
        self.out.extend_from_slice(&speech.out);
        self.state = State::Waiting;
    }

    /// A request of the client's own that clears up.
    fn go_back(&mut self, sql: &str) {
        let s = self.maker.control(sql, "ROLLBACK");
        if let Some(f) = self.flights.front_mut() {
            f.commit_sent = false;
            f.given_up |= sql == "ROLLBACK";
        }
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        self.send_control(s, how);
    }

    fn send_control(&mut self, s: Statement, how: How) {
        let request = Request { statements: vec![s], how };
        let speech = self.speaker.say(&request, Place { alone: true, in_block: false, kept: None });
        self.out.extend_from_slice(&speech.out);
        if let Some(f) = self.flights.front_mut() {
            f.awaited.push_back(Awaited::new(request, &speech, false));
        }
        self.state = State::Waiting;
    }

    /// Some more data leaves.
    fn send_pieces(&mut self) {
        for _ in 0..1 + self.random.below(self.pieces.len()) {
            if let Some(piece) = self.pieces.pop_front() {
                self.out.extend_from_slice(&piece);
            }
        }
        if self.pieces.is_empty() {
            self.state = State::Waiting;
            if let Some(f) = self.flights.front_mut() {
                f.commit_sent |= f.awaited.front().is_some_and(Awaited::commits_now);
            }
        }
    }

    /// A request is answered, and the session says in which state it is.
    fn answered(&mut self, a: &Awaited, status: u8) {
        self.pieces.clear();
        let others = self.flights.len() > 1;
        let Some(f) = self.flights.front_mut() else { return };
        if !f.awaited.is_empty() {
            return;
        }
        let more = f.sent < f.plan.requests.len();
        let explicit = f.plan.is_explicit();
        let done = f.acknowledged || (!explicit && !a.failed && !f.given_up);
        let savepoint = a.request.statements.first().and_then(|s| s.savepoint).filter(|_| !f.plan.early);
        match status {
            b'I' if a.unknown => self.ended(Outcome::Unknown),
            b'I' if done => self.ended(Outcome::Acknowledged),
            b'I' => self.ended(Outcome::Failed),
            // What was sent behind it at once fails in the same block.
            b'E' if others => self.ended(Outcome::Failed),
            b'E' => match savepoint.filter(|_| explicit && a.request.statements.len() == 1) {
                Some(name) => self.go_back(&format!("ROLLBACK TO SAVEPOINT {name}")),
                None => self.go_back("ROLLBACK"),
            },
            b'T' if more && !others => self.state = State::Idle,
            _ => self.is_wrong(format!("status {:?} at the end of a transaction", char::from(status))),
        }
    }

    /// The first transaction under way has ended.
    fn ended(&mut self, outcome: Outcome) {
        let Some(f) = self.flights.pop_front() else { return };
        // What was sent before it has ended: this is the level at which it ran.
        let usual = if self.level == Sees::Usual { self.usual } else { self.level };
        let snapshot = if f.plan.sees == Sees::Usual { usual } else { f.plan.sees } == Sees::Snapshot;
        if snapshot {
            self.check_snapshot(&f);
        }
        if let (Outcome::Acknowledged, Some(Effect::Level(level))) = (outcome, f.plan.effects.first()) {
            self.level = *level;
            if f.plan.requests[0].statements[0].tag == "DISCARD" {
                self.speaker.names.clear();
            }
        }
        let Flight { plan, lists, tokens, of_one, .. } = f;
        self.records.push(Record { plan, outcome, snapshot, lists, tokens, of_one, connection: self.connections });
        if self.flights.is_empty() {
            self.state = State::Idle;
        }
    }

    /// What was read in one snapshot fits together.
    fn check_snapshot(&mut self, f: &Flight) {
        for reads in [&f.ledgers, &f.accounts] {
            let differs = |(k, n): &(i64, i64)| reads.iter().any(|(other, m)| k == other && n != m);
            if let Some((k, _)) = reads.iter().find(|l| differs(l)) {
                self.is_wrong(format!("ledger or account {k} in one snapshot: {reads:?}"));
            }
        }
        let accounts: BTreeMap<i64, i64> = f.accounts.iter().copied().collect();
        if accounts.len() as i64 == ACCOUNTS && accounts.values().sum::<i64>() != ACCOUNTS * BALANCE {
            self.is_wrong(format!("the accounts in one snapshot: {accounts:?}"));
        }
    }

    /// The connection is gone, by whoever's doing. It will connect again if something is left to do.
    pub fn gone(&mut self) {
        self.conn = None;
        self.key = None;
        self.input.clear();
        self.out.clear();
        self.pieces.clear();
        self.speaker.names.clear();
        if self.state == State::Done {
            return;
        }
        while let Some(f) = self.flights.front() {
            let outcome = match (f.acknowledged, f.commit_sent) {
                (true, _) => Outcome::Acknowledged,
                (false, true) => Outcome::Unknown,
                (false, false) => Outcome::Failed,
            };
            self.ended(outcome);
        }
        self.level = Sees::Usual;
        self.state = if self.left == 0 { State::Done } else { State::Away };
    }
}
