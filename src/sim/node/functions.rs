//! The functions that the proxy and its workloads use.

use super::session::Session;
use super::value::{Res, Type, Value, unknown};
use crate::wire::PgError;

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    Now,
    ClockTimestamp,
    TxidCurrent,
    TxidIfAssigned,
    TxidStatus,
    CurrentSetting,
    SetConfig,
    Nextval,
    /// `pg_logical_emit_message`.
    EmitMessage,
    /// What [`crate::sql::proof::follow`] does.
    Follow,
}

type Entry = (&'static str, Function, &'static [Type], Type);

/// No statement of a client can name it.
pub const FOLLOW: &str = "(follow)";

const FUNCTIONS: [Entry; 10] = [
    ("now", Function::Now, &[], Type::Timestamptz),
    ("clock_timestamp", Function::ClockTimestamp, &[], Type::Timestamptz),
    ("txid_current", Function::TxidCurrent, &[], Type::Int8),
    ("txid_current_if_assigned", Function::TxidIfAssigned, &[], Type::Int8),
    ("txid_status", Function::TxidStatus, &[Type::Int8], Type::Text),
    ("current_setting", Function::CurrentSetting, &[Type::Text], Type::Text),
    ("set_config", Function::SetConfig, &[Type::Text, Type::Text, Type::Bool], Type::Text),
    ("nextval", Function::Nextval, &[Type::Text], Type::Int8),
    ("pg_logical_emit_message", Function::EmitMessage, &[Type::Bool, Type::Text, Type::Text], Type::Text),
    (FOLLOW, Function::Follow, &[Type::Text, Type::Int8], Type::Int8),
];

/// A function by name and number of arguments: with their types, and the result's.
pub fn lookup(name: &str, arguments: usize) -> Res<(Function, &'static [Type], Type)> {
    let found = FUNCTIONS.iter().find(|f| f.0 == name && f.2.len() == arguments);
    let (_, function, types, result) =
        found.ok_or_else(|| unknown(format!("the function {name} with {arguments} arguments")))?;
    Ok((*function, types, *result))
}

/// There is no such table or sequence.
pub fn no_relation(name: &str) -> PgError {
    PgError::error("42P01", format!("relation \"{name}\" does not exist"))
}

/// A transaction id as SQL has it.
fn number(xid: Option<super::txn::Xid>) -> Value {
    xid.map_or(Value::Null, |x| Value::Int(i64::try_from(x).unwrap_or(i64::MAX)))
}

impl Session {
    /// Calls a function. All but set_config() are strict: a NULL argument makes a NULL result.
    pub fn call(&mut self, f: Function, args: &[Value]) -> Res<Value> {
        if args.contains(&Value::Null) && f != Function::SetConfig {
            return Ok(Value::Null);
        }
        Ok(match (f, args) {
            (Function::Now, []) => Value::Time(self.tx().started_us),
            (Function::ClockTimestamp, []) => Value::Time(self.look().clock()),
            (Function::TxidCurrent, []) => {
                self.xid();
                number(self.top_xid())
            }
            (Function::TxidIfAssigned, []) => number(self.top_xid()),
            (Function::TxidStatus, [Value::Int(n)]) => {
                let fate = u64::try_from(*n).ok().and_then(|x| self.look().txns.known_fate(x));
                let future = || PgError::error("22023", format!("transaction ID {n} is in the future"));
                Value::of(fate.ok_or_else(future)?.text())
            }
            (Function::CurrentSetting, [Value::Text(name)]) => Value::Text(self.show(name)?),
            (Function::SetConfig, [Value::Text(name), value, Value::Bool(local)]) => {
                self.settings.set(name, value.text().as_deref(), *local)?;
                Value::Text(self.show(name)?)
            }
            (Function::Nextval, [Value::Text(name)]) => Value::Int(self.nextval(name)?),
            (Function::EmitMessage, [Value::Bool(true), Value::Text(prefix), Value::Text(content)]) => {
                self.log_message(prefix, content)
            }
            (Function::Follow, [Value::Text(name), Value::Int(to)]) => Value::Int(self.follow(name, *to)?),
            _ => return Err(unknown(format!("{f:?} of {args:?}"))),
        })
    }

    /// Refuses what a READ ONLY transaction must not do (PreventCommandIfReadOnly).
    pub fn check_writable(&mut self, what: &str) -> Res<()> {
        if self.tx().read_only {
            return Err(PgError::error("25006", format!("cannot execute {what} in a read-only transaction")));
        }
        Ok(())
    }

    /// nextval().
    fn nextval(&mut self, name: &str) -> Res<i64> {
        self.check_writable("nextval()")?;
        let missing = || no_relation(name);
        // What is logged belongs to a transaction, so that its commit flushes it (nextval_internal).
        if self.look().sequences.get(name).ok_or_else(missing)?.will_log() {
            self.xid();
        }
        if let Some(xid) = self.top_xid() {
            self.server().log.draws(xid, name);
        }
        let s = &mut *self.server();
        let sequence = s.sequences.get_mut(name).ok_or_else(missing)?;
        Ok(sequence.next(|| s.txns.log_other()))
    }

    /// As many calls of nextval() as are missing.
    fn follow(&mut self, name: &str, to: i64) -> Res<i64> {
        let mut calls = 0;
        while self.look().sequences.get(name).ok_or_else(|| no_relation(name))?.last() < to {
            self.nextval(name)?;
            calls += 1;
        }
        Ok(calls)
    }

    /// A setting as SHOW has it.
    pub fn show(&self, name: &str) -> Res<String> {
        let tx = self.tx.as_ref();
        Ok(match name.to_lowercase().as_str() {
            "transaction_isolation" => tx.map(|t| t.isolation).unwrap_or_default().text().into(),
            "transaction_read_only" => if tx.is_some_and(|t| t.read_only) { "on" } else { "off" }.into(),
            "session_authorization" => self.me().user.clone(),
            other => self.settings.get(other)?,
        })
    }
}
