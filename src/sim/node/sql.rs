//! Statements as they are read: what is left of sqlparser's trees when everything has been looked at that they hold.
//!
//! Names are folded to lower case unless they were quoted. A schema is dropped if it is `public` or `pg_catalog`.

use sqlparser::ast;

/// Strength of a lock on a row, weakest first (src/include/nodes/lockoptions.h); the lock manager has no other modes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Strength {
    KeyShare,
    Share,
    NoKeyUpdate,
    Update,
}

impl Strength {
    /// The two exclude each other (the table of row-level locks in the documentation; tupleLockExtraInfo in heapam.c).
    pub fn conflicts(self, other: Strength) -> bool {
        let (weak, strong) = if self <= other { (self, other) } else { (other, self) };
        match weak {
            Strength::KeyShare => strong == Strength::Update,
            Strength::Share => strong >= Strength::NoKeyUpdate,
            Strength::NoKeyUpdate | Strength::Update => true,
        }
    }
}

/// A table with the name that it has in the statement.
#[derive(Clone, Debug)]
pub struct TableRef {
    pub name: String,
    pub alias: String,
}

/// SELECT from at most one table.
#[derive(Clone, Debug)]
pub struct Select {
    pub items: Vec<ast::SelectItem>,
    pub from: Option<TableRef>,
    pub filter: Option<ast::Expr>,
    /// Expressions, each with "descending".
    pub order: Vec<(ast::Expr, bool)>,
    pub limit: Option<ast::Expr>,
    pub lock: Option<Strength>,
}

/// INSERT ... VALUES.
#[derive(Clone, Debug)]
pub struct Insert {
    pub table: TableRef,
    /// Empty: all.
    pub columns: Vec<String>,
    pub rows: Vec<Vec<ast::Expr>>,
    pub on_conflict: Option<OnConflict>,
    pub returning: Vec<ast::SelectItem>,
}

/// ON CONFLICT.
#[derive(Clone, Debug)]
pub struct OnConflict {
    /// `None`: any unique key.
    pub columns: Option<Vec<String>>,
    /// `None`: DO NOTHING; else DO UPDATE, with its WHERE.
    pub update: Option<(Assignments, Option<ast::Expr>)>,
}

/// SET's columns and values.
pub type Assignments = Vec<(String, ast::Expr)>;

/// UPDATE, or DELETE.
#[derive(Clone, Debug)]
pub struct Change {
    pub table: TableRef,
    /// `None`: DELETE.
    pub set: Option<Assignments>,
    pub filter: Option<ast::Expr>,
    pub returning: Vec<ast::SelectItem>,
}

/// Transaction modes as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Modes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
}

/// Isolation levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    #[default]
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    /// As settings print it.
    pub fn text(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read committed",
            Isolation::RepeatableRead => "repeatable read",
            Isolation::Serializable => "serializable",
        }
    }
}

/// A statement.
#[derive(Clone, Debug)]
pub enum Statement {
    Select(Box<Select>),
    Insert(Insert),
    Change(Change),
    /// The proxy's question for the session's settings ([`crate::session::settings::QUERY`]).
    SessionSettings,
    /// Its care for the session's default isolation level ([`crate::session::snapshot::DEFAULT`]).
    DefaultLevel,
    /// COPY FROM STDIN in text format.
    Copy {
        table: String,
        columns: Vec<String>,
    },
    CreateTable(Box<ast::CreateTable>),
    CreateSequence(String),
    /// The one trigger that there is ([`super::trigger`]), on this table.
    CreateTrigger(String),
    /// With its tag: BEGIN, or START TRANSACTION.
    Begin(Modes, &'static str),
    Commit,
    Rollback,
    /// PREPARE TRANSACTION.
    PrepareTransaction(String),
    /// COMMIT PREPARED, or ROLLBACK PREPARED.
    FinishPrepared {
        gid: String,
        commit: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    SetTransaction(Modes),
    SetConstraints {
        deferred: bool,
    },
    /// SET, with "local"; `None`: DEFAULT, or RESET.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
        tag: &'static str,
    },
    ResetAll,
    Show(String),
    DiscardAll,
    Deallocate(Option<String>),
}

impl Statement {
    /// COMMIT, ROLLBACK and kin: what a failed transaction still listens to (IsTransactionExitStmt in postgres.c).
    pub fn is_exit(&self) -> bool {
        matches!(
            self,
            Statement::Commit | Statement::Rollback | Statement::RollbackTo(_) | Statement::PrepareTransaction(_)
        )
    }

    /// A statement that controls transactions (TransactionStmt).
    pub fn is_transaction(&self) -> bool {
        self.is_exit()
            || matches!(
                self,
                Statement::Begin(..)
                    | Statement::Savepoint(_)
                    | Statement::Release(_)
                    | Statement::FinishPrepared { .. }
            )
    }

    /// Planned statements, for whose analysis a snapshot is taken (analyze_requires_snapshot in analyze.c).
    pub fn is_planned(&self) -> bool {
        matches!(
            self,
            Statement::Select(_)
                | Statement::Insert(_)
                | Statement::Change(_)
                | Statement::SessionSettings
                | Statement::DefaultLevel
        )
    }
}
