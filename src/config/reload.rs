//! What a new reading of the file changes while the proxy runs. Touches nothing.

use super::model::Config;
use super::reference::{self, Change};
use toml::Value;

/// A key whose value in the file is no longer the running one.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// `table.key`, or `node[1].key`.
    pub key: String,
    /// TOML's notation; secrets are masked; empty: there was none.
    pub old: String,
    pub new: String,
    pub change: Change,
}

/// The running configuration with what may change without a restart taken from `read`, and all differences.
#[must_use]
pub fn reload(running: &Config, read: &Config) -> (Config, Vec<Changed>) {
    (taken_over(running, read), changes(running, read))
}

/// Must agree with the reference's [`Change`]; a test goes through all keys.
fn taken_over(running: &Config, read: &Config) -> Config {
    let mut config = running.clone();
    config.authentication.authentication_timeout = read.authentication.authentication_timeout;
    config.authentication.scram_max_iterations = read.authentication.scram_max_iterations;
    config.load_balance.load_balance_mode = read.load_balance.load_balance_mode;
    config.load_balance.statement_level_load_balance = read.load_balance.statement_level_load_balance;
    config.load_balance.busy_reads = read.load_balance.busy_reads;
    config.replication = read.replication.clone();
    config.replication.images = running.replication.images;
    config.pool = read.pool.clone();
    config.limits = read.limits.clone();
    config.limits.num_init_children = running.limits.num_init_children;
    config.limits.statement_cache = running.limits.statement_cache;
    config.health_check = read.health_check.clone();
    config.logging = read.logging.clone();
    for (node, new) in config.nodes.iter_mut().zip(&read.nodes) {
        node.backend_weight = new.backend_weight;
    }
    config
}

fn changes(running: &Config, read: &Config) -> Vec<Changed> {
    let mut all = Vec::new();
    // A configuration is a tree of TOML's own types.
    let (Ok(old), Ok(new)) = (Value::try_from(running), Value::try_from(read)) else { return all };
    compare("", Some(&old), Some(&new), &mut all);
    let secrets = |c: &Config| {
        [
            ("authentication.auth_password", c.authentication.auth_password.clone()),
            ("apply.apply_password", c.apply.apply_password.clone()),
            ("health_check.health_check_password", c.health_check.health_check_password.clone()),
        ]
    };
    for ((key, old), (_, new)) in secrets(running).into_iter().zip(secrets(read)) {
        let known = all.iter().any(|c| c.key == key);
        if old.expose() != new.expose() && !known {
            all.push(Changed { key: key.into(), old: old.to_string(), new: new.to_string(), change: change_of(key) });
        }
    }
    all
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, all: &mut Vec<Changed>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (old, new) {
        (Some(Value::Table(a)), Some(Value::Table(b))) => {
            for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                compare(&join(name), a.get(name), b.get(name), all);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if path == "node" => {
            for i in 0..a.len().max(b.len()) {
                compare(&format!("node[{i}]"), a.get(i), b.get(i), all);
            }
        }
        (old, new) if old == new => {}
        (old, new) => {
            let shown = |v: Option<&Value>| v.map_or_else(String::new, ToString::to_string);
            all.push(Changed { key: path.to_owned(), old: shown(old), new: shown(new), change: change_of(path) });
        }
    }
}

/// What a change of this key takes; of whole nodes, a restart.
fn change_of(path: &str) -> Change {
    let found = path.split_once('.').and_then(|(table, key)| {
        let table = table.split('[').next()?;
        reference::table(table)?.key(key)
    });
    found.map_or(Change::Restart, |key| key.change)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::reference::{Kind, TABLES};
    use super::super::units::{show_duration, show_size};
    use super::*;
    use std::path::Path;

    const SMALL: &str = "[cluster]\nbackend_clustering_mode = \"native_replication\"\n";
    const NODE: &str = "[[node]]\nid = 0\nbackend_hostname = \"a\"\n";

    /// Another value than the default, in TOML's notation.
    fn other(key: &reference::Key) -> String {
        let default = match key.default {
            reference::Default::Value(v) => v,
            reference::Default::Required { example } => example,
        };
        match key.kind {
            Kind::Bool => if default == "true" { "false" } else { "true" }.into(),
            Kind::Text { .. } | Kind::Secret => "\"zz9\"".into(),
            Kind::TextList => "[\"zz9\"]".into(),
            Kind::Integer { max, .. } => max.to_string(),
            Kind::Weight => "7.5".into(),
            Kind::Duration { max, .. } => format!("\"{}\"", show_duration(max)),
            Kind::Size { max, .. } => format!("\"{}\"", show_size(max)),
            Kind::Choice(words) => format!("\"{}\"", words.iter().find(|w| format!("\"{w}\"") != default).unwrap()),
        }
    }

    fn with(table: &str, key: &str, value: &str) -> Config {
        let line = format!("{key} = {value}\n");
        let text = match table {
            "cluster" if key == "backend_clustering_mode" => format!("[cluster]\n{line}{NODE}"),
            "cluster" => format!("{SMALL}{line}{NODE}"),
            "node" if key == "backend_hostname" => format!("{SMALL}[[node]]\nid = 0\n{line}"),
            "node" if key == "id" => format!("{SMALL}[[node]]\nbackend_hostname = \"a\"\n{line}"),
            "node" => format!("{SMALL}{NODE}{line}"),
            _ => format!("{SMALL}[{table}]\n{line}{NODE}"),
        };
        parse(&text, Path::new("x.toml")).unwrap()
    }

    #[test]
    fn each_key_changes_at_once_or_not_at_all_as_the_reference_says() {
        let running = parse(&format!("{SMALL}{NODE}"), Path::new("x.toml")).unwrap();
        for table in TABLES {
            for key in table.keys {
                let read = with(table.name, key.name, &other(key));
                let (after, changed) = reload(&running, &read);
                let [change] = &changed[..] else { panic!("{}.{}: {changed:?}", table.name, key.name) };
                assert!(change.key.ends_with(key.name) && change.change == key.change, "{change:?}");
                let left = changes(&after, &read);
                assert_eq!(left.is_empty(), key.change == Change::Reload, "{change:?}");
                assert_eq!(changes(&running, &after).is_empty(), key.change == Change::Restart, "{change:?}");
            }
        }
    }

    #[test]
    fn a_node_more_takes_a_restart_and_is_told() {
        let running = parse(&format!("{SMALL}{NODE}"), Path::new("x.toml")).unwrap();
        let two = format!("{SMALL}{NODE}[[node]]\nid = 1\nbackend_hostname = \"b\"\n");
        let (after, changed) = reload(&running, &parse(&two, Path::new("x.toml")).unwrap());
        assert_eq!((after.nodes.len(), changed.len(), changed[0].change), (1, 1, Change::Restart));
        assert_eq!(changed[0].key, "node[1]");
    }
}
