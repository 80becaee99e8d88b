//! Passwords that do not print themselves. Touches nothing.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// A secret out of the configuration file. `Debug`, `Display` and serialisation show `***` (or nothing, when it is
/// empty), so that no log line, panic message or printed configuration carries it by accident.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// What every printed form shows in place of a secret.
    pub const MASK: &'static str = "***";

    pub fn new(secret: impl Into<String>) -> Self {
        Password(secret.into())
    }

    /// The secret itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// No password was configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { Self::MASK }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.shown())
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl From<&str> for Password {
    fn from(secret: &str) -> Self {
        Password::new(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_shows_stars_in_every_printed_form() {
        let password = Password::new("hunter2");
        assert_eq!(format!("{password}"), "***");
        assert_eq!(format!("{password:?}"), "\"***\"");
        assert_eq!(serde_json::to_string(&password).unwrap(), "\"***\"");
        assert_eq!(password.expose(), "hunter2");
    }

    #[test]
    fn an_empty_password_shows_that_it_is_empty() {
        assert_eq!(format!("{}", Password::default()), "");
        assert!(Password::default().is_empty());
    }
}
