//! A statement's shape: its text with the literals taken out, so that statements that differ in their numbers alone
//! are judged, and on appliers parsed, once.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::class::Class;
use super::lexer::{Kind, Lexer, Token};
use super::literals::{Time, time_calls};

/// OID of int4.
pub const INT4: u32 = 23;
/// OID of timestamptz.
pub const TIMESTAMPTZ: u32 = 1184;

/// Hash of a statement's shape, 128 bits: two SipHash-1-3 with different beginnings.
pub type ShapeHash = u128;

/// Strings whose value is a moment: they are part of the shape.
pub fn is_moment(text: &str) -> bool {
    let t = text.trim_matches('\'').trim();
    ["now", "today", "tomorrow", "yesterday", "current_timestamp"].iter().any(|m| t.eq_ignore_ascii_case(m))
        || ["now", "today", "tomorrow", "yesterday"].iter().any(|m| t.to_ascii_lowercase().contains(m))
            && t.starts_with(['{', '[', '('])
}

/// Hash of the statement's shape. Nothing is allocated.
#[must_use]
pub fn shape_hash(sql: &str, std_strings: bool) -> ShapeHash {
    let (mut a, mut b) = (DefaultHasher::new(), DefaultHasher::new());
    b.write_u8(0x7d);
    let mut write = |bytes: &[u8]| {
        a.write(bytes);
        a.write_u8(0xff);
        b.write(bytes);
        b.write_u8(0xff);
    };
    write(&[u8::from(std_strings)]);
    let mut explain = false;
    for (i, t) in Lexer::new(sql, std_strings).enumerate() {
        let text = t.text(sql);
        explain |= i == 0 && t.is(sql, "explain");
        match t.kind {
            Kind::Integer if !explain && int4(text) => write(&[1]),
            Kind::String if !explain && !is_moment(text) => write(&[2]),
            _ => write(text.as_bytes()),
        }
    }
    (u128::from(a.finish()) << 64) | u128::from(b.finish())
}

/// An integer that PostgreSQL types int4 with either sign (the largest is left out: its negative is not).
fn int4(text: &str) -> bool {
    text.len() <= 9 || (text.len() == 10 && text < "2147483647")
}

/// One value of a parameterised statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    /// The literal with this number among the statement's tokens.
    Token(usize),
    /// The transaction's time.
    Time,
}

/// A write whose literals (and time functions) have become parameters: the same for every statement of its shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameterised {
    /// The text, with $1 and so on.
    pub sql: Bytes,
    /// Types of the parameters: int4, unknown (0) or timestamptz.
    pub types: Arc<[u32]>,
    values: Vec<Value>,
}

/// Length of a timestamp with time zone as [`super::literals::timestamp`] prints it.
const TIMESTAMP_LEN: usize = 29;

impl Parameterised {
    /// The values of one statement of this shape, as the part of a Bind behind its names (text, results as text), and
    /// where in it the transaction's time belongs.
    #[must_use]
    pub fn bind(&self, sql: &str, std_strings: bool) -> Option<(BytesMut, Vec<usize>)> {
        let tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
        let mut out = BytesMut::with_capacity(16 + self.values.len() * 12);
        let mut moments = Vec::new();
        out.put_u16(0);
        out.put_u16(u16::try_from(self.values.len()).ok()?);
        for v in &self.values {
            match v {
                Value::Time => {
                    out.put_u32(29);
                    moments.push(out.len());
                    out.put_bytes(b'0', TIMESTAMP_LEN);
                }
                Value::Token(i) => {
                    let t = tokens.get(*i)?;
                    let text = t.text(sql);
                    if t.kind == Kind::String {
                        let inner = text.get(1..text.len() - 1)?.replace("''", "'");
                        out.put_u32(u32::try_from(inner.len()).ok()?);
                        out.put_slice(inner.as_bytes());
                    } else {
                        out.put_u32(u32::try_from(text.len()).ok()?);
                        out.put_slice(text.as_bytes());
                    }
                }
            }
        }
        out.put_u16(0);
        Some((out, moments))
    }
}

