//! Money is moved between accounts and none is made: whoever adds it all up, in one statement or in a transaction that
//! reads it in halves, finds the same total (else it was a *read skew*: one half before a transfer, the other after).

use super::cluster::{Cluster, PROTOCOLS, Protocol, Session, code, patiently, words};
use crate::support::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_postgres::Error;

/// All accounts together, from the beginning.
pub const TOTAL: i64 = 1000;
const ACCOUNTS: usize = 10;
const CLERKS: u64 = 3;

/// A way to add it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audit {
    /// One statement.
    Single,
    /// Two statements in a READ ONLY transaction of a stated level.
    ReadOnly,
    /// Two statements in a READ ONLY transaction at the default level.
    ReadOnlyByDefault,
    /// Two statements in a transaction at the default level that might write.
    Block,
    /// Two statements in one simple query: a transaction without BEGIN.
    String,
}

pub const AUDITS: [Audit; 5] = [Audit::Single, Audit::ReadOnly, Audit::ReadOnlyByDefault, Audit::Block, Audit::String];

const ALL: &str = "SELECT sum(n)::bigint, (SELECT max(id) FROM node) FROM account";
const LOW: &str = "SELECT sum(n)::bigint, (SELECT max(id) FROM node) FROM account WHERE id < 5";
const HIGH: &str = "SELECT sum(n)::bigint, (SELECT max(id) FROM node) FROM account WHERE id >= 5";

impl Audit {
    /// The total, and the node that has answered last.
    async fn total(self, session: &Session) -> Result<(i64, i64), Error> {
        let begin = match self {
            Audit::Single => {
                let row = &session.numbers(ALL).await?[0];
                return Ok((row[0], row[1]));
            }
            Audit::String => {
                let rows = session.numbers(&format!("{LOW}; {HIGH}")).await?;
                return Ok((rows[0][0] + rows[1][0], rows[1][1]));
            }
            Audit::ReadOnly => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Audit::ReadOnlyByDefault => "BEGIN READ ONLY",
            Audit::Block => "BEGIN",
        };
        session.run(begin).await?;
        let low = session.numbers(LOW).await?[0][0];
        // Time for a transfer to come between.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let high = &session.numbers(HIGH).await?[0];
        session.run("COMMIT").await?;
        Ok((low + high[0], high[1]))
    }
}

/// What the auditors have found.
#[derive(Default)]
pub struct Books {
    /// The first wrong total of each kind of audit.
    pub wrong: BTreeMap<Audit, String>,
    /// How often each kind of audit was answered by each node.
    pub answers: BTreeMap<(Audit, i64), usize>,
    pub transfers: usize,
    /// SQLSTATEs of transfers in a block that were told to run again.
    pub again: BTreeMap<String, usize>,
}

impl Books {
    fn note(&mut self, audit: Audit, protocol: Protocol, total: i64, node: i64) {
        *self.answers.entry((audit, node)).or_default() += 1;
        if total != TOTAL {
            let note = || format!("{total} instead of {TOTAL} on node {node} ({protocol:?})");
            self.wrong.entry(audit).or_insert_with(note);
        }
    }

    /// The least number of answers to one kind of audit that one of these nodes gave.
    pub fn least(&self, audit: Audit, nodes: std::ops::Range<i64>) -> usize {
        nodes.map(|n| self.answers.get(&(audit, n)).copied().unwrap_or(0)).min().unwrap_or(0)
    }

    /// One line for the test's output.
    pub fn summary(&self) -> String {
        format!("{} transfers, {:?} run again, answers by node {:?}", self.transfers, self.again, self.answers)
    }
}

/// Clerks and auditors at work, until `enough` says so.
pub async fn work(cluster: &Cluster, audits: &[Audit], mut enough: impl FnMut(&Books, Duration) -> bool) -> Books {
    let books = Rc::new(RefCell::new(Books::default()));
    let stop = Rc::new(Cell::new(false));
    let mut tasks = Vec::new();
    for clerk in 0..CLERKS {
        let session = cluster.session(PROTOCOLS[clerk as usize % PROTOCOLS.len()]).await;
        let (books, stop) = (books.clone(), stop.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut random = Random::new(clerk);
            while !stop.get() {
                tokio::time::sleep(Duration::from_millis(random.below(30) as u64)).await;
                transfer(&session, &mut random, &books).await;
            }
        }));
    }
    for (i, &audit) in audits.iter().cycle().take(audits.len() * 2).enumerate() {
        let extended = if i % 4 < 2 { Protocol::Unnamed } else { Protocol::Prepared };
        let protocol = if i < audits.len() || audit == Audit::String { Protocol::Simple } else { extended };
        let session = cluster.session(protocol).await;
        let (books, stop) = (books.clone(), stop.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut random = Random::new(i as u64 + 50);
            while !stop.get() {
                let result = audit.total(&session).await;
                let (total, node) = result.unwrap_or_else(|e| panic!("{audit:?}, {protocol:?}: {}", words(&e)));
                books.borrow_mut().note(audit, protocol, total, node);
                tokio::time::sleep(Duration::from_millis(random.below(3) as u64)).await;
            }
        }));
    }
    let started = Instant::now();
    while !enough(&books.borrow(), started.elapsed()) && !tasks.iter().any(|t| t.is_finished()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.set(true);
    for task in tasks {
        patiently("a client's end", task).await.unwrap();
    }
    Rc::into_inner(books).unwrap().into_inner()
}

/// Moves money from one account to another.
async fn transfer(session: &Session, random: &mut Random, books: &RefCell<Books>) {
    let from = random.below(ACCOUNTS);
    let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
    let money = random.between(1, 9);
    let take = format!("UPDATE account SET n = n - {money} WHERE id = {from}");
    let give = format!("UPDATE account SET n = n + {money} WHERE id = {to}");
    // In the order of the accounts, so that no two transfers wait for each other.
    let (one, other) = if from < to { (&take, &give) } else { (&give, &take) };
    if random.percent(30) {
        let sql = format!(
            "UPDATE account SET n = n + CASE id WHEN {from} THEN -{money} ELSE {money} END WHERE id IN ({from}, {to})"
        );
        match session.run(&sql).await {
            Ok(()) => books.borrow_mut().transfers += 1,
            // It locks rows in whatever order it finds them.
            Err(error) => assert_eq!(code(&error), "40P01", "a transfer in one statement: {}", words(&error)),
        }
        return;
    }
    let block = async {
        session.run("BEGIN").await?;
        session.run(one).await?;
        session.run(other).await?;
        session.run("COMMIT").await
    };
    match block.await {
        Ok(()) => books.borrow_mut().transfers += 1,
        Err(error) => {
            let code = code(&error);
            assert!(["40001", "40P01"].contains(&code.as_str()), "a transfer: {}", words(&error));
            *books.borrow_mut().again.entry(code).or_default() += 1;
            session.run("ROLLBACK").await.unwrap();
        }
    }
}
