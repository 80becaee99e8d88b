//! From a file's text to a [`Config`]: a walk over the parsed TOML that checks every key against the reference table
//! and knows the line of each, then serde, which after that walk finds nothing left to refuse.
//!
//! Touches nothing; what keys mean together is judged in [`super::validate`].

use super::error::ConfigError;
use super::model::Config;
use super::reference::{self, Key, Kind, Table};
use super::similar::nearest;
use super::units::{parse_duration, parse_size};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// Most bytes that a configuration file may have: a wrong file (a core dump, a disk) is refused before it is parsed.
pub const FILE_SIZE_MAX: usize = 1 << 20;

/// Where a configuration came from, for errors that are found after it was read.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// `table.key`, or `table`, to its line, counted from 1.
    pub lines: BTreeMap<String, usize>,
}

impl Source {
    /// An error about `key`, with its line, or its table's line when the file does not mention the key.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        let table = key.split('.').next().unwrap_or(key);
        let line = self.lines.get(key).or_else(|| self.lines.get(table)).copied();
        ConfigError::new(&self.file, line, Some(key), problem)
    }
}

/// The text as a configuration whose keys and values are each allowed, and where each of them stands.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    if text.len() > FILE_SIZE_MAX {
        return Err(ConfigError::new(file, None, None, format!("over {FILE_SIZE_MAX} bytes: not a configuration")));
    }
    let root = DeTable::parse(text).map_err(|error| not_toml(&error, text, file))?;
    let mut walk = Walk { text, source: Source { file: file.to_path_buf(), lines: BTreeMap::new() } };
    walk.root(root.get_ref())?;
    let mut config: Config = toml::from_str(text).map_err(|error| not_toml(&error, text, file))?;
    config.source = walk.source;
    Ok(config)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn not_toml(error: &toml::de::Error, text: &str, file: &Path) -> ConfigError {
    let line = error.span().map(|span| line_of(text, span.start));
    let shown = line.and_then(|line| shown_line(text, line)).map(|shown| format!(", in: {shown}"));
    let problem = format!("not valid TOML: {}{}", error.message().replace('\n', ", "), shown.unwrap_or_default());
    ConfigError::new(file, line, None, problem)
}

/// A line for an error message, cut off where a secret may begin: behind the word password, and altogether where it
/// may be in the middle of a text of several lines.
fn shown_line(text: &str, line: usize) -> Option<String> {
    let within_lines = text.lines().take(line).any(|line| line.contains("\"\"\"") || line.contains("'''"));
    let whole = text.lines().nth(line.checked_sub(1)?)?.trim();
    if within_lines || !(whole.contains('=') || whole.starts_with('[')) {
        return None;
    }
    let shown = match whole.find("password") {
        Some(at) => format!("{}password...", &whole[..at]),
        None => whole.to_string(),
    };
    Some(shortened(shown))
}

struct Walk<'a> {
    text: &'a str,
    source: Source,
}

impl Walk<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        line_of(self.text, span.start)
    }

    fn error(&self, span: Range<usize>, key: &str, problem: String) -> ConfigError {
        ConfigError::new(&self.source.file, Some(self.line(span)), Some(key), problem)
    }

    fn root(&mut self, root: &DeTable<'_>) -> Result<(), ConfigError> {
        for (name, value) in in_order(root) {
            let Some(table) = reference::table(name.get_ref()) else {
                return Err(self.error(name.span(), name.get_ref(), unknown_table(name.get_ref())));
            };
            let line = self.line(name.span());
            self.source.lines.insert(table.name.to_string(), line);
            match (value.get_ref(), table.repeated) {
                (DeValue::Table(keys), false) => self.table(table, table.name, name.span(), keys)?,
                (DeValue::Array(items), true) => {
                    for (index, item) in items.iter().enumerate() {
                        let path = format!("{}[{index}]", table.name);
                        let DeValue::Table(keys) = item.get_ref() else {
                            return Err(self.error(item.span(), &path, format!("must be a table {}", table.header())));
                        };
                        self.table(table, &path, item.span(), keys)?;
                    }
                }
                _ => return Err(self.error(name.span(), table.name, format!("must be a table {}", table.header()))),
            }
        }
        for table in reference::TABLES {
            if !root.contains_key(table.name) && table.keys.iter().any(Key::required) {
                let problem = format!("this table is missing, and has required keys: {}", required_keys(table));
                return Err(ConfigError::new(&self.source.file, None, Some(table.name), problem));
            }
        }
        Ok(())
    }

    /// One table's keys; `path` is what errors call the table.
    fn table(&mut self, table: &Table, path: &str, span: Range<usize>, keys: &DeTable<'_>) -> Result<(), ConfigError> {
        let line = self.line(span.clone());
        self.source.lines.insert(path.to_string(), line);
        for (name, value) in in_order(keys) {
            let full = format!("{path}.{}", name.get_ref());
            let Some(key) = table.key(name.get_ref()) else {
                return Err(self.error(name.span(), &full, unknown_key(table, name.get_ref())));
            };
            if let Err(found) = allowed(&key.kind, value.get_ref()) {
                let problem = refusal(&key.kind, &found);
                return Err(self.error(value.span(), &full, problem));
            }
            let line = self.line(name.span());
            self.source.lines.insert(full, line);
        }
        for key in table.keys.iter().filter(|key| key.required()) {
            if !keys.contains_key(key.name) {
                let problem = format!("this key is required; allowed: {}", key.kind.allowed());
                return Err(self.error(span, &format!("{path}.{}", key.name), problem));
            }
        }
        Ok(())
    }
}

