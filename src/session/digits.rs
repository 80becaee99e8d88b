//! `extra_float_digits`: below 1, float4 and float8 do not print exactly, so what main tells of its rows in text is not
//! what it has stored.
//!
//! No server reports the setting by itself. Its value is among those that main is asked for when a transaction begins
//! ([`super::settings`]), which is too late for the first write behind a SET, and does not see one in a block. So from a
//! statement on that may have set it to something low, writes do not go by their rows, until main has been asked behind it.

use super::Session;
use super::route::Given;
use super::tokens::literal;
use crate::sql::cache::Verdict;
use crate::sql::class::Class;

const NAME: &str = "extra_float_digits";

/// What is known of the setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Digits {
    /// It is what main has said last.
    #[default]
    Told,
    /// It may have been set. `asked`: main has been asked since, though perhaps in front of the statement that sets it.
    Unsure { asked: bool },
    /// Main has been asked behind that.
    Asked,
}

fn mentions(text: &[u8]) -> bool {
    // Values beyond this are no names.
    crate::sql::lexer::mentions(text, NAME, 64 * 1024)
}

/// The value is written out, and numbers print exactly with it.
fn is_exact(value: &str) -> bool {
    value.trim().parse().is_ok_and(|n: i32| n >= 1)
}

impl Session {
    /// From the start-up packet.
    pub(super) fn digits_at_start(&mut self) {
        let low = |(name, value): &(String, String)| match name.eq_ignore_ascii_case(NAME) {
            true => !is_exact(value),
            false => name == "options" && mentions(value.as_bytes()),
        };
        if self.startup.iter().any(low) {
            self.digits = Digits::Unsure { asked: false };
        }
    }

    /// The statement may set it to what does not print exactly.
    pub(super) fn notice_digits(&mut self, given: &Given, verdict: &Verdict) {
        let low = match &verdict.class {
            Class::Set { name, .. } if name == NAME => {
                let value = std::str::from_utf8(&given.sql).ok().and_then(literal);
                !value.is_some_and(|v| is_exact(&v))
            }
            Class::Set { .. } | Class::Reset(_) => false,
            Class::Do => mentions(&given.sql),
            // set_config
            _ => verdict.leaves_state() && (mentions(&given.sql) || mentions(&given.bind)),
        };
        if low {
            self.digits = Digits::Unsure { asked: false };
            self.settings_dirty = true;
        }
    }

    /// Main is being asked. True: it has to be once more.
    pub(super) fn digits_asked(&mut self) -> bool {
        self.digits = match self.digits {
            Digits::Unsure { asked: false } => Digits::Unsure { asked: true },
            Digits::Unsure { asked: true } => Digits::Asked,
            other => other,
        };
        matches!(self.digits, Digits::Unsure { .. })
    }

    /// Main has answered.
    pub(super) fn digits_told(&mut self) {
        if self.digits == Digits::Asked {
            self.digits = Digits::Told;
        }
    }

    /// Numbers print exactly.
    pub(super) fn prints_exactly(&self) -> bool {
        self.digits == Digits::Told && self.settings.value(NAME).is_none_or(is_exact)
    }
}
