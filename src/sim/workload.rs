//! What clients do: transactions of several kinds, written down with what their answers must look like.
//!
//! Every statement that returns rows returns a number of its own as the last column, so that an answer that reaches
//! the wrong request is seen. What a transaction changes is kept as [`Effect`]s, which the checks add up.

use super::schedule::Random;

/// Accounts of the bank, each with [`BALANCE`] at first.
pub const ACCOUNTS: i64 = 5;
/// What an account begins with.
pub const BALANCE: i64 = 100;
/// Counters, lists, keys that move.
pub const FEW: i64 = 3;

/// The tables, and what stands in them at first.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL)",
    "CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL)",
    "CREATE TABLE uniq (id int PRIMARY KEY, k int UNIQUE, who int)",
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE keys (id int PRIMARY KEY, v bigint NOT NULL)",
    "CREATE TABLE lists (id int PRIMARY KEY, n bigint NOT NULL)",
    "CREATE TABLE items (list int, seq bigint, tx bigint, PRIMARY KEY (list, seq))",
    "CREATE TABLE marker (client int, n int, PRIMARY KEY (client, n))",
];

/// Names of the tables.
pub const TABLES: &[&str] = &["accounts", "counters", "uniq", "parent", "child", "keys", "lists", "items", "marker"];

/// What is inserted before any client comes.
#[must_use]
pub fn first_rows() -> Vec<String> {
    let mut all: Vec<String> =
        (1..=ACCOUNTS).map(|i| format!("INSERT INTO accounts VALUES ({i}, {BALANCE})")).collect();
    for i in 1..=FEW {
        all.push(format!("INSERT INTO counters VALUES ({i}, 0)"));
        all.push(format!("INSERT INTO lists VALUES ({i}, 0)"));
        // So that every read of a list has a row, by which it is known who answered.
        all.push(format!("INSERT INTO items VALUES ({i}, 0, 0)"));
        all.push(format!("INSERT INTO keys VALUES ({i}, {i})"));
        all.push(format!("INSERT INTO parent VALUES ({i})"));
    }
    all
}

/// What is looked for in a statement's rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// Only the number.
    Nothing,
    /// The first column is the bank's total.
    Total,
    /// One row per account; the first columns add up to the bank's total.
    Accounts,
    /// The first column is used by a later statement, in place of `$n`.
    Keep,
    /// The transactions that have appended to this list, in order, are the first column.
    List(i64),
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its text; `$n` stands for what an earlier one returned.
    pub sql: String,
    /// First word of its tag.
    pub tag: &'static str,
    /// Last column of each of its rows.
    pub token: i64,
    /// What is looked for.
    pub read: Read,
}

/// How a request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// One Query with all statements.
    Simple,
    /// Parse, Bind, Execute for each, then one Sync.
    Extended,
}

/// What is sent at once and answered with one ReadyForQuery.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands in it.
    pub statements: Vec<Statement>,
    /// How it is sent.
    pub how: How,
    /// What the client sends if it fails inside a block; `None`: ROLLBACK.
    pub savepoint: Option<&'static str>,
}

/// What a committed transaction has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A row in `marker`.
    Marker(i64),
    /// A counter is one higher.
    Counter(i64),
    /// An entry in a list.
    Append(i64),
}

/// One transaction, as it is meant.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For traces.
    pub kind: &'static str,
    /// In order.
    pub requests: Vec<Request>,
    /// All requests are sent at once, COMMIT included.
    pub early: bool,
    /// Its statements see one snapshot.
    pub snapshot: bool,
    /// If it commits.
    pub effects: Vec<Effect>,
    /// Its number, which list entries carry.
    pub id: i64,
}

/// Makes a client's transactions.
#[derive(Debug)]
pub struct Maker {
    client: i64,
    next: i64,
    token: i64,
    random: Random,
    ranges: bool,
    hot: bool,
}

/// The isolation level and access mode of a block.
const MODES: [(&str, bool); 3] = [
    ("BEGIN", false),
    ("BEGIN ISOLATION LEVEL READ COMMITTED", false),
    ("BEGIN ISOLATION LEVEL REPEATABLE READ", true),
];

