//! Run-time settings: those that the proxy asks for and its workloads set, transactional, with PostgreSQL 15's
//! defaults. Any other name, and a value that would mean something which is not modelled, is an error.

use std::collections::BTreeMap;

use super::value::{Res, unknown};
use crate::wire::PgError;

/// What a setting may be set to.
enum Allowed {
    Anything,
    These(&'static [&'static str]),
    /// A number with ms or s behind it.
    Duration,
    /// It cannot be changed.
    Nothing,
}

/// A setting.
struct Known {
    name: &'static str,
    default: &'static str,
    /// ParameterStatus tells of it.
    reported: bool,
    /// [`crate::session::settings::QUERY`] asks for it.
    asked: bool,
    allowed: Allowed,
}

/// `R`: it is reported; `Q`: it is asked for.
const fn known(letters: &str, name: &'static str, default: &'static str, allowed: Allowed) -> Known {
    let letters = letters.as_bytes();
    Known { name, default, reported: letters[0] == b'R', asked: letters[1] == b'Q', allowed }
}

const ON_OFF: Allowed = Allowed::These(&["on", "off"]);
const ZERO: Allowed = Allowed::These(&["0"]);

/// In the order of the login's ParameterStatus (BeginReportingGUCOptions sorts by name).
const KNOWN: [Known; 27] = [
    known("R ", "application_name", "", Allowed::Anything),
    known("RQ", "client_encoding", "UTF8", Allowed::These(&["UTF8"])),
    known("RQ", "DateStyle", "ISO, MDY", Allowed::These(&["ISO, MDY", "ISO, DMY", "ISO, YMD"])),
    known("R ", "default_transaction_read_only", "off", ON_OFF),
    known("R ", "in_hot_standby", "off", Allowed::Nothing),
    known("R ", "integer_datetimes", "on", Allowed::Nothing),
    known("RQ", "IntervalStyle", "postgres", Allowed::Anything),
    known("R ", "is_superuser", "on", Allowed::Nothing),
    known("R ", "server_encoding", "UTF8", Allowed::Nothing),
    known("R ", "server_version", "15.14", Allowed::Nothing),
    known("R ", "session_authorization", "", Allowed::Nothing),
    known("RQ", "standard_conforming_strings", "on", Allowed::These(&["on"])),
    known("RQ", "TimeZone", "Etc/UTC", Allowed::These(&["Etc/UTC", "UTC"])),
    known("  ", "array_nulls", "on", Allowed::These(&["on"])),
    // Its default is the node's own: NodeConfig::deadlock_timeout_us.
    known("  ", "deadlock_timeout", "1s", Allowed::Duration),
    known(
        "  ",
        "default_transaction_isolation",
        "read committed",
        Allowed::These(&["read committed", "repeatable read"]),
    ),
    known("  ", "extra_float_digits", "1", Allowed::Anything),
    known("  ", "idle_in_transaction_session_timeout", "0", ZERO),
    known("  ", "idle_session_timeout", "0", ZERO),
    known("  ", "lc_monetary", "C", Allowed::Anything),
    known("  ", "lock_timeout", "0", ZERO),
    known("  ", "role", "none", Allowed::Anything),
    known(" Q", "search_path", "\"$user\", public", Allowed::Anything),
    known("  ", "session_replication_role", "origin", Allowed::These(&["origin", "replica"])),
    known("  ", "statement_timeout", "0", ZERO),
    known("  ", "synchronous_commit", "on", ON_OFF),
    known("  ", "xmloption", "content", Allowed::Anything),
];

/// Names of those that ParameterStatus tells of.
pub fn reported_names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().filter(|k| k.reported).map(|k| k.name)
}

fn find(name: &str) -> Res<&'static Known> {
    let found = KNOWN.iter().find(|k| k.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| unknown(format!("the setting {name}")))
}

/// A session's settings, by the names in the table above.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// From the start-up packet.
    client: BTreeMap<&'static str, String>,
    /// SET.
    session: BTreeMap<&'static str, String>,
    /// SET LOCAL.
    local: BTreeMap<&'static str, String>,
}

impl Settings {
    /// One of the start-up packet.
    pub fn at_login(&mut self, name: &str, value: &str) -> Res<()> {
        self.client.insert(check(name, value)?.name, value.to_owned());
        Ok(())
    }

