//! What a configuration error says: file, line, key, what was found, and what is allowed. Touches nothing.

use std::fmt;
use std::path::{Path, PathBuf};

/// One problem of a configuration file. `Display` is a complete sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// 1-based; None when the problem is the file as a whole (it cannot be read).
    pub line: Option<usize>,
    /// `table.key`; None when the problem is no particular key's.
    pub key: Option<String>,
    /// What was found, and what is allowed instead.
    pub problem: String,
}

impl ConfigError {
    pub fn new(file: &Path, line: Option<usize>, key: Option<&str>, problem: impl Into<String>) -> Self {
        ConfigError { file: file.to_path_buf(), line, key: key.map(str::to_string), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}
