//! What clients do: transactions of several kinds, written down with what their answers must look like.
//!
//! Every statement that returns rows returns a number of its own as the last column, so that an answer that reaches
//! the wrong request is seen. What a transaction changes is kept as [`Effect`]s, which the checks add up.
//!
//! Here is what is meant; by which messages it is said, the client decides when it says it (`client::speak`).
//!
//! | part | what it is for |
//! |---|---|
//! | [`maker`] | which transaction comes next, and in which requests it is sent |
//! | `writes`, `loads`, `reads` | what stands in it |
//! | [`tracked`] | what goes by an image: a table with a trigger, and what must hold for it |
//! | `sums` | what must hold for loads and ledgers at the end |

pub mod maker;
pub mod tracked;

mod loads;
mod reads;
mod sums;
mod writes;

pub use sums::check as check_sums;

/// Accounts of the bank, each with [`BALANCE`] at first.
pub const ACCOUNTS: i64 = 5;
/// What an account begins with.
pub const BALANCE: i64 = 100;
/// Counters, lists, ledgers, keys that move.
pub const FEW: i64 = 3;

/// Transactions' numbers are smaller.
pub const LIST: i64 = 1_000_000;

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
    "CREATE TABLE ledgers (id int PRIMARY KEY, balance bigint NOT NULL)",
    "CREATE TABLE entries (ledger int, client int, n int, amount bigint NOT NULL, PRIMARY KEY (ledger, client, n))",
    "CREATE TABLE loads (client int, n int, part int, PRIMARY KEY (client, n, part))",
    "CREATE TABLE marker (client int, n int, PRIMARY KEY (client, n))",
];

/// Names of the tables.
pub const TABLES: &[&str] = &[
    "accounts", "counters", "uniq", "parent", "child", "keys", "lists", "items", "ledgers", "entries", "loads",
    "marker",
];

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
        all.push(format!("INSERT INTO ledgers VALUES ({i}, 0)"));
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
    /// The first column is this account's balance.
    Account(i64),
    /// The first column is used by a later statement, as [`Arg::Kept`].
    Keep,
    /// The transactions that have appended to this list, in order, are the first column.
    List(i64),
    /// The same of all lists at once: list * [`LIST`] + transaction.
    Lists,
    /// The first column is how often this list was appended to: the row of a table, named by its key.
    Length(i64),
    /// The first column is this ledger's balance.
    Balance(i64),
    /// The first columns are all entries of this ledger.
    Entries(i64),
}

/// The value of a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// This one; never negative.
    Int(i64),
    /// What an earlier statement returned.
    Kept,
}

/// How COPY FROM STDIN ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyEnd {
    /// All rows, CopyDone.
    Done,
    /// CopyFail.
    Fail,
    /// One of the lines has a column too many.
    Malformed,
}

/// The data of a COPY FROM STDIN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// In COPY's text format.
    pub lines: Vec<String>,
    /// How it ends.
    pub end: CopyEnd,
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its text, with `$1` and so on for `values`.
    pub sql: String,
    /// Values of its parameters.
    pub values: Vec<Arg>,
    /// First word of its tag.
    pub tag: &'static str,
    /// Last column of each of its rows.
    pub token: i64,
    /// How many columns its rows have; 0: it returns none.
    pub columns: usize,
    /// How many rows it returns, if that is certain.
    pub rows: Option<u32>,
    /// Its columns can be had in binary.
    pub binary: bool,
    /// What is looked for.
    pub read: Read,
    /// It is a COPY FROM STDIN.
    pub copy: Option<Copy>,
    /// What the client goes back to if it fails inside a block; `None`: ROLLBACK.
    pub savepoint: Option<&'static str>,
}

impl Statement {
    /// Its text with the values in it.
    #[must_use]
    pub fn literal(&self, kept: Option<i64>) -> String {
        let mut text = self.sql.clone();
        // From the last one on: `$1` is part of `$10`.
        for (i, value) in self.values.iter().enumerate().rev() {
            text = text.replace(&format!("${}", i + 1), &value.number(kept).to_string());
        }
        text
    }
}

impl Arg {
    /// Its number.
    #[must_use]
    pub fn number(self, kept: Option<i64>) -> i64 {
        match self {
            Arg::Int(n) => n,
            Arg::Kept => kept.unwrap_or(0),
        }
    }
}

/// What a transaction's statements see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sees {
    /// READ COMMITTED: each has a snapshot of its own.
    Statement,
    /// REPEATABLE READ: all have one snapshot.
    Snapshot,
    /// What the session's default level says: nobody has said another.
    Usual,
}

/// How a request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// One Query with all statements.
    Simple,
    /// Extended messages for each, then Sync.
    Extended,
}

/// What is sent at once.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands in it.
    pub statements: Vec<Statement>,
    /// How it is sent.
    pub how: How,
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
    /// This row of `tracked` is so much higher.
    Tracked(i64, i64),
    /// So many rows in `loads` under this number.
    Load(i64, usize),
    /// The session's default level is this one from here on; [`Sees::Usual`]: that of a new session.
    Level(Sees),
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
    /// What its statements see.
    pub sees: Sees,
    /// If it commits.
    pub effects: Vec<Effect>,
    /// Its number, which list entries carry.
    pub id: i64,
}

impl Plan {
    /// It has a BEGIN of its own.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        self.requests.first().is_some_and(|r| r.statements[0].tag == "BEGIN")
    }

    /// Its BEGIN says SERIALIZABLE.
    #[must_use]
    pub fn is_serializable(&self) -> bool {
        self.is_explicit() && self.requests[0].statements[0].sql.ends_with("SERIALIZABLE")
    }

    /// Whatever fails in it, it leaves no block behind: another transaction may be sent behind it at once.
    #[must_use]
    pub fn ends_by_itself(&self) -> bool {
        // DISCARD ALL takes the statements away that were prepared by then.
        let discards = self.requests.first().is_some_and(|r| r.statements[0].tag == "DISCARD");
        self.early || (!self.is_explicit() && self.requests.len() == 1 && !discards)
    }
}