impl Maker {
    /// For the client of this number. `ranges`: some statements name rows by a range; `hot`: nearly all
    /// write the same few rows.
    #[must_use]
    pub fn new(client: usize, ranges: bool, hot: bool, random: Random) -> Maker {
        let client = i64::try_from(client).unwrap_or(0);
        Maker { client, next: 0, token: client * 100_000, random, ranges, hot }
    }

    fn statement(&mut self, sql: impl Into<String>, tag: &'static str, read: Read) -> Statement {
        self.token += 1;
        let sql = sql.into().replace("$t", &self.token.to_string());
        Statement { sql, tag, token: self.token, read }
    }

    fn write(&mut self, sql: impl Into<String>, tag: &'static str) -> Statement {
        let mut sql = sql.into();
        if self.random.percent(50) {
            sql.push_str(" RETURNING $t");
        }
        self.statement(sql, tag, Read::Nothing)
    }

    fn few(&mut self) -> i64 {
        self.one_of(FEW)
    }

    /// From 1 to `most`; in a hot run one of the first two.
    fn one_of(&mut self, most: i64) -> i64 {
        self.random.between(1, if self.hot { most.min(2) } else { most })
    }

    /// The next transaction.
    pub fn plan(&mut self) -> Plan {
        self.next += 1;
        let id = self.client * 1000 + self.next;
        let mut effects = vec![Effect::Marker(self.next)];
        let marker = format!("INSERT INTO marker VALUES ({}, {})", self.client, self.next);
        let (kind, mut body, savepoint) = match self.random.below(24) {
            0..=3 => ("transfer", self.transfer(), None),
            4 | 5 => return self.counter(id),
            6 => ("counters", self.counters(&mut effects), None),
            7 | 8 => ("unique", self.unique(), None),
            9 => ("savepoint", self.savepoints(), Some("s")),
            10 | 11 => ("family", self.family(), None),
            12..=14 => ("keys", self.keys(), None),
            15..=18 => return self.append(id, &marker, effects),
            19 | 20 => return self.read_lists(id),
            21 => return self.read_single(id),
            _ => return self.read_only(id),
        };
        let at = self.random.below(body.len() + 1);
        // Behind a savepoint it would be taken back with it.
        let at = if savepoint.is_some() { 0 } else { at };
        let marker = self.write(marker, "INSERT");
        body.insert(at, marker);
        self.pack(kind, id, body, savepoint, effects)
    }

    /// Puts statements into requests: a block or an implicit transaction, step by step or at once.
    fn pack(
        &mut self,
        kind: &'static str,
        id: i64,
        body: Vec<Statement>,
        savepoint: Option<&'static str>,
        effects: Vec<Effect>,
    ) -> Plan {
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        let (begin, snapshot) = MODES[self.random.below(MODES.len())];
        let shape = self.random.below(10);
        let mut plan = Plan { kind, requests: Vec::new(), early: false, snapshot, effects, id };
        if shape < 2 && savepoint.is_none() {
            // An implicit transaction.
            plan.snapshot = false;
            plan.requests.push(Request { statements: body, how, savepoint: None });
            return plan;
        }
        let mut all = vec![self.statement(begin, "BEGIN", Read::Nothing)];
        all.extend(body);
        all.push(self.statement("COMMIT", "COMMIT", Read::Nothing));
        if shape < 4 && savepoint.is_none() {
            plan.requests.push(Request { statements: all, how, savepoint: None });
            return plan;
        }
        plan.early = shape < 6 && savepoint.is_none();
        for s in all {
            let mixed = if self.random.percent(20) { How::Simple } else { how };
            let inside = !matches!(s.tag, "BEGIN" | "COMMIT" | "SAVEPOINT");
            plan.requests.push(Request { statements: vec![s], how: mixed, savepoint: savepoint.filter(|_| inside) });
        }
        if savepoint.is_some() {
            // What stands in front of SAVEPOINT has nothing to go back to.
            let at = plan.requests.iter().position(|r| r.statements[0].tag == "SAVEPOINT").unwrap_or(0);
            plan.requests[..at].iter_mut().for_each(|r| r.savepoint = None);
        }
        plan
    }