/// A table's entries as the file has them, so that the first error is the one reported.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn required_keys(table: &Table) -> String {
    let of_table = table.keys.iter().filter(|key| key.required());
    of_table.map(|key| format!("{} ({})", key.name, key.kind.allowed())).collect::<Vec<_>>().join("; ")
}

fn refusal(kind: &Kind, found: &str) -> String {
    let hint = match kind {
        Kind::Choice(words) => did_you_mean(nearest(found.trim_matches('"'), words.iter().copied())),
        _ => String::new(),
    };
    format!("{found} is not allowed here{hint}; allowed: {}", kind.allowed())
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

fn unknown_table(name: &str) -> String {
    let tables: Vec<String> = reference::TABLES.iter().map(Table::header).collect();
    let hint = match owner(name) {
        Some((table, key)) => format!("; {key} belongs into {}", table.header()),
        None => did_you_mean(nearest(name, reference::TABLES.iter().map(|table| table.name))),
    };
    format!("unknown name{hint}; allowed here: {}", tables.join(", "))
}

fn unknown_key(table: &Table, name: &str) -> String {
    let near = nearest(name, table.key_names());
    let hint = match (near, owner(name)) {
        (Some(near), _) => did_you_mean(Some(near)),
        (None, Some((owner, key))) => format!("; {key} belongs into {}", owner.header()),
        (None, None) => String::new(),
    };
    format!("unknown key{hint}; keys allowed in {}: {}", table.header(), table.key_names().join(", "))
}

/// The table that has a key of this name, also when it is numbered as in pgpool.conf (`backend_port1`).
fn owner(name: &str) -> Option<(&'static Table, &'static str)> {
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let of_table = |table: &'static Table| {
        table
            .keys
            .iter()
            .find(|key| key.name == name || (table.repeated && key.name == bare))
            .map(|key| (table, key.name))
    };
    reference::TABLES.iter().find_map(of_table)
}

/// Ok, or the value as an error message shows it.
fn allowed(kind: &Kind, value: &DeValue<'_>) -> Result<(), String> {
    let fits = match kind {
        Kind::Bool => value.is_bool(),
        Kind::Text { min, max } => {
            value.as_str().is_some_and(|text| plain(text) && (*min..=*max).contains(&text.len()))
        }
        // Never shown, not even when it is of the wrong type.
        Kind::Secret => {
            return if value.as_str().is_some_and(plain) { Ok(()) } else { Err("what is there".to_string()) };
        }
        Kind::TextList => return text_list(value),
        Kind::Integer { min, max } => integer(value).is_some_and(|number| (*min..=*max).contains(&number)),
        Kind::Weight => number(value).is_some_and(|number| number.is_finite() && number >= 0.0),
        Kind::Duration { bare, min, max, zero } => written(value)
            .and_then(|text| parse_duration(&text, *bare))
            .is_some_and(|time| (time.is_zero() && zero.is_some()) || (*min..=*max).contains(&time)),
        Kind::Size { min, max } => {
            written(value).and_then(|text| parse_size(&text)).is_some_and(|size| (*min..=*max).contains(&size))
        }
        Kind::Choice(words) => value.as_str().is_some_and(|text| words.contains(&text)),
    };
    if fits { Ok(()) } else { Err(show(value)) }
}

/// A text that can go into a start-up packet or a path: without a zero byte.
fn plain(text: &str) -> bool {
    !text.contains('\0')
}

fn text_list(value: &DeValue<'_>) -> Result<(), String> {
    let items = value.as_array().ok_or_else(|| show(value))?;
    let unfit = items.iter().find(|item| !item.get_ref().as_str().is_some_and(|text| !text.is_empty() && plain(text)));
    unfit.map_or(Ok(()), |item| Err(format!("{} in the list", show(item.get_ref()))))
}

/// A whole number that is not negative.
fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str().trim_start_matches('+'), number.radix()).ok()
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value.as_float() {
        Some(float) => float.as_str().parse().ok(),
        None => integer(value).map(|number| number as f64),
    }
}

/// A time or a size: a text with a unit, or a bare number.
fn written(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_string).or_else(|| integer(value).map(|number| number.to_string()))
}

/// Longest piece of the file, in characters, that an error message repeats.
const SHOWN_CHARS_MAX: usize = 80;

fn show(value: &DeValue<'_>) -> String {
    let shown = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "a list".to_string(),
        DeValue::Table(_) => "a table".to_string(),
    };
    shortened(shown)
}

fn shortened(shown: String) -> String {
    match shown.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &shown[..cut]),
        None => shown,
    }
}
