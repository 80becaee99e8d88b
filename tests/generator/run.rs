//! Playing a script: its setup, nodes that are made unlike, its clients at once, and what must hold afterwards.

use super::compare;
use super::script::{Client, Script, Step};
use super::world::World;
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// Longest that the clients of one case may take together. A case takes a second; locks are waited for at most as long
/// as deadlock detection of some twenty transactions takes.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What is wrong after a case.
#[derive(Debug)]
pub struct Failure {
    /// The same for the same bug, mostly: only failures of one kind are taken for one while shrinking.
    pub kind: String,
    pub text: String,
}

/// How often what was answered: `kind of statement` and SQLSTATE (`ok`).
pub type Answers = BTreeMap<(String, String), u64>;

/// Plays it. What is wrong, if anything is; the world is fit for the next one in any case.
pub fn run(world: &mut World, script: &Script, answers: &mut Answers) -> Option<Failure> {
    world.set(script.world);
    let mut found = play(world, script, answers).err();
    if let Some(f) = &mut found {
        let complaint = world.complaints().join("\n");
        f.text = format!("{}\n{complaint}", f.text);
        world.repair();
    }
    found
}

fn play(world: &mut World, script: &Script, answers: &mut Answers) -> Result<(), Failure> {
    world.clean();
    for sql in &script.setup {
        if let Err(e) = world.superuser().rows(sql) {
            return Err(Failure { kind: format!("setup: {e}"), text: format!("{sql}: {e}") });
        }
    }
    world.make_unlike();
    let told = clients(world, &script.clients)?;
    let mut wrong = None;
    for (sql, code, text) in told {
        if !is_expected(&code) && wrong.is_none() {
            wrong = Some(Failure { kind: format!("answer {code}"), text: format!("{sql}\n{text}") });
        }
        let word = sql.split_whitespace().take(if sql.starts_with("INSERT") { 1 } else { 2 });
        let word: Vec<&str> = word.collect();
        // What is refused is worth a look: too much of it, and nothing is tried.
        let refused = text.split("message: \"").nth(1).and_then(|t| t.split('"').next()).filter(|_| code == "0A000");
        let code = refused.map_or(code.clone(), |message| format!("{code} {message}"));
        *answers.entry((word[0].to_owned(), code)).or_default() += 1;
    }
    if let Some(complaint) = world.complaints().first() {
        let kind = complaint.split("reason=").nth(1).unwrap_or(complaint).chars().filter(|c| !c.is_ascii_digit());
        return Err(Failure { kind: kind.take(60).collect(), text: complaint.clone() });
    }
    if let Some(wrong) = wrong {
        return Err(wrong);
    }
    compare::equal(world)
}

/// What PostgreSQL and the documented refusals answer to statements as they are drawn here. Not: internal errors, lost
/// connections, ended sessions, lack of resources.
fn is_expected(code: &str) -> bool {
    code == "ok"
        || ["0A", "21", "22", "23", "24", "25", "26", "27", "2D", "34", "3B", "40", "42", "44", "55", "P0", "0L"]
            .iter()
            .any(|class| code.starts_with(class))
}

/// Statement, SQLSTATE, and the whole error, in no order.
type Told = Vec<(String, String, String)>;

fn clients(world: &World, clients: &[Client]) -> Result<Told, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let told = runtime.block_on(async {
        let all = clients.iter().map(|c| tokio::spawn(one(world.login(c.plain_role), c.clone())));
        let tasks: Vec<_> = all.collect();
        let work = async {
            let mut told = Vec::new();
            for task in tasks {
                told.extend(task.await.unwrap());
            }
            told
        };
        tokio::time::timeout(PATIENCE, work).await.ok()
    });
    // The clients are gone before what they have left is looked at.
    runtime.shutdown_timeout(Duration::from_secs(1));
    told.ok_or_else(|| Failure { kind: "hangs".into(), text: format!("a client hangs:\n{}", world.activity()) })
}

async fn one(config: tokio_postgres::Config, client: Client) -> Told {
    let mut told = Vec::new();
    let mut open = None;
    for step in &client.steps {
        if open.is_none() {
            match config.connect(NoTls).await {
                Ok((c, connection)) => open = Some((c, tokio::spawn(connection))),
                Err(e) => {
                    told.push(("(login)".into(), code(&e), format!("{e:?}")));
                    return told;
                }
            }
        }
        let Some((c, _)) = &open else { continue };
        let result = step_of(c, step).await;
        let code = result.as_ref().map_or_else(code, |()| "ok".into());
        // tokio-postgres sends CopyFail and another Sync behind a COPY that was refused, and takes the second
        // ReadyForQuery for the next statement's answer: so it does with a server alone.
        let confused = matches!(step, Step::Copy { .. }) && result.is_err();
        let text = result.err().map_or_else(String::new, |e| format!("{e:?}"));
        told.push((step.sql().to_owned(), code, text));
        if c.is_closed() {
            return told;
        }
        if let Some((c, connection)) = open.take_if(|_| confused) {
            drop(c);
            let _closed = connection.await;
        }
    }
    if let Some((c, connection)) = open {
        drop(c);
        let _closed = connection.await;
    }
    told
}

fn code(e: &tokio_postgres::Error) -> String {
    e.code().map_or_else(|| format!("no SQLSTATE: {e}"), |c| c.code().to_owned())
}

async fn step_of(c: &tokio_postgres::Client, step: &Step) -> Result<(), tokio_postgres::Error> {
    match step {
        Step::Simple(sql) => c.simple_query(sql).await.map(drop),
        Step::Copy { sql, data } => {
            let mut sink = Box::pin(c.copy_in(sql.as_str()).await?);
            sink.send(Bytes::from(data.clone())).await?;
            sink.close().await
        }
        Step::Extended { sql, values, binary } => {
            let statement = c.prepare(sql).await?;
            let values: Vec<Value> = values.iter().map(|v| Value { text: v.clone(), binary: *binary }).collect();
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| v as &(dyn ToSql + Sync)).collect();
            if values.len() != statement.params().len() {
                return Ok(());
            }
            c.query(&statement, &values).await.map(drop)
        }
    }
}

/// A parameter: in binary if it is to be and its type is known here, else in text.
#[derive(Debug)]
struct Value {
    text: String,
    binary: bool,
}

impl Value {
    fn in_binary(&self, ty: &Type) -> Option<Vec<u8>> {
        if !self.binary {
            return None;
        }
        match *ty {
            Type::INT4 => self.text.parse::<i32>().ok().map(|n| n.to_be_bytes().to_vec()),
            Type::INT8 => self.text.parse::<i64>().ok().map(|n| n.to_be_bytes().to_vec()),
            Type::FLOAT8 => self.text.parse::<f64>().ok().map(|n| n.to_be_bytes().to_vec()),
            Type::TEXT => Some(self.text.clone().into_bytes()),
            // 2020-03-01 or so.
            Type::TIMESTAMPTZ | Type::TIMESTAMP => Some(636_336_000_000_000i64.to_be_bytes().to_vec()),
            _ => None,
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.in_binary(ty) {
            Some(bytes) => out.extend_from_slice(&bytes),
            None => out.extend_from_slice(self.text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, ty: &Type) -> Format {
        if self.in_binary(ty).is_some() { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}
