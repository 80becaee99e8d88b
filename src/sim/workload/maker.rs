//! Which transaction comes next, and in which requests it is sent.

use super::{Arg, Effect, How, Plan, Read, Request, Sees, Statement};
use crate::sim::schedule::Random;

/// What a run's clients do, and how often, out of [`USUAL`]. Half the runs have few kinds, and much of each: what meets
/// once in a hundred transactions of everything meets all the time there (Groce et al., "Swarm Testing", ISSTA 2012).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    weights: [usize; USUAL.len()],
    /// Some statements name rows by a range.
    pub ranges: bool,
    /// Nearly all write the same few rows.
    pub hot: bool,
    /// In so many of a hundred places where one may stand, a Flush does.
    pub flushes: usize,
    /// Some transactions write what needs an image, and some are SERIALIZABLE.
    pub images: bool,
}

/// Kinds of transaction, by their numbers in `plan`, and how often each of them comes.
const USUAL: [usize; 16] = [4, 2, 1, 2, 2, 2, 3, 2, 3, 4, 2, 2, 3, 1, 2, 0];
/// In a run with images: so many of a hundred transactions are about the table with the trigger alone, so many of the
/// others that write touch it too, and so many of those that have a BEGIN are SERIALIZABLE.
const TRACKS: usize = 20;
const SERIALIZABLE: usize = 20;
const APPEND: usize = 9;
const SNAPSHOT: usize = 10;
const ONE_READ: usize = 11;
const READ_ONLY: usize = 12;
const LEVEL: usize = 13;
const VIEW: usize = 14;
const LENGTH: usize = 15;

/// A part of the workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Only {
    /// Transactions that append to lists, and that read all of them: what nodes show in another order is seen soonest
    /// there.
    Lists,
    /// Transactions that append to lists, and reads of one row that says how long a list is. The nodes' catalogue names their
    /// tables and keys, so that commits say which rows they write, and such reads mind only those.
    Rows,
    /// Reads.
    Reads,
    /// Transactions that append to lists, and statements that see all lists at once: what two nodes show in different
    /// orders, or one later than another, is seen soonest there.
    Views,
}

impl std::str::FromStr for Only {
    type Err = String;

    fn from_str(word: &str) -> Result<Only, String> {
        match word {
            "lists" => Ok(Only::Lists),
            "reads" => Ok(Only::Reads),
            "rows" => Ok(Only::Rows),
            "views" => Ok(Only::Views),
            _ => Err("unknown part of the workload; known are lists, reads, rows, views".into()),
        }
    }
}

impl Only {
    /// Its name on the command line.
    #[must_use]
    pub fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl Mix {
    /// By chance.
    #[must_use]
    pub fn new(ranges: bool, only: Option<Only>, random: &mut Random) -> Mix {
        let (mut weights, hot) = (USUAL, random.percent(50));
        if let Some(only) = only {
            weights = [0; USUAL.len()];
            match only {
                Only::Lists => (weights[APPEND], weights[SNAPSHOT]) = (2, 3),
                Only::Views => (weights[APPEND], weights[VIEW]) = (1, 2),
                Only::Rows => (weights[APPEND], weights[LENGTH], weights[VIEW]) = (2, 4, 1),
                Only::Reads => (weights[ONE_READ], weights[READ_ONLY]) = (3, 1),
            }
        } else if random.percent(50) {
            let mut few = weights;
            few.iter_mut().for_each(|w| *w *= [0, 0, 1, 4][random.below(4)]);
            if few.iter().any(|w| *w > 0) {
                weights = few;
            }
        }
        let flushes = [8, 8, 50][if only == Some(Only::Views) { 2 } else { random.below(3) }];
        Mix { weights, ranges, hot, flushes, images: false }
    }
}

/// Makes a client's transactions.
#[derive(Debug)]
pub struct Maker {
    pub(super) client: i64,
    /// The number of the transaction that is being made.
    pub(super) next: i64,
    token: i64,
    pub(super) random: Random,
    pub(super) mix: Mix,
}

/// How a block begins, and what its statements see.
pub(super) type Mode = (&'static str, Sees);

/// Blocks that write.
const WRITES: [Mode; 3] = [
    ("BEGIN", Sees::Usual),
    ("BEGIN ISOLATION LEVEL READ COMMITTED", Sees::Statement),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ", Sees::Snapshot),
];
/// Blocks that only read.
const READS: [Mode; 5] = [
    ("BEGIN READ ONLY", Sees::Usual),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Sees::Snapshot),
    ("BEGIN", Sees::Usual),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ", Sees::Snapshot),
    ("BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY", Sees::Statement),
];
/// Blocks whose reads belong together.
const SNAPSHOTS: [Mode; 4] = [
    ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Sees::Snapshot),
    ("BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ", Sees::Snapshot),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ", Sees::Snapshot),
    ("BEGIN READ ONLY", Sees::Usual),
];
/// What changes the session's default level: text, tag, and what a transaction sees from there on.
const LEVELS: [(&str, &str, Sees); 6] = [
    ("SET default_transaction_isolation = 'read committed'", "SET", Sees::Statement),
    ("SET default_transaction_isolation TO 'repeatable read'", "SET", Sees::Snapshot),
    ("SET SESSION default_transaction_isolation TO DEFAULT", "SET", Sees::Usual),
    ("RESET default_transaction_isolation", "RESET", Sees::Usual),
    ("RESET ALL", "RESET", Sees::Usual),
    ("DISCARD ALL", "DISCARD", Sees::Usual),
];

