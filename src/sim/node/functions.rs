//! The functions and system views that the proxy and its workloads use.

use super::eval::Env;
use super::lock::{Asked, SESSION, Tag};
use super::plan::{Ex, Virtual};
use super::server::Server;
use super::session::Session;
use super::sql::{LockMode, Modes};
use super::table::{Oid, Relation};
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
    Sleep,
    Terminate,
    Cancel,
    TryAdvisoryLock,
    AdvisoryUnlock,
    HashText,
    Nextval,
    Currval,
    Setval,
    BackendPid,
    InRecovery,
    QuoteLiteral,
    Coalesce,
    /// The rows of the proxy's question for the session's settings.
    SessionSettings,
}

/// A function by name and number of arguments: with their types, and the result's.
pub fn lookup(name: &str, arguments: usize) -> Option<(Function, &'static [Type], Type)> {
    use Type::{Bool, Int4, Int8, Text, Timestamptz, Void};
    let (function, types, result): (Function, &[Type], Type) = match (name, arguments) {
        ("now" | "transaction_timestamp", 0) => (Function::Now, &[], Timestamptz),
        ("clock_timestamp", 0) => (Function::ClockTimestamp, &[], Timestamptz),
        ("txid_current", 0) => (Function::TxidCurrent, &[], Int8),
        ("txid_current_if_assigned", 0) => (Function::TxidIfAssigned, &[], Int8),
        ("txid_status", 1) => (Function::TxidStatus, &[Int8], Text),
        ("current_setting", 1) => (Function::CurrentSetting, &[Text], Text),
        ("current_setting", 2) => (Function::CurrentSetting, &[Text, Bool], Text),
        ("set_config", 3) => (Function::SetConfig, &[Text, Text, Bool], Text),
        ("pg_sleep", 1) => (Function::Sleep, &[Text], Void),
        ("pg_terminate_backend", 1) => (Function::Terminate, &[Int4], Bool),
        ("pg_cancel_backend", 1) => (Function::Cancel, &[Int4], Bool),
        ("pg_try_advisory_lock", 1) => (Function::TryAdvisoryLock, &[Int8], Bool),
        ("pg_advisory_unlock", 1) => (Function::AdvisoryUnlock, &[Int8], Bool),
        ("hashtext", 1) => (Function::HashText, &[Text], Int4),
        ("nextval", 1) => (Function::Nextval, &[Text], Int8),
        ("currval", 1) => (Function::Currval, &[Text], Int8),
        ("setval", 2) => (Function::Setval, &[Text, Int8], Int8),
        ("setval", 3) => (Function::Setval, &[Text, Int8, Bool], Int8),
        ("pg_backend_pid", 0) => (Function::BackendPid, &[], Int4),
        ("pg_is_in_recovery", 0) => (Function::InRecovery, &[], Bool),
        ("quote_literal", 1) => (Function::QuoteLiteral, &[Text], Text),
        _ => return None,
    };
    Some((function, types, result))
}

/// A system view's columns.
pub fn virtual_table(name: &str) -> Option<(Virtual, &'static [(&'static str, Type)])> {
    match name {
        "pg_stat_activity" => Some((
            Virtual::Activity,
            &[
                ("pid", Type::Int4),
                ("usename", Type::Text),
                ("datname", Type::Text),
                ("application_name", Type::Text),
                ("backend_type", Type::Text),
                ("backend_start", Type::Timestamptz),
                ("state", Type::Text),
            ],
        )),
        "pg_authid" => Some((
            Virtual::Authid,
            &[
                ("rolname", Type::Text),
                ("rolpassword", Type::Text),
                ("rolcanlogin", Type::Bool),
                ("rolsuper", Type::Bool),
                ("rolvaliduntil", Type::Timestamptz),
            ],
        )),
        _ => None,
    }
}

/// A system view's rows.
pub fn virtual_rows(s: &Server, table: Virtual) -> Vec<Vec<Value>> {
    let text = |t: &str| Value::Text(t.to_owned());
    match table {
        Virtual::Activity => {
            let mut rows = vec![vec![
                Value::Int(999),
                Value::Null,
                Value::Null,
                text(""),
                text("checkpointer"),
                Value::Time(s.incarnation_us),
                Value::Null,
            ]];
            // A backend that has not read its start-up packet yet is there too, without a name.
            rows.extend(s.backends.values().filter(|b| !b.ended).map(|b| {
                vec![
                    Value::Int(b.pid.into()),
                    text(&b.user),
                    text(&b.database),
                    text(&b.application_name),
                    text("client backend"),
                    Value::Time(b.started_us),
                    text(b.state),
                ]
            }));
            rows
        }
        Virtual::Authid => {
            let row = |(name, password): &(String, Option<String>)| {
                let password = password.as_deref().map_or(Value::Null, text);
                vec![text(name), password, Value::Bool(true), Value::Bool(true), Value::Null]
            };
            s.config.roles.iter().map(row).collect()
        }
    }
}

