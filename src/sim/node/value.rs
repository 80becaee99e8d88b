//! Values and their types, as text and in binary.

use crate::wire::PgError;

/// What a statement may fail with.
pub type Res<T> = Result<T, PgError>;

/// A column's or expression's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// `boolean`.
    Bool,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `numeric`: only as what sum(bigint) returns, always whole.
    Numeric,
    /// `text`.
    Text,
    /// `timestamp with time zone`.
    Timestamptz,
    /// `void`.
    Void,
}

impl Type {
    /// Its OID (pg_type.dat).
    pub fn oid(self) -> u32 {
        match self {
            Type::Bool => 16,
            Type::Int8 => 20,
            Type::Int4 => 23,
            Type::Text => 25,
            Type::Timestamptz => 1184,
            Type::Numeric => 1700,
            Type::Void => 2278,
        }
    }

    /// By OID; what is not here is not known to the simulated node.
    pub fn from_oid(oid: u32) -> Option<Type> {
        let all = [Type::Bool, Type::Int4, Type::Int8, Type::Numeric, Type::Text, Type::Timestamptz];
        all.into_iter().find(|t| t.oid() == oid)
    }

    /// `typlen`.
    pub fn length(self) -> i16 {
        match self {
            Type::Bool => 1,
            Type::Int4 | Type::Void => 4,
            Type::Int8 | Type::Timestamptz => 8,
            Type::Text | Type::Numeric => -1,
        }
    }

    /// As PostgreSQL's messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Type::Bool => "boolean",
            Type::Int4 => "integer",
            Type::Int8 => "bigint",
            Type::Numeric => "numeric",
            Type::Text => "text",
            Type::Timestamptz => "timestamp with time zone",
            Type::Void => "void",
        }
    }

    /// Whole numbers.
    pub fn is_int(self) -> bool {
        matches!(self, Type::Int4 | Type::Int8 | Type::Numeric)
    }
}

/// A value. The order is that of an index: NULL last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Value {
    /// `boolean`.
    Bool(bool),
    /// `integer`, `bigint`, `numeric`.
    Int(i64),
    /// `text`; compared bytewise, as under the collations C and C.UTF-8.
    Text(String),
    /// `timestamptz`: microseconds since 2000-01-01 UTC.
    Time(i64),
    /// NULL.
    Null,
}

/// Feature not known to the simulated node: an error, never a guess.
pub fn unknown(what: impl std::fmt::Display) -> PgError {
    PgError::error("0A000", format!("the simulated node does not know {what}"))
}

fn bad_input(ty: Type, text: &str) -> PgError {
    PgError::error("22P02", format!("invalid input syntax for type {}: \"{text}\"", ty.name()))
}

/// A whole number of this type, or the error that PostgreSQL has for one that does not fit.
pub fn int(ty: Type, n: i128) -> Res<Value> {
    let fits = match ty {
        Type::Int4 => i32::try_from(n).is_ok(),
        _ => i64::try_from(n).is_ok(),
    };
    match i64::try_from(n) {
        Ok(v) if fits => Ok(Value::Int(v)),
        _ => Err(PgError::error("22003", format!("{} out of range", ty.name()))),
    }
}