    fn transfer(&mut self) -> Vec<Statement> {
        let amount = self.random.between(1, 9);
        let from = self.random.between(1, ACCOUNTS);
        let to = 1 + (from + self.random.between(0, ACCOUNTS - 2)) % ACCOUNTS;
        let take = self.write(format!("UPDATE accounts SET balance = balance - {amount} WHERE id = {from}"), "UPDATE");
        let give = self.write(format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {to}"), "UPDATE");
        vec![take, give]
    }

    /// A single increment without a block.
    fn counter(&mut self, id: i64) -> Plan {
        let k = self.few();
        let statement = self.write(format!("UPDATE counters SET n = n + 1 WHERE id = {k}"), "UPDATE");
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        let requests = vec![Request { statements: vec![statement], how, savepoint: None }];
        Plan { kind: "counter", requests, early: false, snapshot: false, effects: vec![Effect::Counter(k)], id }
    }

    fn counters(&mut self, effects: &mut Vec<Effect>) -> Vec<Statement> {
        let mut all = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            let k = self.few();
            effects.push(Effect::Counter(k));
            all.push(self.write(format!("UPDATE counters SET n = n + 1 WHERE id = {k}"), "UPDATE"));
        }
        all
    }

    fn unique(&mut self) -> Vec<Statement> {
        let (id, k) = (self.one_of(12), self.one_of(8));
        let conflict = ["", " ON CONFLICT DO NOTHING", " ON CONFLICT (k) DO UPDATE SET who = uniq.who + 1"];
        let conflict = conflict[self.random.below(3)];
        let insert = self.write(format!("INSERT INTO uniq VALUES ({id}, {k}, {}){conflict}", self.client), "INSERT");
        let mut all = vec![insert];
        if self.random.percent(40) {
            let gone = self.one_of(8);
            all.push(self.write(format!("DELETE FROM uniq WHERE k = {gone}"), "DELETE"));
        }
        all
    }

    fn savepoints(&mut self) -> Vec<Statement> {
        let mut all = vec![self.statement("SAVEPOINT s", "SAVEPOINT", Read::Nothing)];
        all.extend(self.unique());
        if self.random.percent(50) {
            let k = self.few();
            all.push(self.write(format!("UPDATE keys SET v = v + 1 WHERE id = {k}"), "UPDATE"));
            all.push(self.statement("ROLLBACK TO SAVEPOINT s", "ROLLBACK", Read::Nothing));
        }
        let k = self.few();
        all.push(self.write(format!("UPDATE keys SET v = v * 2 % 1000003 WHERE id = {k}"), "UPDATE"));
        all
    }

    fn family(&mut self) -> Vec<Statement> {
        let (p, c) = (self.one_of(6), self.one_of(8));
        let other = self.one_of(6);
        let mut all = Vec::new();
        match self.random.below(4) {
            0 => {
                all.push(self.write(format!("INSERT INTO child VALUES ({c}, {p})"), "INSERT"));
                all.push(self.write(format!("INSERT INTO parent VALUES ({p}) ON CONFLICT DO NOTHING"), "INSERT"));
            }
            1 => all.push(self.write(format!("UPDATE child SET parent = {other} WHERE id = {c}"), "UPDATE")),
            2 => {
                all.push(self.write(format!("DELETE FROM child WHERE id = {c}"), "DELETE"));
                all.push(self.write(format!("DELETE FROM parent WHERE id = {p}"), "DELETE"));
            }
            _ => {
                all.push(self.write(format!("DELETE FROM parent WHERE id = {p}"), "DELETE"));
                all.push(self.write(format!("DELETE FROM child WHERE id = {c}"), "DELETE"));
            }
        }
        all
    }

