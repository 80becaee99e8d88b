//! Those of main's effective settings that a replica must have for a script to mean the same there.
//!
//! Main is asked once after a session may have changed them; what comes from ALTER ROLE and ALTER DATABASE is in
//! force at a replica's own login already (DDL is replicated), so only what the session itself brought is carried.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::io::Cx;
use super::owed::Own;
use super::route::Given;
use super::tokens::is_ours;
use super::transaction::Target;
use crate::sql::cache::Verdict;
use crate::sql::class::Class;
use crate::sql::custom::names;

/// What main is asked. `role` and `session_authorization` are not in pg_settings (GUC_NO_SHOW_ALL), hence by hand.
/// Sources 'client' (start-up packet) and 'session' (SET, set_config) are what a login alone does not bring;
/// timeouts are left out, since appliers run without any. The row that begins with `=` is for [`super::digits`].
pub const QUERY: &str = "SELECT pg_catalog.quote_literal(name) || ',' || pg_catalog.quote_literal(pg_catalog.current_setting(name)) \
    FROM pg_catalog.pg_settings WHERE source IN ('client', 'session') AND context IN ('user', 'superuser') \
    AND name !~ 'timeout$' AND name NOT IN ('application_name', 'default_transaction_isolation', \
    'default_transaction_read_only', 'default_transaction_deferrable', 'transaction_isolation', \
    'transaction_read_only', 'transaction_deferrable', 'session_authorization', 'role', 'seed', \
    'synchronous_commit', 'in_hot_standby', 'is_superuser') \
    AND name !~ '^(log_|debug_|client_min_messages|enable_|track_|stats_)' \
    UNION ALL SELECT '''role'',' || pg_catalog.quote_literal(pg_catalog.current_setting('role')) \
    WHERE pg_catalog.current_setting('role') <> 'none' \
    UNION ALL SELECT pg_catalog.concat('=', pg_catalog.current_setting('extra_float_digits')) ORDER BY 1";

/// The same of custom settings, which are not in pg_settings: their names are a parameter (`text[]`). A name that the
/// server has never heard of is NULL, which an empty string is not.
pub const CUSTOM: &str = "SELECT pg_catalog.quote_literal(n) || ',' || pg_catalog.quote_literal(pg_catalog.current_setting(n, true)) \
    FROM pg_catalog.unnest($1::pg_catalog.text[]) n WHERE pg_catalog.current_setting(n, true) IS NOT NULL";

/// Names of custom settings that a session remembers; beyond it no more are carried to other nodes.
pub const CUSTOM_MAX: usize = 1000;

/// The Bind of [`CUSTOM`] behind its names.
#[must_use]
pub fn custom_bind<'a>(names: impl IntoIterator<Item = &'a String>) -> Bytes {
    let quoted: Vec<String> = names.into_iter().map(|n| format!("\"{n}\"")).collect();
    let array = format!("{{{}}}", quoted.join(","));
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u16(1);
    out.put_u32(u32::try_from(array.len()).unwrap_or(u32::MAX)); // CUSTOM_MAX names of less than 256 bytes
    out.put_slice(array.as_bytes());
    out.put_u16(0);
    out.freeze()
}

/// A session's settings, as pairs of SQL literals, in a fixed order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pairs: Vec<String>,
    id: u64,
}

impl Settings {
    /// From main's answer: one text column, each a pair of SQL literals with a comma between.
    #[must_use]
    pub fn new(mut pairs: Vec<String>) -> Settings {
        pairs.sort_unstable();
        // The role last: what is set after it is set with its rights only.
        if let Some(at) = pairs.iter().position(|p| p.starts_with("'role',")) {
            let role = pairs.remove(at);
            pairs.push(role);
        }
        let mut h = DefaultHasher::new();
        pairs.hash(&mut h);
        let id = if pairs.is_empty() { 0 } else { h.finish().max(1) };
        Settings { pairs, id }
    }

    /// The value that the session has given this setting, if it has, as an SQL literal without its quotes.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().find_map(|p| p.strip_prefix('\'')?.strip_prefix(name)?.strip_prefix("','"))?;
        pair.strip_suffix('\'')
    }

    /// Names of the custom settings among them.
    pub fn custom(&self) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter_map(|p| p.strip_prefix('\'')?.split_once("','"))
            .map(|p| p.0)
            .filter(|n| n.contains('.'))
    }

    /// Tells settings apart; 0 is none at all, as after a login or RESET ALL.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The simple query that puts them in force on an applier, whatever was in force before.
    #[must_use]
    pub fn statement(&self) -> Bytes {
        let mut sql = String::from("RESET ROLE;RESET ALL");
        for p in &self.pairs {
            sql.push_str(";SELECT pg_catalog.set_config(");
            sql.push_str(p);
            sql.push_str(",false)");
        }
        Bytes::from(sql)
    }
}

impl Session {
    /// Custom settings that this statement may set: main is asked for their values too from now on.
    pub(super) fn notice_custom(&mut self, given: &Given, verdict: &Verdict) {
        if matches!(verdict.class, Class::Set { .. } | Class::Reset(_)) {
            let text = String::from_utf8_lossy(&given.sql).to_ascii_lowercase();
            self.role_changed |= text.contains("role") || text.contains("authorization");
        }
        self.notice_digits(verdict);
        let names = names(&given.sql, &given.bind, &verdict.class, verdict.leaves_state());
        if matches!(verdict.class, Class::Reset(_) | Class::Discard(_)) && self.min_csn.heard {
            self.min_csn_may_change();
        }
        for name in names {
            if is_ours(&name) {
                self.min_csn_may_change();
                continue;
            }
            self.made_custom = true;
            if self.custom.len() < CUSTOM_MAX && self.custom.insert(name) {
                // Once known, it is there after a SET LOCAL too.
                self.new_custom = true;
                self.settings_dirty = true;
            }
        }
    }

    /// Asks main for its settings.
    pub(super) fn ask_settings(&mut self, cx: &mut Cx<'_>) {
        // What changes them from here on changes them behind the answer.
        self.settings_dirty = std::mem::take(&mut self.new_custom);
        self.digits_asked();
        self.settings_rows.clear();
        self.send_own(Target::Lane, ("_pgls_g", QUERY), Own::Settings, cx);
        if !self.custom.is_empty() {
            let bind = custom_bind(&self.custom);
            self.send_own_in(Target::Lane, ("_pgls_gc", CUSTOM), Own::Settings, "", &bind, cx);
        }
        self.sync_own(Target::Lane, Own::Settings, cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_set_last_and_order_does_not_matter() {
        let a = Settings::new(vec!["'role','r'".into(), "'search_path','x'".into(), "'DateStyle','ISO, DMY'".into()]);
        let b = Settings::new(vec!["'search_path','x'".into(), "'DateStyle','ISO, DMY'".into(), "'role','r'".into()]);
        assert_eq!(a, b);
        let sql = String::from_utf8(a.statement().to_vec()).unwrap();
        assert!(sql.ends_with("set_config('role','r',false)"), "{sql}");
        assert_eq!(Settings::new(Vec::new()).id(), 0);
        let custom = Settings::new(vec!["'app.x',''".into(), "'search_path','a.b'".into()]);
        assert_eq!(custom.custom().collect::<Vec<_>>(), ["app.x"]);
        let names = ["a.b".to_owned(), "c.d".to_owned()];
        assert_eq!(&custom_bind(&names)[..], b"\0\0\0\x01\0\0\0\x0d{\"a.b\",\"c.d\"}\0\0");
    }
}
