//! Durations and sizes as PostgreSQL and Pgpool-II write them: a whole number and a unit. Touches nothing.
//!
//! The units are PostgreSQL's (`src/backend/utils/misc/guc.c`, tables of memory and time units): `us ms s min h d`
//! and `B kB MB GB TB`, where kB is 1024 bytes. Fractions are not taken: say `1500ms`, not `1.5s`.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

const SIZE_UNITS: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

/// What a number without a unit means. Pgpool-II counts some parameters in seconds and others in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Milliseconds,
    Seconds,
}

impl TimeUnit {
    /// As it is written behind a number.
    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::Milliseconds => "ms",
            TimeUnit::Seconds => "s",
        }
    }
}

/// Reads `500ms`, `10s`, `5min`, `1h`, `1d`, or a bare number in `bare`'s unit. None: not of that form, or too large.
pub fn parse_duration(text: &str, bare: TimeUnit) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let unit = if unit.is_empty() { bare.name() } else { unit };
    let (_, micros) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_micros(number.checked_mul(*micros)?))
}

/// Reads `256kB`, `64MB`, or a bare number of bytes. None: not of that form, or over 2^64 bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// The largest unit that holds the duration without a remainder: `90s`, `1min`. Zero is `0`.
pub fn show_duration(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    show(micros, &TIME_UNITS)
}

/// The largest unit that holds the size without a remainder: `64MB`, `1500B`. Zero is `0`.
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    if amount == 0 {
        return "0".to_string();
    }
    // The last unit is 1, so that one always fits.
    let (name, factor) = units.iter().find(|(_, factor)| amount % factor == 0).unwrap_or(&("", 1));
    format!("{}{name}", amount / factor)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// A number or a text, as TOML may write either of the two kinds.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl Written {
    fn text(self) -> String {
        match self {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }
    }
}

fn deserialize_duration<'de, D: serde::Deserializer<'de>>(input: D, bare: TimeUnit) -> Result<Duration, D::Error> {
    let text = <Written as serde::Deserialize>::deserialize(input)?.text();
    parse_duration(&text, bare).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration")))
}

/// `#[serde(with)]`: a duration whose bare numbers are milliseconds.
pub mod milliseconds {
    use super::*;

    pub fn serialize<S: serde::Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&show_duration(*value))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        deserialize_duration(input, TimeUnit::Milliseconds)
    }
}

/// `#[serde(with)]`: a duration whose bare numbers are seconds.
pub mod seconds {
    use super::*;

    pub use super::milliseconds::serialize;

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
        deserialize_duration(input, TimeUnit::Seconds)
    }
}

/// `#[serde(with)]`: a number of bytes.
pub mod bytes {
    use super::*;

    pub fn serialize<S: serde::Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&show_size(*value))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
        let text = <Written as serde::Deserialize>::deserialize(input)?.text();
        parse_size(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a size")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_every_unit_and_bare_numbers_take_the_parameters_own() {
        let cases = [
            ("500us", 500),
            ("500ms", 500_000),
            ("10s", 10_000_000),
            ("5min", 300_000_000),
            ("1h", 3_600_000_000),
            ("1 d", 86_400_000_000),
        ];
        for (text, micros) in cases {
            assert_eq!(parse_duration(text, TimeUnit::Seconds), Some(Duration::from_micros(micros)), "{text}");
        }
        assert_eq!(parse_duration("7", TimeUnit::Seconds), Some(Duration::from_secs(7)));
        assert_eq!(parse_duration("7", TimeUnit::Milliseconds), Some(Duration::from_millis(7)));
    }

    #[test]
    fn nonsense_and_overflow_are_neither_durations_nor_sizes() {
        for text in ["", "s", "-1s", "1.5s", "10 parsecs", "1e3", "99999999999999999999", "18446744073709551615d", "½s"]
        {
            assert_eq!(parse_duration(text, TimeUnit::Seconds), None, "{text}");
        }
        for text in ["", "kB", "-1kB", "1.5MB", "10kb", "10 KB", "18446744073709551615TB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same_amount() {
        for micros in [0, 1, 999, 1000, 20_000, 90_000_000, 60_000_000, 86_400_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&show_duration(duration), TimeUnit::Seconds), Some(duration));
        }
        for size in [0, 1, 1500, 1024, 64 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse_size(&show_size(size)), Some(size));
        }
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_size(64 << 20), "64MB");
    }
}