impl Value {
    /// From its text form.
    pub fn parse(ty: Type, text: &str) -> Res<Value> {
        Ok(match ty {
            Type::Int4 | Type::Int8 | Type::Numeric => {
                let n: i128 = text.trim().parse().map_err(|_| bad_input(ty, text))?;
                let fits = if ty == Type::Int4 { i32::try_from(n).is_ok() } else { i64::try_from(n).is_ok() };
                if !fits {
                    let e = format!("value \"{text}\" is out of range for type {}", ty.name());
                    return Err(PgError::error("22003", e));
                }
                int(ty, n)?
            }
            Type::Text => Value::Text(text.to_owned()),
            Type::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "y" | "1" => Value::Bool(true),
                "f" | "false" | "off" | "no" | "n" | "0" => Value::Bool(false),
                _ => return Err(bad_input(ty, text)),
            },
            Type::Timestamptz => Value::Time(parse_time(text.trim()).ok_or_else(|| {
                PgError::error("22007", format!("invalid input syntax for type {}: \"{text}\"", ty.name()))
            })?),
            Type::Void => Value::Null,
        })
    }

    /// Its text form; `None` is NULL.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Null => None,
            Value::Bool(b) => Some(if *b { "t" } else { "f" }.into()),
            Value::Int(n) => Some(n.to_string()),
            Value::Text(t) => Some(t.clone()),
            Value::Time(t) => Some(format_time(*t)),
        }
    }

    /// From its binary form.
    pub fn from_binary(ty: Type, bytes: &[u8]) -> Res<Value> {
        let wrong = || PgError::error("22P03", "incorrect binary data format in bind parameter");
        Ok(match ty {
            Type::Bool => Value::Bool(*bytes.first().filter(|_| bytes.len() == 1).ok_or_else(wrong)? != 0),
            Type::Int4 => Value::Int(i32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?).into()),
            Type::Int8 => Value::Int(i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Type::Timestamptz => Value::Time(i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
            Type::Text => Value::Text(String::from_utf8(bytes.to_vec()).map_err(|_| wrong())?),
            Type::Numeric | Type::Void => return Err(unknown(format!("{} in binary", ty.name()))),
        })
    }

    /// Its binary form; `None` is NULL.
    pub fn binary(&self, ty: Type) -> Res<Option<Vec<u8>>> {
        Ok(Some(match (self, ty) {
            (Value::Null, _) => return Ok(None),
            (Value::Bool(b), _) => vec![u8::from(*b)],
            // An integer's value was checked against its type when it was made.
            (Value::Int(n), Type::Int4) => i32::try_from(*n).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            (Value::Int(n), Type::Int8) => n.to_be_bytes().to_vec(),
            (Value::Time(t), _) => t.to_be_bytes().to_vec(),
            (Value::Text(t), _) => t.clone().into_bytes(),
            (Value::Int(_), _) => return Err(unknown(format!("{} in binary", ty.name()))),
        }))
    }
}

const DAY_US: i64 = 86_400_000_000;
/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const EPOCH_DAYS: i64 = 10_957;

/// Days since 1970 of a civil date (Hinnant's algorithm).
fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

/// ISO format with the offset of UTC, the only time zone that is known here.
fn format_time(t: i64) -> String {
    let (y, m, d) = civil_from_days(t.div_euclid(DAY_US) + EPOCH_DAYS);
    let us = t.rem_euclid(DAY_US);
    let (s, fraction) = (us / 1_000_000, us % 1_000_000);
    let mut text = format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    if fraction > 0 {
        text.push_str(format!(".{fraction:06}").trim_end_matches('0'));
    }
    text + "+00"
}

/// `2024-01-31[ 12:34:56[.123456]][+hh[:mm]|Z]`: what the proxy writes. Anything else is refused, as 'now' and 'today'
/// must be: a script that carries them is a bug.
fn parse_time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-').map(|p| p.parse::<i64>().ok());
    let (y, m, d) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || !(1..=12).contains(&m) || d < 1 {
        return None;
    }
    let days = days_from_civil(y, m, d);
    if civil_from_days(days) != (y, m, d) {
        return None;
    }
    let rest = rest.strip_prefix([' ', 'T']).unwrap_or(rest);
    let zone = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone);
    let offset_s = match zone {
        "" | "Z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':').unwrap_or((&zone[1..], "0"));
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if zone.starts_with('-') { -seconds } else { seconds }
        }
    };
    let us = if time.is_empty() { 0 } else { parse_clock(time)? };
    Some((days - EPOCH_DAYS) * DAY_US + us - offset_s * 1_000_000)
}

fn parse_clock(time: &str) -> Option<i64> {
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = clock.split(':').map(|p| p.parse::<i64>().ok());
    let (h, m) = (parts.next()??, parts.next()??);
    let s = parts.next().unwrap_or(Some(0))?;
    if !(0..24).contains(&h) || !(0..60).contains(&m) || !(0..60).contains(&s) || fraction.len() > 6 {
        return None;
    }
    let fraction: i64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
    Some(((h * 60 + m) * 60 + s) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back_as_they_were_written() {
        for t in [0, -1, 1, 762_345_678_901_234, -DAY_US * 40_000, DAY_US - 1] {
            assert_eq!(Value::parse(Type::Timestamptz, &format_time(t)).unwrap(), Value::Time(t), "{}", format_time(t));
        }
        assert_eq!(format_time(0), "2000-01-01 00:00:00+00");
        assert_eq!(parse_time("2000-01-01 02:00:00.5+02"), Some(500_000));
        for bad in ["now", "today", "2000-13-01", "2001-02-29", "2000-01-01 25:00", "", "2000-01-01é"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn integers_beyond_their_type_are_refused() {
        assert_eq!(Value::parse(Type::Int4, "2147483648").unwrap_err().sqlstate, "22003");
        assert_eq!(Value::parse(Type::Int8, "x").unwrap_err().sqlstate, "22P02");
        assert!(int(Type::Int8, i128::from(i64::MAX) + 1).is_err());
    }
}