    /// What is in force.
    pub fn get(&self, name: &str) -> Res<String> {
        let k = find(name)?;
        let set = [&self.local, &self.session, &self.client].into_iter().find_map(|l| l.get(k.name));
        Ok(set.map_or(k.default, String::as_str).to_owned())
    }

    /// How long who waits for a lock waits before it looks for a deadlock, if the session has said so.
    pub fn deadlock_timeout_us(&self) -> Option<i64> {
        let set = [&self.local, &self.session, &self.client].into_iter().find_map(|l| l.get("deadlock_timeout"));
        set.and_then(|v| microseconds(v))
    }

    /// This is in force.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.get(name).is_ok_and(|v| v == value)
    }

    /// SET; `None` is DEFAULT.
    pub fn set(&mut self, name: &str, value: Option<&str>, local: bool) -> Res<()> {
        let k = match value {
            Some(v) => check(name, v)?,
            None => find(name)?,
        };
        let default = || self.client.get(k.name).map_or(k.default, String::as_str);
        match (value, local) {
            (_, true) => {
                let value = value.unwrap_or_else(default).to_owned();
                self.local.insert(k.name, value);
            }
            (Some(v), false) => {
                self.local.remove(k.name);
                self.session.insert(k.name, v.to_owned());
            }
            (None, false) => {
                self.local.remove(k.name);
                self.session.remove(k.name);
            }
        }
        Ok(())
    }

    /// What [`crate::session::snapshot::DEFAULT`] does, and answers.
    pub fn see_to_level(&mut self) -> Res<String> {
        const NAME: &str = "default_transaction_isolation";
        let set = [&self.client, &self.session, &self.local].iter().any(|l| l.contains_key(NAME));
        if !set && self.is(NAME, "read committed") {
            self.set(NAME, Some("repeatable read"), false)?;
        }
        self.get(NAME)
    }

    /// RESET ALL: the role stays (GUC_NO_RESET_ALL).
    pub fn reset_all(&mut self) {
        self.session.retain(|n, _| *n == "role");
        self.local.retain(|n, _| *n == "role");
    }

    /// DISCARD ALL.
    pub fn discard(&mut self) {
        self.session.clear();
        self.local.clear();
    }

    /// COMMIT: SET LOCAL is over.
    pub fn end_transaction(&mut self) {
        self.local.clear();
    }

    /// What [`crate::session::settings::QUERY`] is answered.
    pub fn of_session(&self) -> Vec<(String, String)> {
        let set = |k: &&Known| [&self.client, &self.session, &self.local].iter().any(|l| l.contains_key(k.name));
        let role = |k: &&Known| k.name == "role" && !self.is("role", "none");
        let told = KNOWN.iter().filter(|k| k.asked && set(k) || role(k));
        told.map(|k| (k.name.to_owned(), self.get(k.name).unwrap_or_default())).collect()
    }
}

fn check(name: &str, value: &str) -> Res<&'static Known> {
    let k = find(name)?;
    match &k.allowed {
        Allowed::Duration if microseconds(value).is_none() => Err(unknown(format!("{name} = {value}"))),
        Allowed::These(list) if !list.contains(&value) => Err(unknown(format!("{name} = {value}"))),
        Allowed::Nothing => Err(PgError::error("55P02", format!("parameter \"{name}\" cannot be changed"))),
        _ => Ok(k),
    }
}

fn microseconds(text: &str) -> Option<i64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" | "ms" => 1000,
        "s" => 1_000_000,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_local_hides_set_until_the_transaction_ends_and_set_hides_set_local() {
        let mut s = Settings::default();
        s.set("search_path", Some("1"), false).unwrap();
        s.set("search_path", Some("2"), true).unwrap();
        assert!(s.is("Search_Path", "2"));
        s.end_transaction();
        assert!(s.is("search_path", "1"));
        s.set("search_path", Some("3"), true).unwrap();
        s.set("search_path", None, false).unwrap();
        assert!(s.is("search_path", "\"$user\", public"));
        s.set("datestyle", Some("ISO, DMY"), false).unwrap();
        assert_eq!(s.of_session(), [("DateStyle".to_owned(), "ISO, DMY".to_owned())]);
    }
}