impl Server {
    /// A cancel request; a backend that is idle forgets it.
    pub fn cancel(&mut self, pid: u32, secret: u32) {
        self.signal(pid, Some(secret), false);
    }

    /// SIGINT or SIGTERM for a backend. False: there is none.
    fn signal(&mut self, pid: u32, secret: Option<u32>, terminate: bool) -> bool {
        use super::server::Wait;
        let found = self.backends.values_mut().find(|b| b.pid == pid && !b.ended);
        let Some(b) = found.filter(|b| secret.is_none_or(|s| s == b.secret)) else { return false };
        if terminate {
            b.terminate = true;
        } else if !matches!(b.wait, Wait::Message { idle: true, .. }) {
            b.cancel = true;
        }
        true
    }

    fn hash(text: &str) -> i64 {
        let mut h: u32 = 0x811c_9dc5;
        for b in text.bytes() {
            h = (h ^ u32::from(b)).wrapping_mul(0x0100_0193);
        }
        i64::from(i32::from_be_bytes(h.to_be_bytes()))
    }
}

/// A transaction id as SQL has it.
fn number(xid: super::txn::Xid) -> i64 {
    i64::try_from(xid).unwrap_or(i64::MAX)
}

/// quote_literal().
pub fn quote(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

impl Session {
    /// Calls a function. All but a few are strict: a NULL argument makes a NULL result.
    pub fn call(&mut self, f: Function, args: &[Ex], env: &Env<'_>) -> Res<Value> {
        if f == Function::Coalesce {
            for a in args {
                let v = self.eval(a, env)?;
                if v != Value::Null {
                    return Ok(v);
                }
            }
            return Ok(Value::Null);
        }
        let mut values = Vec::new();
        for a in args {
            values.push(self.eval(a, env)?);
        }
        if values.contains(&Value::Null) && f != Function::SetConfig {
            return Ok(Value::Null);
        }
        match values.as_slice() {
            [] => self.call_none(f),
            [Value::Int(n)] => self.call_number(f, *n),
            [Value::Text(t)] => self.call_text(f, t),
            [Value::Text(t), rest @ ..] => self.call_settings(f, t, rest),
            _ => Err(unknown(format!("these arguments of {f:?}"))),
        }
    }

    fn call_none(&mut self, f: Function) -> Res<Value> {
        Ok(match f {
            Function::Now => Value::Time(self.tx().started_us),
            Function::ClockTimestamp => Value::Time(self.look().clock()),
            Function::TxidCurrent => {
                self.xid();
                Value::Int(self.top_xid().map_or(0, number))
            }
            Function::TxidIfAssigned => self.top_xid().map_or(Value::Null, |x| Value::Int(number(x))),
            Function::BackendPid => Value::Int(self.me().pid.into()),
            Function::InRecovery => Value::Bool(false),
            _ => return Err(unknown(format!("{f:?} without arguments"))),
        })
    }

    fn call_number(&mut self, f: Function, n: i64) -> Res<Value> {
        Ok(match f {
            Function::TxidStatus => {
                let s = self.look();
                let status = u64::try_from(n).ok().and_then(|x| s.txns.status(x));
                let status =
                    status.ok_or_else(|| PgError::error("22023", format!("transaction ID {n} is in the future")))?;
                Value::Text(status.into())
            }
            Function::Terminate | Function::Cancel => {
                let pid = u32::try_from(n).unwrap_or(0);
                let own = self.me().pid == pid;
                if own {
                    return Err(unknown("a backend that ends itself"));
                }
                Value::Bool(self.server().signal(pid, None, f == Function::Terminate))
            }
            Function::TryAdvisoryLock => {
                let owner = self.owner();
                let asked = self.server().locks.ask(owner, Tag::Advisory(n), LockMode::Exclusive, SESSION, false);
                Value::Bool(asked == Asked::Granted)
            }
            Function::AdvisoryUnlock => {
                let owner = self.owner();
                let held = self.look().locks.held_by(owner).contains(&(Tag::Advisory(n), LockMode::Exclusive));
                if !held {
                    self.warn("01000", "you don't own a lock of type ExclusiveLock");
                }
                self.server().locks.release(owner, Tag::Advisory(n), LockMode::Exclusive, SESSION);
                Value::Bool(held)
            }
            _ => return Err(unknown(format!("{f:?} of a number"))),
        })
    }

    fn call_text(&mut self, f: Function, t: &str) -> Res<Value> {
        Ok(match f {
            Function::Sleep => {
                let seconds: f64 = t.parse().map_err(|_| unknown(format!("pg_sleep({t})")))?;
                // Sleeps are short; a day is far beyond any workload.
                self.sleep_us += (seconds.clamp(0.0, 86_400.0) * 1e6) as i64;
                Value::Null
            }
            Function::HashText => Value::Int(Server::hash(t)),
            Function::QuoteLiteral => Value::Text(quote(t)),
            Function::CurrentSetting => {
                let missing = || PgError::error("42704", format!("unrecognized configuration parameter \"{t}\""));
                Value::Text(self.show(t).ok_or_else(missing)?)
            }
            Function::Nextval => Value::Int(self.nextval(t)?),
            Function::Currval => {
                let (oid, name) = self.find_sequence(t)?;
                let e = || format!("currval of sequence \"{name}\" is not yet defined in this session");
                Value::Int(*self.currval.get(&oid).ok_or_else(|| PgError::error("55000", e()))?)
            }
            _ => return Err(unknown(format!("{f:?} of a text"))),
        })
    }

    fn call_settings(&mut self, f: Function, t: &str, rest: &[Value]) -> Res<Value> {
        Ok(match (f, rest) {
            (Function::CurrentSetting, [Value::Bool(missing_ok)]) => match self.show(t) {
                None if *missing_ok => Value::Null,
                _ => return self.call_text(f, t),
            },
            (Function::SetConfig, [value, Value::Bool(local)]) => {
                self.set(t, value.text().as_deref(), *local)?;
                self.show(t).map_or(Value::Null, Value::Text)
            }
            (Function::Setval, [Value::Int(n)]) => self.setval(t, *n, true)?,
            (Function::Setval, [Value::Int(n), Value::Bool(called)]) => self.setval(t, *n, *called)?,
            _ => return Err(unknown(format!("these arguments of {f:?}"))),
        })
    }

    /// A sequence by the text of a regclass.
    pub fn find_sequence(&self, name: &str) -> Res<(Oid, String)> {
        // A name in an argument is quoted as an identifier is: the proxy and the workloads write plain ones.
        let plain = name.strip_prefix("public.").unwrap_or(name).trim_matches('"');
        let s = self.look();
        match s.catalogue.find(plain, &s.txns, self.top_xid()) {
            Some(Relation::Sequence(oid, _)) => Ok((*oid, plain.to_owned())),
            Some(Relation::Table(_)) => Err(PgError::error("42809", format!("\"{plain}\" is not a sequence"))),
            None => Err(PgError::error("42P01", format!("relation \"{name}\" does not exist"))),
        }
    }

    /// Refuses what a READ ONLY transaction must not do (PreventCommandIfReadOnly).
    pub fn check_writable(&mut self, what: &str) -> Res<()> {
        if self.tx().read_only {
            return Err(PgError::error("25006", format!("cannot execute {what} in a read-only transaction")));
        }
        Ok(())
    }

    /// nextval().
    pub fn nextval(&mut self, name: &str) -> Res<i64> {
        self.check_writable("nextval()")?;
        let (oid, _) = self.find_sequence(name)?;
        // What is logged belongs to a transaction, so that its commit flushes it (nextval_internal).
        if self.look().sequences.get(&oid).is_some_and(super::sequence::Sequence::will_log) {
            self.xid();
        }
        let mut guard = self.server();
        let s = &mut *guard;
        let missing = || PgError::error("42P01", format!("relation \"{name}\" does not exist"));
        let sequence = s.sequences.get_mut(&oid).ok_or_else(missing)?;
        let value = sequence.next(|| s.txns.log_other())?;
        drop(guard);
        self.currval.insert(oid, value);
        Ok(value)
    }

    fn setval(&mut self, name: &str, value: i64, called: bool) -> Res<Value> {
        self.check_writable("setval()")?;
        let (oid, _) = self.find_sequence(name)?;
        self.xid();
        let mut guard = self.server();
        let s = &mut *guard;
        let at = s.txns.log_other();
        if let Some(sequence) = s.sequences.get_mut(&oid) {
            sequence.set(value, called, at);
        }
        drop(guard);
        if called {
            self.currval.insert(oid, value);
        }
        Ok(Value::Int(value))
    }

    /// A setting as SHOW has it.
    pub fn show(&self, name: &str) -> Option<String> {
        let tx = self.tx.as_ref();
        match name.to_lowercase().as_str() {
            "transaction_isolation" => Some(tx.map(|t| t.isolation).unwrap_or_default().text().into()),
            "transaction_read_only" => Some(if tx.is_some_and(|t| t.read_only) { "on" } else { "off" }.into()),
            "transaction_deferrable" => Some("off".into()),
            "session_authorization" => {
                let set = self.settings.get("session_authorization").filter(|u| !u.is_empty());
                Some(set.unwrap_or_else(|| self.me().user.clone()))
            }
            other => self.settings.get(other),
        }
    }

    /// SET, and set_config().
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Res<()> {
        let invalid = || {
            PgError::error(
                "22023",
                format!("invalid value for parameter \"{name}\": \"{}\"", value.unwrap_or_default()),
            )
        };
        match name.to_lowercase().as_str() {
            "transaction_isolation" => {
                let isolation = value.map(|v| super::sql::Isolation::parse(v).ok_or_else(invalid)).transpose()?;
                self.set_modes(Modes { isolation, read_only: None })
            }
            "transaction_read_only" => {
                let read_only = match value {
                    Some("on") => true,
                    Some("off") | None => false,
                    _ => return Err(invalid()),
                };
                self.set_modes(Modes { isolation: None, read_only: Some(read_only) })
            }
            other => self.settings.set(other, value, local),
        }
    }
}