/// Adds one text parameter to the part of a Bind behind its names; returns where its value stands.
#[must_use]
pub fn append_time(bind: &[u8], parameters: usize) -> Option<(BytesMut, Vec<usize>)> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(bind.get(at..at + 2)?.try_into().ok()?));
    let formats = usize::from(u16_at(0)?);
    let mut at = 2 + 2 * formats;
    let count = usize::from(u16_at(at)?);
    if count != parameters {
        return None;
    }
    at += 2;
    let values = at;
    for _ in 0..count {
        let n = u32::from_be_bytes(bind.get(at..at + 4)?.try_into().ok()?);
        at += 4 + if n == u32::MAX { 0 } else { n as usize };
    }
    let mut out = BytesMut::with_capacity(bind.len() + 64 + 2 * count);
    out.put_u16(u16::try_from(count + 1).ok()?);
    for i in 0..count {
        out.put_u16(match formats {
            0 => 0,
            1 => u16_at(2)?,
            _ => u16_at(2 + 2 * i)?,
        });
    }
    out.put_u16(0);
    out.put_u16(u16::try_from(count + 1).ok()?);
    out.put_slice(bind.get(values..at)?);
    out.put_u32(29);
    let moment = out.len();
    out.put_bytes(b'0', TIMESTAMP_LEN);
    out.put_slice(bind.get(at..)?);
    Some((out, vec![moment]))
}

/// Number of parameters that the text has ($1 to $n).
#[must_use]
pub fn parameters(sql: &str, std_strings: bool) -> usize {
    let numbers = Lexer::new(sql, std_strings).filter(|t| t.kind == Kind::Parameter);
    numbers.filter_map(|t| t.text(sql)[1..].parse::<usize>().ok()).max().unwrap_or(0)
}

/// The statement with its literals as parameters, if it is a plain INSERT ... VALUES, UPDATE or DELETE in which each of
/// them may be one: a parameter of the literal's type means exactly what the literal means there.
#[must_use]
pub fn parameterise(sql: &str, std_strings: bool, class: &Class) -> Option<Parameterised> {
    if !matches!(class, Class::Insert | Class::Update | Class::Delete) || parameters(sql, std_strings) > 0 {
        return None;
    }
    let tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
    // Where a literal is not just a value: none of these may occur anywhere.
    const NO: [&str; 16] = [
        "select",
        "with",
        "limit",
        "interval",
        "order",
        "group",
        "cast",
        "conflict",
        "case",
        "date",
        "timestamp",
        "time",
        "timestamptz",
        "over",
        "array",
        "default",
    ];
    if tokens.iter().any(|t| NO.iter().any(|k| t.is(sql, k)) || matches!(t.kind, Kind::OtherString | Kind::Number)) {
        return None;
    }
    if tokens.windows(2).any(|w| w[0].is_char(b':') && w[1].is_char(b':')) {
        return None;
    }
    let times = time_calls(sql, std_strings);
    let single_row = tokens.windows(2).filter(|w| w[0].is_char(b')') && w[1].is_char(b',')).count() == 0;
    let (mut out, mut at, mut values, mut types) = (String::new(), 0, Vec::new(), Vec::new());
    let mut skip_until = 0;
    for (i, t) in tokens.iter().enumerate() {
        if t.start < skip_until {
            continue;
        }
        let time = times.iter().find(|c| c.range.start == t.start);
        let value = match (t.kind, time) {
            (_, Some(call)) => {
                skip_until = call.range.end;
                Some((Value::Time, TIMESTAMPTZ, call.range.clone(), Some(call.time)))
            }
            (Kind::Integer, _) if int4(t.text(sql)) && is_value(&tokens, i, sql) => {
                Some((Value::Token(i), INT4, t.start..t.end, None))
            }
            (Kind::String, _) if single_row && !is_moment(t.text(sql)) && is_value(&tokens, i, sql) => {
                Some((Value::Token(i), 0, t.start..t.end, None))
            }
            (Kind::Integer | Kind::String, _) => return None,
            _ => None,
        };
        if let Some((value, oid, range, time)) = value {
            values.push(value);
            types.push(oid);
            out.push_str(&sql[at..range.start]);
            let parameter = format!("${}", values.len());
            out.push_str(&time.map_or(parameter.clone(), |t: Time| t.of(&parameter)));
            at = range.end;
        }
    }
    out.push_str(&sql[at..]);
    let many = u16::try_from(values.len()).is_err();
    (!values.is_empty() && !many).then(|| Parameterised { sql: Bytes::from(out), types: Arc::from(types), values })
}

/// The literal stands as a whole value: after `=`, a binary or unary `+` or `-`, or in the list of VALUES; and before
/// the end of that value.
fn is_value(tokens: &[Token], i: usize, sql: &str) -> bool {
    let text = |k: usize| tokens[k].text(sql);
    let before = match i.checked_sub(1).map(|k| (k, tokens[k].kind)) {
        Some((_, Kind::Punctuation(b'(' | b','))) => in_values(tokens, i, sql),
        Some((k, Kind::Operator)) => match text(k) {
            "=" | "<" | ">" | "<=" | ">=" => true,
            // As in `a + 1` and `a + -1`; a string there would be typed by its neighbour.
            "+" | "-" => tokens[i].kind == Kind::Integer,
            _ => false,
        },
        _ => false,
    };
    let after = match tokens.get(i + 1) {
        None => true,
        Some(t) => match t.kind {
            Kind::Punctuation(b',' | b')') => true,
            Kind::Word => ["where", "and", "or", "returning"].iter().any(|k| t.is(sql, k)),
            _ => false,
        },
    };
    before && after
}

