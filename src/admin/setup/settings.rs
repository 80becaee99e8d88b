//! Which server settings `setup` looks at, what they should be, and the table that says so. Reads only.

use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// What the proxy's own configuration asks of the servers.
pub(super) struct Needs {
    /// How many clients the proxy takes (`num_init_children`).
    pub clients: u32,
}

impl Needs {
    /// A client may hold a lane and a reader on one node, or an applier there; twenty more for the control plane,
    /// superusers and people.
    fn connections(&self) -> u64 {
        2 * u64::from(self.clients) + 20
    }
}

/// Settings of one node by name.
pub(super) type Settings = BTreeMap<String, String>;

/// Settings that change what a statement means, and so must be the same on all nodes.
const SAME: [&str; 9] = [
    "server_encoding",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "standard_conforming_strings",
    "default_transaction_isolation",
    "default_text_search_config",
    "lc_messages",
    "search_path",
];

/// Settings with a value of their own to reach; all three take effect with a restart only.
const NEEDED: [&str; 3] = ["wal_level", "max_prepared_transactions", "max_connections"];

/// Reads what the report needs. Where a setting was changed in the file but not yet by a restart, the value in force.
pub(super) async fn read(client: &Client) -> Result<Settings, tokio_postgres::Error> {
    let names: Vec<&str> = NEEDED.iter().chain(&SAME).copied().collect();
    let rows =
        client.query("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1)", &[&names]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// All nodes' settings.
#[derive(Default)]
pub(super) struct Report(Vec<(u8, Settings)>);

impl Report {
    pub fn add(&mut self, node: u8, settings: Settings) {
        self.0.push((node, settings));
    }

    /// An aligned table of what is needed, then what differs between nodes, then one sentence of verdict.
    pub fn to_text(&self, needs: &Needs) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["node", "setting", "current", "wanted", "to do"]);
        let mut changes = 0;
        for (node, settings) in &self.0 {
            for name in NEEDED {
                let current = settings.get(name).map_or("?", String::as_str);
                let (wanted, ok) = judge(name, current, needs);
                let to_do = if ok { "nothing" } else { "change, then restart the server" };
                changes += usize::from(!ok);
                table.add_row([&node.to_string(), name, current, &wanted, to_do]);
            }
        }
        for name in SAME {
            let value = |settings: &Settings| settings.get(name).cloned().unwrap_or_default();
            let first = self.0.first().map(|(_, settings)| value(settings)).unwrap_or_default();
            for (node, settings) in self.0.iter().filter(|(_, settings)| value(settings) != first) {
                let to_do = match name {
                    "server_encoding" => "make the cluster anew with initdb",
                    _ => "change, then reload",
                };
                changes += 1;
                table.add_row([
                    &node.to_string(),
                    name,
                    &value(settings),
                    &format!("{first} (as on the first node)"),
                    to_do,
                ]);
            }
        }
        let verdict = match changes {
            0 => "The servers' settings are as they should be.".to_owned(),
            n => format!("{n} settings must be changed, in postgresql.conf or by ALTER SYSTEM SET."),
        };
        format!("{table}\n{verdict}")
    }
}

/// The wanted value in words, and whether the current one is good.
fn judge(name: &str, current: &str, needs: &Needs) -> (String, bool) {
    let at_least = |least: u64| current.parse::<u64>().is_ok_and(|value| value >= least);
    match name {
        "wal_level" => ("logical".into(), current == "logical"),
        "max_prepared_transactions" => {
            (format!("more than 0 (one per committing client: {})", needs.clients), at_least(1))
        }
        _ => (format!("at least {} (2 x num_init_children + 20)", needs.connections()), at_least(needs.connections())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_report_names_what_must_change_and_where() {
        let mut report = Report::default();
        let good = [("wal_level", "logical"), ("max_prepared_transactions", "5"), ("max_connections", "120")];
        report.add(0, settings(&good));
        assert!(report.to_text(&Needs { clients: 50 }).contains("as they should be"));
        report.add(
            1,
            settings(&[("wal_level", "replica"), ("max_prepared_transactions", "0"), ("max_connections", "100")]),
        );
        let text = report.to_text(&Needs { clients: 50 });
        assert_eq!(text.matches("restart the server").count(), 3, "{text}");
        assert!(text.contains("3 settings must be changed"), "{text}");
    }

    #[test]
    fn a_setting_that_differs_between_nodes_is_reported() {
        let mut report = Report::default();
        let good = [("wal_level", "logical"), ("max_prepared_transactions", "5"), ("max_connections", "120")];
        report.add(0, settings(&[&good[..], &[("TimeZone", "UTC")]].concat()));
        report.add(1, settings(&[&good[..], &[("TimeZone", "Europe/Berlin")]].concat()));
        let text = report.to_text(&Needs { clients: 50 });
        assert!(text.contains("Europe/Berlin") && text.contains("1 settings"), "{text}");
    }
}
