//! Run-time settings: stored under any name, transactional, with PostgreSQL 15's defaults for those that matter.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Res, unknown};
use crate::wire::PgError;

/// Reported by ParameterStatus, in the order of the login (BeginReportingGUCOptions sorts by name), with defaults.
pub const REPORTED: [(&str, &str); 13] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.14"),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];

/// Others that have a value from the start.
const DEFAULTS: [(&str, &str); 12] = [
    ("deadlock_timeout", "1s"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "0"),
    ("max_connections", "100"),
    ("role", "none"),
    ("search_path", "\"$user\", public"),
    ("server_version_num", "150014"),
    ("session_replication_role", "origin"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
];

/// A session's settings. Names are in lower case.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The node's own.
    base: BTreeMap<String, String>,
    /// From the start-up packet.
    client: BTreeMap<String, String>,
    /// SET.
    session: BTreeMap<String, String>,
    /// SET LOCAL.
    local: BTreeMap<String, String>,
    /// Names of extensions that have been set once: they have an empty value from then on.
    placeholders: BTreeSet<String>,
}

impl Settings {
    /// The node's own value, or one of the start-up packet.
    pub fn at_login(&mut self, name: &str, value: &str, by_client: bool) -> Res<()> {
        check(&name.to_lowercase(), value)?;
        let of = if by_client { &mut self.client } else { &mut self.base };
        of.insert(name.to_lowercase(), value.to_owned());
        Ok(())
    }

    /// What is in force; `None`: not set, and without a default here.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let layers = [&self.local, &self.session, &self.client, &self.base];
        layers.into_iter().find_map(|l| l.get(&name)).cloned().or_else(|| {
            let all = REPORTED.iter().chain(&DEFAULTS);
            let default = all.filter(|(n, _)| n.eq_ignore_ascii_case(&name)).map(|(_, v)| (*v).to_owned()).next();
            default.or_else(|| self.placeholders.contains(&name).then(String::new))
        })
    }

    /// SET; `None` is DEFAULT.
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Res<()> {
        let name = name.to_lowercase();
        if let Some(v) = value {
            check(&name, v)?;
        }
        if name.contains('.') {
            self.placeholders.insert(name.clone());
        }
        if name == "role" && value == Some("none") || value.is_none() && !local {
            self.local.remove(&name);
            self.session.remove(&name);
            return Ok(());
        }
        let value = match value {
            Some(v) => v.to_owned(),
            None => self.client.get(&name).or_else(|| self.base.get(&name)).cloned().unwrap_or_default(),
        };
        if local {
            self.local.insert(name, value);
        } else {
            self.local.remove(&name);
            self.session.insert(name, value);
        }
        Ok(())
    }

    /// RESET ALL: role and session_authorization stay (GUC_NO_RESET_ALL).
    pub fn reset_all(&mut self) {
        let stays = |n: &String| n == "role" || n == "session_authorization";
        self.session.retain(|n, _| stays(n));
        self.local.retain(|n, _| stays(n));
    }

    /// DISCARD ALL.
    pub fn discard(&mut self) {
        self.session.clear();
        self.local.clear();
    }

    /// ROLLBACK: what was in force before.
    pub fn roll_back(&mut self, before: Settings) {
        let placeholders = std::mem::take(&mut self.placeholders);
        *self = before;
        self.placeholders.extend(placeholders);
    }

    /// COMMIT: SET LOCAL is over.
    pub fn end_transaction(&mut self) {
        self.local.clear();
    }

    /// A duration.
    pub fn milliseconds(&self, name: &str) -> Option<i64> {
        milliseconds(&self.get(name)?)
    }

    /// What the session and its start-up packet have set, in the order of names: what [`crate::session::settings::QUERY`] asks for, filtered as it does.
    pub fn of_session(&self) -> Vec<(String, String)> {
        const LEFT_OUT: [&str; 12] = [
            "application_name",
            "default_transaction_isolation",
            "default_transaction_read_only",
            "default_transaction_deferrable",
            "transaction_isolation",
            "transaction_read_only",
            "transaction_deferrable",
            "session_authorization",
            "role",
            "seed",
            "synchronous_commit",
            "in_hot_standby",
        ];
        const PREFIXES: [&str; 6] = ["log_", "debug_", "client_min_messages", "enable_", "track_", "stats_"];
        let mut names: Vec<&String> = self.client.keys().chain(self.session.keys()).chain(self.local.keys()).collect();
        names.sort();
        names.dedup();
        let asked = |n: &&String| {
            // Settings of extensions are not in pg_settings until the extension is there.
            !n.contains('.')
                && !n.ends_with("timeout")
                && !LEFT_OUT.contains(&n.as_str())
                && !PREFIXES.iter().any(|p| n.starts_with(p))
        };
        let spelled = |n: &String| {
            REPORTED.iter().find(|(r, _)| r.eq_ignore_ascii_case(n)).map_or(n.clone(), |(r, _)| (*r).into())
        };
        let mut pairs: Vec<(String, String)> =
            names.into_iter().filter(asked).map(|n| (spelled(n), self.get(n).unwrap_or_default())).collect();
        if let Some(role) = self.get("role").filter(|r| r != "none") {
            pairs.push(("role".into(), role));
        }
        pairs
    }
}

fn milliseconds(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n: i64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "" | "ms" => Some(n),
        "s" => n.checked_mul(1000),
        "min" => n.checked_mul(60_000),
        _ => None,
    }
}

/// Refuses values that would mean something which is not modelled.
fn check(name: &str, value: &str) -> Res<()> {
    let invalid = || PgError::error("22023", format!("invalid value for parameter \"{name}\": \"{value}\""));
    match name {
        "timezone" if !["utc", "etc/utc", "gmt", "0"].contains(&value.to_lowercase().as_str()) => {
            Err(unknown(format!("the time zone {value}")))
        }
        "statement_timeout" | "idle_in_transaction_session_timeout" | "idle_session_timeout" => {
            match milliseconds(value).ok_or_else(invalid)? {
                0 => Ok(()),
                _ => Err(unknown(format!("{name} other than 0"))),
            }
        }
        "deadlock_timeout" | "lock_timeout" => milliseconds(value).map(|_| ()).ok_or_else(invalid),
        "default_transaction_isolation" => super::sql::Isolation::parse(value).map(|_| ()).ok_or_else(invalid),
        "default_transaction_read_only" => matches!(value, "on" | "off").then_some(()).ok_or_else(invalid),
        "server_version" | "server_version_num" | "in_hot_standby" | "integer_datetimes" | "is_superuser"
        | "server_encoding" | "max_connections" => {
            Err(PgError::error("55P02", format!("parameter \"{name}\" cannot be changed")))
        }
        "session_replication_role" if value != "origin" => Err(unknown("session_replication_role other than origin")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_local_hides_set_until_the_transaction_ends_and_set_hides_set_local() {
        let mut s = Settings::default();
        s.set("x.y", Some("1"), false).unwrap();
        s.set("x.y", Some("2"), true).unwrap();
        assert_eq!(s.get("X.y").as_deref(), Some("2"));
        s.end_transaction();
        assert_eq!(s.get("x.y").as_deref(), Some("1"));
        s.set("x.y", Some("3"), true).unwrap();
        s.set("x.y", Some("4"), false).unwrap();
        assert_eq!(s.get("x.y").as_deref(), Some("4"));
        s.set("datestyle", Some("ISO, DMY"), false).unwrap();
        assert_eq!(s.of_session(), [("DateStyle".to_owned(), "ISO, DMY".to_owned())]);
    }
}
