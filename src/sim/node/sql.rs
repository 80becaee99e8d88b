//! The statements that the simulated node knows, as small trees; `parse` makes them from text.
//!
//! Names are folded to lower case unless they were quoted. A schema is dropped if it is `public` or `pg_catalog`.

use super::value::{Type, Value};

/// A binary operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BinOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Concat,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
}

impl BinOp {
    /// Its symbol.
    pub fn symbol(self) -> &'static str {
        match self {
            BinOp::Add => "+",
            BinOp::Sub => "-",
            BinOp::Mul => "*",
            BinOp::Div => "/",
            BinOp::Mod => "%",
            BinOp::Concat => "||",
            BinOp::Eq => "=",
            BinOp::Ne => "<>",
            BinOp::Lt => "<",
            BinOp::Le => "<=",
            BinOp::Gt => ">",
            BinOp::Ge => ">=",
            BinOp::And => "AND",
            BinOp::Or => "OR",
        }
    }
}

/// An expression as written.
#[derive(Clone, PartialEq, Debug)]
pub enum Expr {
    /// A number, boolean or NULL.
    Literal(Value, Option<Type>),
    /// A string literal, whose type its surroundings decide.
    String(String),
    /// A number with a point: known as the argument of pg_sleep() only.
    Decimal(String),
    /// `$1` is 0.
    Param(usize),
    /// A column; with the name of its table where that was written.
    Column(Option<String>, String),
    Binary(BinOp, Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// IS NULL, or IS NOT NULL.
    IsNull(Box<Expr>, bool),
    /// IN, or NOT IN.
    In(Box<Expr>, Vec<Expr>, bool),
    Cast(Box<Expr>, Type),
    Call(String, Vec<Expr>),
    /// count(*).
    CountAll,
    /// DEFAULT, in VALUES and SET.
    Default,
}

/// One item of a SELECT list or RETURNING.
#[derive(Clone, PartialEq, Debug)]
pub enum Item {
    Star,
    Expr(Expr, Option<String>),
}

/// Strength of a row lock, weakest first (src/include/nodes/lockoptions.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RowLock {
    KeyShare,
    Share,
    NoKeyUpdate,
    Update,
}

/// What to do where one would have to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitPolicy {
    Block,
    NoWait,
    SkipLocked,
}

/// A table with its alias.
#[derive(Clone, PartialEq, Debug)]
pub struct TableRef {
    pub name: String,
    pub alias: Option<String>,
}

/// SELECT from at most one table.
#[derive(Clone, PartialEq, Debug)]
pub struct Select {
    pub items: Vec<Item>,
    pub from: Option<TableRef>,
    pub filter: Option<Expr>,
    /// Expressions, each with "descending" and NULLS FIRST where written.
    pub order: Vec<(Expr, bool, Option<bool>)>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    pub lock: Option<(RowLock, WaitPolicy)>,
}

/// Where INSERT's rows come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// VALUES.
    Values(Vec<Vec<Expr>>),
    /// A query.
    Select(Box<Select>),
    /// DEFAULT VALUES.
    Defaults,
}

/// SET's columns and values.
pub type Assignments = Vec<(String, Expr)>;

/// ON CONFLICT.
#[derive(Clone, PartialEq, Debug)]
pub struct OnConflict {
    pub target: Target,
    /// `None`: DO NOTHING.
    pub update: Option<(Assignments, Option<Expr>)>,
}

/// What ON CONFLICT names.
#[derive(Clone, PartialEq, Debug)]
pub enum Target {
    Any,
    Columns(Vec<String>),
    Constraint(String),
}

/// INSERT.
#[derive(Clone, PartialEq, Debug)]
pub struct Insert {
    pub table: TableRef,
    /// Empty: all.
    pub columns: Vec<String>,
    pub source: Source,
    pub on_conflict: Option<OnConflict>,
    pub returning: Vec<Item>,
}

/// UPDATE (with assignments) or DELETE.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    pub table: TableRef,
    /// `None`: DELETE.
    pub set: Option<Assignments>,
    pub filter: Option<Expr>,
    pub returning: Vec<Item>,
}

/// A column's definition.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnSpec {
    pub name: String,
    pub ty: Type,
    pub serial: bool,
    pub not_null: bool,
    pub default: Option<Expr>,
}

/// When a constraint is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deferral {
    pub deferrable: bool,
    pub initially_deferred: bool,
}

/// What a parent's change does to its children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    NoAction,
    Restrict,
    Cascade,
}

/// PRIMARY KEY or UNIQUE.
#[derive(Clone, PartialEq, Debug)]
pub struct UniqueSpec {
    pub name: Option<String>,
    pub columns: Vec<String>,
    pub primary: bool,
    pub deferral: Deferral,
}

