//! Read proofs. (Being built: nothing is proved yet.)

use super::class::Class;

/// What running the statement does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Nothing, and every node gives the same rows: any of them may run it.
    Read,
    /// It changes no rows, but belongs on main: locks, catalogues, sequences, clocks, session state.
    MainOnly,
    /// Nobody knows.
    Unknown,
}

/// What is known of a database.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// The version that it was read under.
    pub version: u64,
    /// Some constraint may be deferred to COMMIT.
    pub has_deferrable_constraints: bool,
}

impl Catalogue {
    /// What main is asked.
    pub const QUERIES: &'static [&'static str] = &[];

    /// From main's answers to [`Self::QUERIES`].
    ///
    /// # Errors
    /// The rows are not what was asked for.
    pub fn from_rows(
        version: u64,
        _rows: &[Vec<Vec<Option<String>>>],
        _read_only: &[String],
        _write: &[String],
    ) -> Result<Catalogue, String> {
        Ok(Catalogue { version, has_deferrable_constraints: true })
    }
}

/// What running the statement does.
#[must_use]
pub fn effect(_sql: &str, _std_strings: bool, _class: &Class, _catalogue: &Catalogue) -> Effect {
    Effect::Unknown
}