/// What a block of statements allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// All ways of sending it.
    Any,
    /// It needs a block.
    Block,
    /// Each statement waits for the answer to the one before.
    Steps,
}

impl Maker {
    /// For the client of this number.
    #[must_use]
    pub fn new(client: usize, mix: Mix, random: Random) -> Maker {
        let client = i64::try_from(client).unwrap_or(0);
        // What takes a replica's sequence along returns a small number too.
        let first = if mix.images { 50_000 } else { 0 };
        Maker { client, next: 0, token: client * 100_000 + first, random, mix }
    }

    pub(super) fn few(&mut self) -> i64 {
        self.one_of(super::FEW)
    }

    /// From 1 to `most`; in a hot run one of the first two.
    pub(super) fn one_of(&mut self, most: i64) -> i64 {
        self.random.between(1, if self.mix.hot { most.min(2) } else { most })
    }

    /// A statement that ends something.
    pub fn control(&mut self, sql: &str, tag: &'static str) -> Statement {
        self.plain(sql, tag, &[])
    }

    /// A statement that returns no rows.
    pub(super) fn plain(&mut self, sql: impl Into<String>, tag: &'static str, values: &[i64]) -> Statement {
        let values = values.iter().map(|v| Arg::Int(*v)).collect();
        Statement {
            sql: sql.into(),
            values,
            tag,
            token: 0,
            columns: 0,
            rows: None,
            binary: true,
            read: Read::Nothing,
            copy: None,
            savepoint: None,
        }
    }

    /// A statement with so many columns, the last of which is a number of its own: the parameter behind `values`.
    pub(super) fn rows(
        &mut self,
        sql: impl Into<String>,
        tag: &'static str,
        values: &[i64],
        columns: usize,
        read: Read,
    ) -> Statement {
        self.token += 1;
        let mut s = self.plain(sql, tag, values);
        s.values.push(Arg::Int(self.token));
        Statement { token: self.token, columns, read, ..s }
    }

    /// A write, with or without RETURNING.
    pub(super) fn write(&mut self, sql: &str, tag: &'static str, values: &[i64]) -> Statement {
        if self.random.percent(50) {
            let sql = format!("{sql} RETURNING ${}", values.len() + 1);
            return self.rows(sql, tag, values, 1, Read::Nothing);
        }
        self.plain(sql, tag, values)
    }

