//! The one table of documentation: every key's kind, default, limits, Pgpool-II name and text.
//!
//! Three things are made from it, so that they cannot disagree: what [`super::parse`] accepts and says when it does
//! not, the Markdown reference of `pglockstep check --reference`, and `config/pglockstep.toml`. Touches nothing.

mod render;
mod table;

pub use render::{default_file, markdown};
pub use table::TABLES;

use super::units::{TimeUnit, show_duration, show_size};
use std::time::Duration;

/// One table of the file, `[name]`, or `[[name]]` when it may be repeated.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    pub repeated: bool,
    pub text: &'static str,
    pub keys: &'static [Key],
}

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// What Pgpool-II calls it; empty: nothing there corresponds.
    pub pgpool: &'static str,
    pub change: Change,
    /// Meaning, in whole sentences.
    pub text: &'static str,
}

/// What a key has when the file does not mention it. Both hold TOML's notation of a value.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    Value(&'static str),
    /// There is none: the key must be there. The example is what the documented default file has.
    Required {
        example: &'static str,
    },
}

/// What it takes until a changed value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Restart,
    /// SIGHUP, or `pglockstep reload`.
    Reload,
}

/// The values that a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    /// Of `min..=max` bytes.
    Text {
        min: usize,
        max: usize,
    },
    /// A text that is never printed.
    Secret,
    /// A list of texts that are not empty.
    TextList,
    Integer {
        min: u64,
        max: u64,
    },
    /// A finite number that is not negative.
    Weight,
    /// `zero`: what 0 means, where it is allowed although it is below `min`.
    Duration {
        bare: TimeUnit,
        min: Duration,
        max: Duration,
        zero: Option<&'static str>,
    },
    Size {
        min: u64,
        max: u64,
    },
    Choice(&'static [&'static str]),
}

impl Kind {
    /// What is allowed, as a phrase that follows "allowed:".
    pub fn allowed(&self) -> String {
        match self {
            Kind::Bool => "true or false".to_string(),
            Kind::Text { min: 0, max } => format!("a text of at most {max} bytes"),
            Kind::Text { min, max } => format!("a text of {min} to {max} bytes"),
            Kind::Secret => "a text".to_string(),
            Kind::TextList => "a list of texts, such as [\"a\", \"b\"]".to_string(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Weight => "a finite number of 0 or more".to_string(),
            Kind::Duration { bare, min, max, zero } => {
                let zero = zero.map(|meaning| format!("0 ({meaning}), or ")).unwrap_or_default();
                let (min, max) = (show_duration(*min), show_duration(*max));
                format!(
                    "{zero}a time from {min} to {max} (units us, ms, s, min, h, d; without a unit: {})",
                    bare.name()
                )
            }
            Kind::Size { min, max } => {
                let (min, max) = (show_size(*min), show_size(*max));
                format!("a size from {min} to {max} (units B, kB, MB, GB, TB; without a unit: bytes)")
            }
            Kind::Choice(words) => words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", "),
        }
    }

    /// The kind's name in the reference.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::Text { .. } => "text",
            Kind::Secret => "secret",
            Kind::TextList => "list of texts",
            Kind::Integer { .. } => "integer",
            Kind::Weight => "number",
            Kind::Duration { .. } => "time",
            Kind::Size { .. } => "size",
            Kind::Choice(_) => "choice",
        }
    }
}

impl Key {
    pub fn required(&self) -> bool {
        matches!(self.default, Default::Required { .. })
    }
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Change::Restart => "restart",
            Change::Reload => "reload",
        }
    }
}

impl Table {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// `[listen]` or `[[node]]`.
    pub fn header(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    pub fn key_names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }
}

/// The table of that name.
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Node};
    use std::collections::BTreeSet;

    /// The default of every key as the structs have it, as a table of tables.
    fn struct_defaults() -> toml::Table {
        let mut defaults = toml::Table::try_from(Config::default()).unwrap();
        defaults.insert("node".to_string(), toml::Value::try_from(Node::default()).unwrap());
        defaults
    }

    #[test]
    fn every_field_of_the_structs_is_in_the_table_and_the_other_way_round() {
        let defaults = struct_defaults();
        let in_structs: BTreeSet<String> = defaults
            .iter()
            .flat_map(|(table, keys)| keys.as_table().unwrap().keys().map(move |key| format!("{table}.{key}")))
            .collect();
        let in_table: BTreeSet<String> =
            TABLES.iter().flat_map(|t| t.keys.iter().map(move |k| format!("{}.{}", t.name, k.name))).collect();
        assert_eq!(in_structs, in_table);
    }

    #[test]
    fn documented_defaults_are_the_defaults() {
        let defaults = struct_defaults();
        for table in TABLES {
            for key in table.keys {
                let Default::Value(documented) = key.default else { continue };
                let documented: toml::Table = format!("value = {documented}").parse().unwrap();
                assert_eq!(documented["value"], defaults[table.name][key.name], "{}.{}", table.name, key.name);
            }
        }
    }

    #[test]
    fn every_text_is_one_or_more_whole_sentences() {
        for table in TABLES {
            for (name, text) in table.keys.iter().map(|key| (key.name, key.text)).chain([(table.name, table.text)]) {
                assert!(text.ends_with('.') && !text.contains('\n'), "{name}: {text:?}");
            }
        }
    }
}