    fn keys(&mut self) -> Vec<Statement> {
        let (a, b) = (self.one_of(6), self.one_of(6));
        match self.random.below(5) {
            0 => vec![self.write(format!("UPDATE keys SET id = {b}, v = v + 1 WHERE id = {a}"), "UPDATE")],
            1 => {
                // Swapped by way of a key that nobody else has.
                let aside = 1000 + self.client;
                let moves = [(a, aside), (b, a), (aside, b)];
                moves.map(|(x, y)| self.write(format!("UPDATE keys SET id = {y} WHERE id = {x}"), "UPDATE")).into()
            }
            2 => {
                let gone = self.write(format!("DELETE FROM keys WHERE id = {a}"), "DELETE");
                let back = self.write(format!("INSERT INTO keys VALUES ({a}, {})", self.client), "INSERT");
                vec![gone, back]
            }
            3 if self.ranges => vec![self.write(format!("UPDATE keys SET v = v + 1 WHERE id >= {a}"), "UPDATE")],
            _ => {
                let more = self.write(format!("UPDATE keys SET v = v * 2 % 1000003 WHERE id = {a}"), "UPDATE");
                let less = self.write(format!("UPDATE keys SET v = v + 3 WHERE id = {b}"), "UPDATE");
                vec![more, less]
            }
        }
    }

    /// Appends to one or two lists, after having read one.
    fn append(&mut self, id: i64, marker: &str, mut effects: Vec<Effect>) -> Plan {
        let (begin, snapshot) = MODES[self.random.below(MODES.len())];
        let mut all = vec![self.statement(begin, "BEGIN", Read::Nothing)];
        if self.random.percent(50) {
            let k = self.few();
            all.push(self.list(k));
        }
        all.push(self.write(marker, "INSERT"));
        for _ in 0..self.random.between(1, 2) {
            let k = self.few();
            effects.push(Effect::Append(k));
            let sql = format!("UPDATE lists SET n = n + 1 WHERE id = {k} RETURNING n, $t");
            all.push(self.statement(sql, "UPDATE", Read::Keep));
            all.push(self.write(format!("INSERT INTO items VALUES ({k}, $n, {id})"), "INSERT"));
        }
        all.push(self.statement("COMMIT", "COMMIT", Read::Nothing));
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        let requests = all.into_iter().map(|s| Request { statements: vec![s], how, savepoint: None }).collect();
        Plan { kind: "append", requests, early: false, snapshot, effects, id }
    }

    fn list(&mut self, k: i64) -> Statement {
        self.statement(format!("SELECT tx, $t FROM items WHERE list = {k} ORDER BY seq"), "SELECT", Read::List(k))
    }

    fn read(&mut self) -> Statement {
        match self.random.below(4) {
            0 => self.statement("SELECT $t", "SELECT", Read::Nothing),
            1 => self.statement("SELECT sum(balance), max($t) FROM accounts", "SELECT", Read::Total),
            2 => self.statement("SELECT balance, $t FROM accounts ORDER BY id", "SELECT", Read::Accounts),
            _ => {
                let k = self.few();
                self.list(k)
            }
        }
    }

    fn read_single(&mut self, id: i64) -> Plan {
        let statements = (0..self.random.between(1, 2)).map(|_| self.read()).collect();
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        let requests = vec![Request { statements, how, savepoint: None }];
        Plan { kind: "read", requests, early: false, snapshot: false, effects: Vec::new(), id }
    }

    /// All lists in one snapshot.
    fn read_lists(&mut self, id: i64) -> Plan {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut all = vec![self.statement(begin, "BEGIN", Read::Nothing)];
        let first = self.few();
        all.extend((0..FEW).map(|i| self.list(1 + (first + i) % FEW)).collect::<Vec<_>>());
        all.push(self.statement("COMMIT", "COMMIT", Read::Nothing));
        let requests = all.into_iter().map(|s| Request { statements: vec![s], how: How::Simple, savepoint: None });
        let requests = requests.collect();
        Plan { kind: "lists", requests, early: self.random.percent(50), snapshot: true, effects: Vec::new(), id }
    }

    fn read_only(&mut self, id: i64) -> Plan {
        let modes = ["BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"];
        let mode = self.random.below(2);
        let mut all = vec![self.statement(modes[mode], "BEGIN", Read::Nothing)];
        for _ in 0..self.random.between(2, 4) {
            all.push(self.read());
        }
        all.push(self.statement("COMMIT", "COMMIT", Read::Nothing));
        let how = if self.random.percent(50) { How::Simple } else { How::Extended };
        let requests = all.into_iter().map(|s| Request { statements: vec![s], how, savepoint: None }).collect();
        Plan {
            kind: "read only",
            requests,
            early: self.random.percent(30),
            snapshot: mode == 1,
            effects: Vec::new(),
            id,
        }
    }
}
