//! Transactions and clients, made of statements.

use super::kind::Kind;
use super::schema::Schema;
use super::script::{Client, Step};
use super::statement::{Statement, statement};
use proptest::collection::vec;
use proptest::prelude::*;

/// One transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub statements: Vec<Statement>,
    /// 0, 1: no block; 2: all in one string; else BEGIN with a level.
    block: u8,
    rolls_back: bool,
}

/// What one client does.
#[derive(Clone, Debug)]
pub struct Work {
    pub plain_role: bool,
    pub transactions: Vec<Transaction>,
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (vec(statement(), 1..6), 0u8..9, proptest::bool::weighted(0.1))
        .prop_map(|(statements, block, rolls_back)| Transaction { statements, block, rolls_back })
}

pub fn work() -> impl Strategy<Value = Vec<Work>> {
    let client = (proptest::bool::weighted(0.4), vec(transaction(), 1..6))
        .prop_map(|(plain_role, transactions)| Work { plain_role, transactions });
    vec(client, 1..9)
}

/// Ingredients of which the README says that they are not protected yet.
#[derive(Clone, Copy, Default, Debug)]
pub struct Switches {
    /// UPDATE and DELETE of tables without a primary key and replica identity.
    pub keyless: bool,
    /// DDL that fills rows from a volatile default.
    pub frozen: bool,
    /// DDL in one transaction with writes: it goes by its text as a whole.
    pub ddl_in_blocks: bool,
    /// CREATE TABLE AS, whose query each node runs on what it has committed by then: its rows are locked by nobody.
    pub created_as: bool,
}

impl Work {
    pub fn client(&self, schema: &Schema, switches: Switches) -> Client {
        let mut steps = Vec::new();
        for t in &self.transactions {
            t.add(schema, switches, &mut steps);
        }
        Client { plain_role: self.plain_role, steps }
    }
}

impl Transaction {
    fn add(&self, schema: &Schema, switches: Switches, steps: &mut Vec<Step>) {
        let begin = match self.block {
            0 | 1 => None,
            2 | 3 => Some("BEGIN"),
            4 => Some("BEGIN ISOLATION LEVEL READ COMMITTED"),
            5 => Some("BEGIN ISOLATION LEVEL REPEATABLE READ"),
            6 => Some("BEGIN ISOLATION LEVEL SERIALIZABLE"),
            7 => Some("START TRANSACTION READ ONLY"),
            _ => Some("BEGIN READ WRITE"),
        };
        let end = if self.rolls_back { "ROLLBACK" } else { "COMMIT" };
        let drawn = self.statements.iter().filter(|s| {
            (begin.is_none() || switches.ddl_in_blocks || !s.kind.is_ddl())
                && (switches.created_as || s.kind != Kind::CreateAs)
        });
        let mut inner: Vec<Step> = drawn.flat_map(|s| s.steps(schema, switches)).collect();
        let Some(begin) = begin else { return steps.append(&mut inner) };
        if self.block == 2 && inner.iter().all(|s| matches!(s, Step::Simple(_))) {
            let texts: Vec<&str> = inner.iter().map(Step::sql).collect();
            steps.push(Step::Simple(format!("BEGIN; {}; {end}", texts.join("; "))));
            // An error in the middle leaves the block open.
            return steps.push(Step::Simple(end.into()));
        }
        steps.push(Step::Simple(begin.into()));
        steps.append(&mut inner);
        steps.push(Step::Simple(end.into()));
    }
}