fn in_values(tokens: &[Token], i: usize, sql: &str) -> bool {
    // Back to the parenthesis that opened the row; what stands before it must be VALUES or another row's comma.
    let mut depth = 0;
    for k in (0..i).rev() {
        if tokens[k].is_char(b')') {
            depth += 1;
        } else if tokens[k].is_char(b'(') {
            if depth == 0 {
                return k > 0 && (tokens[k - 1].is(sql, "values") || tokens[k - 1].is_char(b','));
            }
            depth -= 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::class::classify;

    fn par(sql: &str) -> Option<(String, Vec<u32>)> {
        let p = parameterise(sql, true, &classify(sql, true))?;
        Some((String::from_utf8(p.sql.to_vec()).unwrap(), p.types.to_vec()))
    }

    #[test]
    fn statements_that_differ_in_numbers_have_one_shape() {
        let h = |s: &str| shape_hash(s, true);
        assert_eq!(h("update t set a = 1 where b = 22"), h("update t  set a = 7 /* x */ where b = 3"));
        assert_ne!(h("update t set a = 1"), h("update t set a = 10000000000"));
        assert_ne!(h("update t set a = 1"), h("update t set a = '1'"));
        assert_ne!(h("select 'now'"), h("select 'x'"));
        assert_ne!(h("explain (analyze 0) select 1"), h("explain (analyze 1) select 1"));
    }

    #[test]
    fn pgbenchs_writes_become_parameterised() {
        assert_eq!(
            par("UPDATE pgbench_accounts SET abalance = abalance + -12 WHERE aid = 5;"),
            None,
            "a semicolon is not part of a statement"
        );
        let (sql, types) = par("UPDATE pgbench_accounts SET abalance = abalance + -12 WHERE aid = 5").unwrap();
        assert_eq!(sql, "UPDATE pgbench_accounts SET abalance = abalance + -$1 WHERE aid = $2");
        assert_eq!(types, [INT4, INT4]);
        let (sql, types) = par("INSERT INTO h (t, m) VALUES (1, CURRENT_TIMESTAMP)").unwrap();
        assert_eq!((sql.as_str(), &types[..]), ("INSERT INTO h (t, m) VALUES ($1, ($2))", &[INT4, TIMESTAMPTZ][..]));
    }

    #[test]
    fn a_literal_that_is_more_than_a_value_keeps_its_statement_as_it_is() {
        for sql in [
            "update t set a = 1 where b in (1, 2)",
            "insert into t values (1) on conflict (a) do update set a = 1",
            "update t set a = '1'::int",
            "update t set d = date '2020-01-01'",
            "insert into t values (f(1))",
            "delete from t where a = 1.5",
            "update t set a = 2147483648",
            "insert into t select 1",
            "update t set a = 'now'",
        ] {
            assert_eq!(par(sql), None, "{sql}");
        }
    }

    #[test]
    fn values_are_bound_as_text_and_time_has_its_place() {
        let sql = "insert into t values (5, 'it''s', now())";
        let p = parameterise(sql, true, &Class::Insert).unwrap();
        let (bind, moments) = p.bind(sql, true).unwrap();
        assert_eq!(&bind[..4], [0, 0, 0, 3]);
        assert_eq!(&bind[4..9], [0, 0, 0, 1, b'5']);
        assert_eq!(&bind[9..17], b"\0\0\0\x04it's");
        assert_eq!(moments, [21]);
        assert_eq!(bind.len(), 21 + 29 + 2);
    }

    #[test]
    fn a_clients_bind_gets_one_more_parameter() {
        // One binary parameter of four bytes, all results in text.
        let bind = [0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 1, 2, 3, 4, 0, 0];
        let (out, moments) = append_time(&bind, 1).unwrap();
        assert_eq!(&out[..8], [0, 2, 0, 1, 0, 0, 0, 2]);
        assert_eq!(&out[8..16], [0, 0, 0, 4, 1, 2, 3, 4]);
        assert_eq!(moments, [20]);
        assert_eq!(append_time(&bind, 2), None);
    }
}
