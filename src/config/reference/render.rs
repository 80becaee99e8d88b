//! The reference as Markdown, and as a documented default file.

use super::{Change, Default, Key, TABLES, Table};

/// Columns at which the default file's comments wrap.
const WRAP_COLUMNS: usize = 100;

/// The nodes after the first that the default file shows, by port.
const FURTHER_NODES: [(u8, u16); 2] = [(1, 5433), (2, 5434)];

/// The configuration reference, in Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Configuration reference\n\n\
         A configuration is one TOML file. Every key is optional unless its default says *required*; an unknown key \
         is an error. Times are texts such as `\"500ms\"`, `\"10s\"`, `\"5min\"`, `\"1h\"`, `\"1d\"`, sizes such as \
         `\"256kB\"`, `\"64MB\"` (1 kB is 1024 bytes). Names are Pgpool-II's where the meaning is the same.\n",
    );
    for table in TABLES {
        out.push_str(&format!("\n## `{}`\n\n{}\n\n", table.header(), table.text));
        out.push_str("| key | type | default | allowed | change needs | Pgpool-II | meaning |\n");
        out.push_str("|---|---|---|---|---|---|---|\n");
        for key in table.keys {
            out.push_str(&markdown_row(key));
        }
    }
    out
}

fn markdown_row(key: &Key) -> String {
    let default = match key.default {
        Default::Value(value) => format!("`{value}`"),
        Default::Required { .. } => "*required*".to_string(),
    };
    let (name, kind, allowed) = (key.name, key.kind.name(), key.kind.allowed());
    let (change, pgpool, text) = (key.change.name(), key.pgpool, key.text);
    format!("| `{name}` | {kind} | {default} | {allowed} | {change} | {pgpool} | {text} |\n")
}

/// The documented default file: optional keys commented out with their defaults, required ones with an example.
pub fn default_file() -> String {
    let mut out = String::from(
        "# pglockstep's configuration, with every key there is.\n\
         #\n\
         # A key that is commented out shows its default. An unknown key is an error. Times are texts such as\n\
         # \"500ms\", \"10s\", \"5min\", \"1h\", \"1d\"; sizes are texts such as \"256kB\", \"64MB\" (1 kB is 1024 bytes).\n\
         # A change takes a restart, or, where the key says so, SIGHUP (`pglockstep reload -c FILE`). `pglockstep check\n\
         # -c FILE` says whether a file is in order.\n\
         #\n\
         # This file is generated (pglockstep check --default-file); the texts live in src/config/reference.\n",
    );
    for table in TABLES {
        out.push_str(&file_table(table));
    }
    for (id, port) in FURTHER_NODES {
        out.push_str(&format!("\n[[node]]\nid = {id}\nbackend_hostname = \"localhost\"\nbackend_port = {port}\n"));
    }
    out
}

fn file_table(table: &Table) -> String {
    let mut out = format!("\n{}\n{}\n", comment(table.text), table.header());
    for key in table.keys {
        let change = if key.change == Change::Reload { " Changes with a reload." } else { "" };
        let allowed = format!("Allowed: {}.{change}", key.kind.allowed());
        out.push_str(&format!("\n{}\n{}\n", comment(key.text), comment(&allowed)));
        if !key.pgpool.is_empty() && key.pgpool != key.name {
            out.push_str(&format!("{}\n", comment(&format!("Pgpool-II: {}.", key.pgpool))));
        }
        match key.default {
            Default::Value(value) => out.push_str(&format!("#{} = {value}\n", key.name)),
            Default::Required { example } => out.push_str(&format!("{} = {example}\n", key.name)),
        }
    }
    out
}

/// The text as comment lines of at most [`WRAP_COLUMNS`] columns.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        if lines[lines.len() - 1].len() + 1 + word.len() > WRAP_COLUMNS {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn the_default_file_in_config_is_what_the_table_generates() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pglockstep.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text == default_file(), "regenerate: pglockstep check --default-file > config/pglockstep.toml");
    }

    #[test]
    fn the_default_file_parses_as_it_is_and_with_every_key_uncommented() {
        let path = Path::new("pglockstep.toml");
        let commented = Config::parse(&default_file(), path).unwrap();
        let uncommented: String = default_file()
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).unwrap_or(line)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let uncommented = Config::parse(&uncommented, path).unwrap();
        assert_eq!(toml::to_string(&commented).unwrap(), toml::to_string(&uncommented).unwrap());
        for table in TABLES {
            for key in table.keys {
                assert!(default_file().contains(&format!("{} = ", key.name)), "{}", key.name);
            }
        }
    }

    #[test]
    fn the_reference_has_a_row_for_every_key() {
        let markdown = markdown();
        for table in TABLES {
            assert!(markdown.contains(&format!("## `{}`", table.header())));
            for key in table.keys {
                assert!(markdown.contains(&format!("| `{}` | {}", key.name, key.kind.name())), "{}", key.name);
            }
        }
    }
}