/// FOREIGN KEY.
#[derive(Clone, PartialEq, Debug)]
pub struct ForeignSpec {
    pub name: Option<String>,
    pub columns: Vec<String>,
    pub parent: String,
    pub parent_columns: Vec<String>,
    pub on_delete: Action,
    pub on_update: Action,
    pub deferral: Deferral,
}

/// CREATE TABLE.
#[derive(Clone, PartialEq, Debug)]
pub struct CreateTable {
    pub name: String,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnSpec>,
    pub uniques: Vec<UniqueSpec>,
    pub foreigns: Vec<ForeignSpec>,
}

/// Transaction modes as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
}

/// Isolation levels; READ UNCOMMITTED is READ COMMITTED.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    ReadUncommitted,
    #[default]
    ReadCommitted,
    RepeatableRead,
    /// Refused: predicate locks are not modelled.
    Serializable,
}

impl Isolation {
    /// As settings print it.
    pub fn text(self) -> &'static str {
        match self {
            Isolation::ReadUncommitted => "read uncommitted",
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        }
    }

    /// From a setting's value.
    pub fn parse(text: &str) -> Option<Isolation> {
        use Isolation::{ReadCommitted, ReadUncommitted, RepeatableRead, Serializable};
        [ReadUncommitted, ReadCommitted, RepeatableRead, Serializable].into_iter().find(|i| i.text() == text)
    }
}

/// Modes of a table lock, weakest first (src/include/storage/lockdefs.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockMode {
    AccessShare = 1,
    RowShare,
    RowExclusive,
    ShareUpdateExclusive,
    Share,
    ShareRowExclusive,
    Exclusive,
    AccessExclusive,
}

/// A statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Statement {
    Select(Select),
    Insert(Insert),
    Change(Change),
    /// COPY FROM STDIN in text format.
    Copy {
        table: String,
        columns: Vec<String>,
    },
    CreateTable(CreateTable),
    DropTable {
        names: Vec<String>,
        if_exists: bool,
    },
    Truncate {
        names: Vec<String>,
        restart: bool,
        cascade: bool,
    },
    AddColumn {
        table: String,
        column: ColumnSpec,
    },
    CreateSequence {
        name: String,
        if_not_exists: bool,
        start: i64,
        increment: i64,
    },
    DropSequence {
        names: Vec<String>,
        if_exists: bool,
    },
    Lock {
        tables: Vec<String>,
        mode: LockMode,
        nowait: bool,
    },
    /// BEGIN, or START TRANSACTION.
    Begin {
        modes: Modes,
        start: bool,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    PrepareTransaction(String),
    CommitPrepared(String),
    RollbackPrepared(String),
    Reset(String),
    /// `None`: DEFAULT.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    /// SET TRANSACTION, or SET SESSION CHARACTERISTICS.
    SetTransaction {
        modes: Modes,
        session: bool,
    },
    SetConstraints {
        deferred: bool,
    },
    ResetAll,
    Show(String),
    DiscardAll,
    Deallocate(Option<String>),
    /// The proxy's question for the session's settings ([`crate::session::settings::QUERY`]).
    SessionSettings,
}

impl Statement {
    /// COMMIT, ROLLBACK and kin: what a failed transaction still listens to (IsTransactionExitStmt in postgres.c).
    pub fn is_exit(&self) -> bool {
        use Statement::{Commit, PrepareTransaction, Rollback, RollbackTo};
        matches!(self, Commit { .. } | Rollback { .. } | RollbackTo(_) | PrepareTransaction(_))
    }

    /// A statement that controls transactions (TransactionStmt).
    pub fn is_transaction(&self) -> bool {
        use Statement::{Begin, CommitPrepared, Release, RollbackPrepared, Savepoint};
        self.is_exit()
            || matches!(self, Begin { .. } | Savepoint(_) | Release(_) | CommitPrepared(_) | RollbackPrepared(_))
    }

    /// Planned statements, for whose analysis a snapshot is taken (analyze_requires_snapshot in analyze.c).
    pub fn is_planned(&self) -> bool {
        matches!(self, Statement::Select(_) | Statement::Insert(_) | Statement::Change(_) | Statement::SessionSettings)
    }

    /// Utility statements that run without a snapshot (PlannedStmtRequiresSnapshot in pquery.c).
    pub fn needs_no_snapshot(&self) -> bool {
        use Statement::{Deallocate, DiscardAll, Lock, Reset, ResetAll, Set, SetConstraints, SetTransaction, Show};
        self.is_transaction()
            || matches!(
                self,
                Lock { .. } | Set { .. } | SetTransaction { .. } | SetConstraints { .. } | ResetAll | Reset(_)
            )
            || matches!(self, Show(_) | DiscardAll | Deallocate(_))
    }
}