    /// The next transaction.
    pub fn plan(&mut self) -> Plan {
        self.next += 1;
        let mut effects = vec![Effect::Marker(self.next)];
        let mut shape = Shape::Any;
        if self.mix.images && self.random.percent(TRACKS) {
            let mut body = self.tracked(&mut effects);
            let at = self.random.below(body.len() + 1);
            let marker = self.marker();
            body.insert(at, marker);
            return self.pack("tracked", body, shape, &WRITES, effects);
        }
        let (kind, mut body) = match self.random.weighted(&self.mix.weights).unwrap_or(0) {
            0 => ("transfer", self.transfer()),
            1 => {
                let (k, body) = self.counter();
                return self.pack("counter", body, Shape::Any, &WRITES, vec![Effect::Counter(k)]);
            }
            2 => ("counters", self.counters(&mut effects)),
            3 => ("unique", self.unique()),
            4 => {
                let (body, early) = self.savepoints();
                shape = if early { Shape::Block } else { Shape::Steps };
                ("savepoint", body)
            }
            5 => ("family", self.family()),
            6 => ("keys", self.keys()),
            7 => ("ledger", self.ledger()),
            8 => ("load", self.load(&mut effects)),
            APPEND => {
                shape = Shape::Steps;
                ("append", self.append(&mut effects))
            }
            SNAPSHOT => return self.snapshot(),
            LEVEL => return self.level(),
            VIEW => {
                let many = if self.random.percent(60) { 1 } else { self.random.between(2, 3) };
                let body = (0..many).map(|_| self.view()).collect();
                return self.pack("view", body, Shape::Any, &READS, Vec::new());
            }
            LENGTH => {
                let body = (0..self.random.between(1, 3)).map(|_| self.length()).collect();
                return self.pack("length", body, Shape::Any, &READS, Vec::new());
            }
            ONE_READ => {
                let body = (0..self.random.between(1, 2)).map(|_| self.read()).collect();
                return self.pack("read", body, Shape::Any, &READS, Vec::new());
            }
            _ => {
                let body = (0..self.random.between(2, 4)).map(|_| self.read()).collect();
                return self.pack("read only", body, Shape::Block, &READS, Vec::new());
            }
        };
        if self.mix.images && self.random.percent(TRACKS) {
            // All the rest of it goes by the image too.
            let at = if kind == "savepoint" { 0 } else { self.random.below(body.len() + 1) };
            let touch = self.touch(&mut effects);
            body.insert(at, touch);
        }
        // Behind a savepoint it would be taken back with it.
        let at = if kind == "savepoint" { 0 } else { self.random.below(body.len() + 1) };
        let marker = self.marker();
        body.insert(at, marker);
        self.pack(kind, body, shape, &WRITES, effects)
    }

    /// Reads that must fit each other.
    fn snapshot(&mut self) -> Plan {
        let body = match self.random.below(10) {
            0..6 => self.all_lists(),
            6..8 => self.all_ledgers(),
            _ => self.all_accounts(),
        };
        self.pack("snapshot", body, Shape::Block, &SNAPSHOTS, Vec::new())
    }

    /// Another default level, alone.
    fn level(&mut self) -> Plan {
        let (sql, tag, sees) = LEVELS[self.random.below(LEVELS.len())];
        let (how, id) = (self.how(), self.client * 1000 + self.next);
        let requests = vec![Request { statements: vec![self.plain(sql, tag, &[])], how }];
        Plan { kind: "level", requests, early: false, sees: Sees::Usual, effects: vec![Effect::Level(sees)], id }
    }

    fn how(&mut self) -> How {
        if self.random.percent(35) { How::Simple } else { How::Extended }
    }

    /// Puts statements into requests: a block or an implicit transaction, step by step or at once.
    fn pack(
        &mut self,
        kind: &'static str,
        body: Vec<Statement>,
        shape: Shape,
        modes: &[Mode],
        effects: Vec<Effect>,
    ) -> Plan {
        let how = self.how();
        let (mut begin, mut sees) = modes[self.random.below(modes.len())];
        if self.mix.images && modes == WRITES && self.random.percent(SERIALIZABLE) {
            (begin, sees) = ("BEGIN ISOLATION LEVEL SERIALIZABLE", Sees::Snapshot);
        }
        let way = if shape == Shape::Steps { 9 } else { self.random.below(10) };
        let id = self.client * 1000 + self.next;
        let mut plan = Plan { kind, requests: Vec::new(), early: false, sees, effects, id };
        let alone = body.len() == 1 && shape == Shape::Any;
        if way < if alone { 7 } else { 3 } && shape == Shape::Any {
            plan.sees = Sees::Usual;
            plan.requests.push(Request { statements: body, how });
            return plan;
        }
        let mut all = vec![self.plain(begin, "BEGIN", &[])];
        all.extend(body);
        all.push(self.plain("COMMIT", "COMMIT", &[]));
        if way < 5 {
            if shape == Shape::Any && self.random.percent(25) {
                // A transaction of its own, behind the block and in front of the same Sync.
                all.extend(self.tail());
            }
            plan.requests.push(Request { statements: all, how });
            return plan;
        }
        plan.early = way < 7;
        for s in all {
            let how = if self.random.percent(20) { self.how() } else { how };
            plan.requests.push(Request { statements: vec![s], how });
        }
        plan
    }
}
