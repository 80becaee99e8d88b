//! Values and their types, as text and in binary.

use crate::wire::PgError;

/// What a statement may fail with.
pub type Res<T> = Result<T, PgError>;
/// The values of one row.
pub type Row = Vec<Value>;

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
}

/// OID, `typlen`, the name that messages use, and `typname` (pg_type.dat).
const TYPES: [(Type, u32, i16, &str, &str); 6] = [
    (Type::Bool, 16, 1, "boolean", "bool"),
    (Type::Int4, 23, 4, "integer", "int4"),
    (Type::Int8, 20, 8, "bigint", "int8"),
    (Type::Numeric, 1700, -1, "numeric", "numeric"),
    (Type::Text, 25, -1, "text", "text"),
    (Type::Timestamptz, 1184, 8, "timestamp with time zone", "timestamptz"),
];

impl Type {
    fn entry(self) -> &'static (Type, u32, i16, &'static str, &'static str) {
        &TYPES[self as usize]
    }

    /// Its OID.
    pub fn oid(self) -> u32 {
        self.entry().1
    }

    /// By OID.
    pub fn from_oid(oid: u32) -> Res<Type> {
        let found = TYPES.iter().find(|t| t.1 == oid).map(|t| t.0);
        found.ok_or_else(|| unknown(format!("the type with OID {oid}")))
    }

    /// `typlen`.
    pub fn length(self) -> i16 {
        self.entry().2
    }

    /// As PostgreSQL's messages call it.
    pub fn name(self) -> &'static str {
        self.entry().3
    }

    /// `typname`.
    pub fn short_name(self) -> &'static str {
        self.entry().4
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

/// Something that the simulated node does not know: an error, never a guess.
pub fn unknown(what: impl std::fmt::Display) -> PgError {
    PgError::error("0A000", format!("the simulated node does not know {what}"))
}

/// A whole number of this type, or the error that PostgreSQL has for one that does not fit.
pub fn int(ty: Type, n: i128) -> Res<Value> {
    match i64::try_from(n) {
        Ok(v) if ty != Type::Int4 || i32::try_from(n).is_ok() => Ok(Value::Int(v)),
        _ => Err(PgError::error("22003", format!("{} out of range", ty.name()))),
    }
}

impl Value {
    /// A text.
    pub fn of(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// From its text form.
    pub fn parse(ty: Type, text: &str) -> Res<Value> {
        let bad = |state| PgError::error(state, format!("invalid input syntax for type {}: \"{text}\"", ty.name()));
        Ok(match ty {
            Type::Int4 | Type::Int8 | Type::Numeric => int(ty, text.trim().parse().map_err(|_| bad("22P02"))?)
                .map_err(|e| {
                    PgError::error(e.sqlstate, format!("value \"{text}\" is out of range for type {}", ty.name()))
                })?,
            Type::Text => Value::of(text),
            Type::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "on" | "yes" | "y" | "1" => Value::Bool(true),
                "f" | "false" | "off" | "no" | "n" | "0" => Value::Bool(false),
                _ => return Err(bad("22P02")),
            },
            Type::Timestamptz => Value::Time(parse_time(text).ok_or_else(|| bad("22007"))?),
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
        let number = || Ok::<_, PgError>(i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?));
        Ok(match ty {
            Type::Bool => Value::Bool(*bytes.first().filter(|_| bytes.len() == 1).ok_or_else(wrong)? != 0),
            Type::Int4 => Value::Int(i32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?).into()),
            Type::Int8 => Value::Int(number()?),
            Type::Timestamptz => Value::Time(number()?),
            Type::Text => Value::Text(String::from_utf8(bytes.to_vec()).map_err(|_| wrong())?),
            Type::Numeric => return Err(unknown("numeric in binary")),
        })
    }

    /// Its binary form; `None` is NULL.
    pub fn binary(&self, ty: Type) -> Res<Option<Vec<u8>>> {
        Ok(Some(match (self, ty) {
            (Value::Null, _) => return Ok(None),
            (Value::Bool(b), _) => vec![u8::from(*b)],
            (Value::Int(_), Type::Numeric) => return Err(unknown("numeric in binary")),
            // An integer's value was checked against its type when it was made.
            (Value::Int(n), Type::Int4) => i32::try_from(*n).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            (Value::Int(n) | Value::Time(n), _) => n.to_be_bytes().to_vec(),
            (Value::Text(t), _) => t.clone().into_bytes(),
        }))
    }
}

/// ISO format with the offset of UTC, the only time zone that is known here; a fraction without zeros at its end.
fn format_time(t: i64) -> String {
    let text = crate::sql::literals::timestamp(t);
    let time = text.trim_end_matches("+00").trim_end_matches('0').trim_end_matches('.');
    format!("{time}+00")
}

/// `2024-01-31 12:34:56[.123456]+00`: what the proxy and this node write. Anything else is refused, as 'now' and
/// 'today' must be: a script that carries them is a bug.
fn parse_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.strip_suffix("+00")?.split_at_checked(19)?;
    let numbers: Vec<i64> = clock.split(['-', ' ', ':']).map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let &[y, m, d, hour, minute, second] = numbers.as_slice() else { return None };
    // Days since 2000-01-01 of a civil date (Howard Hinnant's algorithm).
    let (y, m) = if m <= 2 { (y - 1, m + 9) } else { (y, m - 3) };
    let (era, year) = (y.div_euclid(400), y.rem_euclid(400));
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * m + 2) / 5 + d - 1 - 730_425;
    let us: i64 = format!("{:0<6}", fraction.trim_start_matches('.')).parse().ok()?;
    let t = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + us;
    // A date that does not exist, or another spelling, reads back differently.
    let back = crate::sql::literals::timestamp(t);
    (text == back || text == format_time(t)).then_some(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back_as_they_were_written() {
        for t in [0, -1, 1, 762_345_678_901_234, -86_400_000_000 * 40_000, 86_399_999_999, 1_500_000] {
            assert_eq!(Value::parse(Type::Timestamptz, &format_time(t)).unwrap(), Value::Time(t), "{}", format_time(t));
        }
        assert_eq!(format_time(0), "2000-01-01 00:00:00+00");
        assert_eq!(parse_time("2000-01-01 00:00:00.500000+00"), Some(500_000));
        for bad in ["now", "today", "2000-13-01 00:00:00+00", "2001-02-29 00:00:00+00", "2000-01-01", "", "2000-01-01é"]
        {
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
