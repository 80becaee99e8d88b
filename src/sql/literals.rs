//! now() and kin as literals of the transaction's time on main, spliced into the text by position (design, section 3.2).

use std::ops::Range;

use super::lexer::{Kind, Lexer, Token};
use super::shape::is_moment;

/// The transaction's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Microseconds since 2000-01-01 00:00 UTC, PostgreSQL's epoch.
    pub micros: i64,
}

/// What a time function returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Time {
    /// now(), CURRENT_TIMESTAMP.
    TimestampTz(Option<u8>),
    /// LOCALTIMESTAMP.
    Timestamp(Option<u8>),
    /// CURRENT_DATE.
    Date,
    /// CURRENT_TIME.
    TimeTz(Option<u8>),
    /// LOCALTIME.
    Time(Option<u8>),
}

impl Time {
    /// The function's value, from an expression of type timestamptz. Casts use the session's TimeZone, as the
    /// functions do.
    #[must_use]
    pub fn of(self, timestamptz: &str) -> String {
        let p = |p: Option<u8>| p.map_or_else(String::new, |p| format!("({p})"));
        match self {
            Time::TimestampTz(None) => format!("({timestamptz})"),
            Time::TimestampTz(n) => format!("({timestamptz}::timestamptz{})", p(n)),
            Time::Timestamp(n) => format!("({timestamptz}::timestamp{})", p(n)),
            Time::Date => format!("({timestamptz}::date)"),
            Time::TimeTz(n) => format!("({timestamptz}::timetz{})", p(n)),
            Time::Time(n) => format!("({timestamptz}::time{})", p(n)),
        }
    }
}

/// A time function in a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeCall {
    /// Where it stands, with its parentheses.
    pub range: Range<usize>,
    /// What it is.
    pub time: Time,
}

/// All time functions of a text. Names that are columns (behind a dot) or another schema's functions are none.
#[must_use]
pub fn time_calls(sql: &str, std_strings: bool) -> Vec<TimeCall> {
    let tokens: Vec<Token> = Lexer::new(sql, std_strings).collect();
    let mut calls = Vec::new();
    for i in 0..tokens.len() {
        if tokens[i].kind != Kind::Word {
            continue;
        }
        let qualified = i > 0 && tokens[i - 1].is_char(b'.');
        let catalogue = qualified && i > 1 && tokens[i - 2].is(sql, "pg_catalog");
        if qualified && !catalogue {
            continue;
        }
        let empty =
            tokens.get(i + 1).is_some_and(|t| t.is_char(b'(')) && tokens.get(i + 2).is_some_and(|t| t.is_char(b')'));
        let name = tokens[i].text(sql).to_ascii_lowercase();
        if matches!(name.as_str(), "now" | "transaction_timestamp") {
            if empty {
                let start = if catalogue { tokens[i - 2].start } else { tokens[i].start };
                calls.push(TimeCall { range: start..tokens[i + 2].end, time: Time::TimestampTz(None) });
            }
            continue;
        }
        if qualified {
            continue;
        }
        let (precision, end) = precision(&tokens, i, sql);
        let time = match name.as_str() {
            "current_timestamp" => Time::TimestampTz(precision),
            "localtimestamp" => Time::Timestamp(precision),
            "current_date" => Time::Date,
            "current_time" => Time::TimeTz(precision),
            "localtime" => Time::Time(precision),
            _ => continue,
        };
        let end = if time == Time::Date { tokens[i].end } else { end };
        calls.push(TimeCall { range: tokens[i].start..end, time });
    }
    calls
}

fn precision(tokens: &[Token], i: usize, sql: &str) -> (Option<u8>, usize) {
    if let [open, n, close, ..] = tokens.get(i + 1..).unwrap_or_default() {
        if open.is_char(b'(') && n.kind == Kind::Integer && close.is_char(b')') {
            return (n.text(sql).parse().ok(), close.end);
        }
    }
    (None, tokens[i].end)
}

/// A string whose value is a moment ('now', 'today') stands somewhere: no literal of ours can say what it will be taken
/// for.
#[must_use]
pub fn has_moment(sql: &str, std_strings: bool) -> bool {
    Lexer::new(sql, std_strings).any(|t| matches!(t.kind, Kind::String | Kind::OtherString) && is_moment(t.text(sql)))
}

/// The text with every time function replaced by a literal; `None` if there is none.
#[must_use]
pub fn time_literals(sql: &str, std_strings: bool, now: &Now) -> Option<String> {
    let literal = format!("'{}'::timestamptz", timestamp(now.micros));
    replace(sql, std_strings, &literal)
}

/// The text with every time function replaced by an expression of one parameter.
#[must_use]
pub fn time_parameter(sql: &str, std_strings: bool, number: usize) -> Option<String> {
    replace(sql, std_strings, &format!("${number}"))
}

fn replace(sql: &str, std_strings: bool, value: &str) -> Option<String> {
    let calls = time_calls(sql, std_strings);
    if calls.is_empty() {
        return None;
    }
    let (mut out, mut at) = (String::with_capacity(sql.len() + 40 * calls.len()), 0);
    for c in calls {
        out.push_str(&sql[at..c.range.start]);
        out.push_str(&c.time.of(value));
        at = c.range.end;
    }
    out.push_str(&sql[at..]);
    Some(out)
}

/// A timestamptz as ISO text with offset +00; years 0001 to 9999 (29 bytes).
#[must_use]
pub fn timestamp(micros: i64) -> String {
    let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    // Days since 0000-03-01; Howard Hinnant's days-to-civil algorithm.
    let z = days + 730_425;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (s, us) = (rest / 1_000_000, rest % 1_000_000);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{us:06}+00", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { micros: 849_000_000_123_456 };

    #[test]
    fn a_timestamp_prints_as_postgresql_reads_it() {
        assert_eq!(timestamp(0), "2000-01-01 00:00:00.000000+00");
        assert_eq!(timestamp(-1), "1999-12-31 23:59:59.999999+00");
        assert_eq!(timestamp(5_184_000_000_000), "2000-03-01 00:00:00.000000+00");
        assert_eq!(timestamp(NOW.micros), "2026-11-26 09:20:00.123456+00");
        assert_eq!(timestamp(NOW.micros).len(), 29);
    }

    #[test]
    fn time_functions_become_literals_and_nothing_else_does() {
        let l = |s: &str| time_literals(s, true, &NOW);
        let t = "'2026-11-26 09:20:00.123456+00'::timestamptz";
        assert_eq!(
            l("insert into t values (now(), current_date)").unwrap(),
            format!("insert into t values (({t}), ({t}::date))")
        );
        assert_eq!(
            l("update t set a = CURRENT_TIMESTAMP(3)").unwrap(),
            format!("update t set a = ({t}::timestamptz(3))")
        );
        assert_eq!(
            l("update t set a = pg_catalog.now() - interval '1 day'").unwrap(),
            format!("update t set a = ({t}) - interval '1 day'")
        );
        for same in [
            "update t set now = 1",
            "select t.current_date from t",
            "select 'now()' -- now()",
            "select my.now()",
            "select \"current_date\"",
        ] {
            assert_eq!(l(same), None, "{same}");
        }
    }

    #[test]
    fn moments_in_strings_are_seen() {
        assert!(has_moment("insert into t values ('now')", true));
        assert!(has_moment("insert into t values ('{Today}')", true));
        assert!(!has_moment("insert into t values ('know')", true));
    }
}
