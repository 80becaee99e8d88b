//! From a seed to a case: bursts of messages, each answered before the next is sent.

use super::case::{Case, Step};
use super::message::{Bind, Message};
use super::sql::{Parametrised, parametrised, parses, statement};
use super::topics::{self, on};
use crate::support::random::Random;

/// The case of a seed.
pub fn case(seed: u64) -> Case {
    let mut r = Random::new(seed);
    let connections = if r.percent(12) { 2 } else { 1 };
    let mut steps = Vec::new();
    for _ in 0..r.between(2, 9) {
        let connection = r.below(connections);
        let mut messages = Vec::new();
        for _ in 0..if r.percent(25) { 2 } else { 1 } {
            // Two sessions must not wait for each other: the second one only reads and talks.
            if connection == 0 { unit(&mut r, &mut messages) } else { harmless(&mut r, &mut messages) }
        }
        steps.extend(messages.into_iter().map(|m| match m {
            Some(m) => Step::Send(connection, m),
            None => Step::Await(connection),
        }));
        steps.push(Step::Await(connection));
    }
    steps.retain({
        let mut bound = [false; 2];
        move |step| is_safe(step, &mut bound)
    });
    Case { steps }
}

/// A server (15.18 at least) that is to execute or describe the unnamed portal of a Query that has failed in a block
/// looks at freed memory, and may crash; so that portal is only asked for in the batch that has bound it.
fn is_safe(step: &Step, bound: &mut [bool; 2]) -> bool {
    let Step::Send(c, message) = step else { return true };
    match message {
        Message::Bind(b) if b.portal.is_empty() => bound[*c] = true,
        Message::Execute(portal, _) | Message::Describe(b'P', portal) if portal.is_empty() => return bound[*c],
        Message::Sync | Message::Query(_) | Message::Other(..) => bound[*c] = false,
        _ => {}
    }
    true
}

/// Messages, and where to wait in between.
type Messages = Vec<Option<Message>>;

fn harmless(r: &mut Random, out: &mut Messages) {
    let sql = r.pick(&[
        "SELECT 1",
        "LISTEN news",
        "NOTIFY news, 'from two'",
        "BEGIN",
        "COMMIT",
        "SELECT count(*) FROM log WHERE false",
        "SELECT pg_try_advisory_lock(77)",
        "SET application_name = 'two'",
        "UNLISTEN *",
        "SELECT 1/0",
    ]);
    out.push(Some(Message::query(sql)));
}

fn unit(r: &mut Random, out: &mut Messages) {
    match r.below(100) {
        0..=29 => simple(r, out),
        30..=44 => one_shot(r, out),
        45..=62 => pipeline(r, out),
        63..=72 => soup(r, out),
        73..=79 => limited(r, out),
        80..=85 => copy_in(r, out),
        86..=89 => copy_in_extended(r, out),
        90..=93 => block(r, out),
        94..=95 if on(topics::FUNCTION_CALL) => function_call(r, out),
        94..=97 => describe_only(r, out),
        _ => abuse(r, out),
    }
}

fn simple(r: &mut Random, out: &mut Messages) {
    let sql = if r.percent(55) { statement(r) } else { string(r) };
    out.push(Some(Message::query(sql)));
}

/// A string of several statements.
fn string(r: &mut Random) -> String {
    let mut parts = Vec::new();
    for at in 0..r.between(2, 5) {
        let sql = statement(r);
        let has_modes = sql.starts_with("BEGIN ") || sql.starts_with("START TRANSACTION ");
        let fits = (on(topics::LATE_SYNTAX) || parses(&sql)) && (on(topics::BEGIN_MODES) || at == 0 || !has_modes);
        if fits {
            parts.push(sql);
        }
    }
    parts.join("; ")
}

/// Parse, Bind, perhaps Describe, Execute.
fn prepare_and_execute(r: &mut Random, statement_name: &str, portal: &str, out: &mut Messages) {
    if r.percent(50) {
        let p = parametrised(r);
        let types = if r.percent(50) { p.types.to_vec() } else { Vec::new() };
        out.push(Some(Message::Parse { name: statement_name.into(), sql: p.sql.into(), types: types.clone() }));
        if r.percent(30) {
            out.push(Some(Message::Describe(b'S', statement_name.into())));
        }
        out.push(Some(Message::Bind(bind(r, &p, portal, statement_name, !types.is_empty()))));
    } else {
        out.push(Some(Message::parse(statement_name, for_extended(r))));
        if r.percent(20) {
            out.push(Some(Message::Describe(b'S', statement_name.into())));
        }
        let results = if r.percent(15) { vec![1] } else { Vec::new() };
        let b = Bind { portal: portal.into(), statement: statement_name.into(), results, ..Bind::default() };
        out.push(Some(Message::Bind(b)));
    }
    if r.percent(50) {
        out.push(Some(Message::Describe(b'P', portal.into())));
    }
    out.push(Some(Message::execute(portal, if r.percent(15) { 2 } else { 0 })));
}

fn for_extended(r: &mut Random) -> String {
    let sql = statement(r);
    // DEALLOCATE and kin are a topic of their own.
    if on(topics::PIPELINED_BEGIN) || !is_block_control(&sql) { sql } else { "SELECT 7".into() }
}

fn is_block_control(sql: &str) -> bool {
    let first = sql.split(' ').next().unwrap_or_default();
    matches!(first, "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT")
}

fn bind(r: &mut Random, p: &Parametrised, portal: &str, statement: &str, typed: bool) -> Bind {
    let mut bind = Bind { portal: portal.into(), statement: statement.into(), ..Bind::default() };
    // Binary only where the type is known.
    let binary = typed && r.percent(30);
    for (v, t) in p.values.iter().zip(p.types.iter().copied().chain(std::iter::repeat(0))) {
        let number = v.as_ref().and_then(|v| v.parse::<i32>().ok());
        match (binary, t, number) {
            (true, 23, Some(n)) => {
                bind.formats.push(1);
                bind.values.push(Some(n.to_be_bytes().to_vec()));
            }
            _ => {
                bind.formats.push(0);
                bind.values.push(v.clone().map(String::into_bytes));
            }
        }
    }
    if !binary && r.percent(60) {
        bind.formats.clear();
    }
    bind.results = r.pick(&[vec![], vec![], vec![0], vec![1]]);
    match r.below(60) {
        0 => drop(bind.values.pop()),
        1 => bind.formats = vec![0, 1, 0, 1],
        2 => bind.results = vec![0, 1, 0, 1, 0],
        3 => bind.results = vec![7],
        4 => bind.formats = vec![9],
        _ => {}
    }
    bind
}

fn name(r: &mut Random) -> &'static str {
    r.pick(&["", "", "s1", "s2", "s3"])
}

fn portal(r: &mut Random) -> &'static str {
    r.pick(&["", "", "p1", "p2"])
}

fn one_shot(r: &mut Random, out: &mut Messages) {
    let (s, p) = (name(r), portal(r));
    if !s.is_empty() && r.percent(60) {
        out.push(Some(Message::Close(b'S', s.into())));
    }
    prepare_and_execute(r, s, p, out);
    out.push(Some(Message::Sync));
}

/// Several executions up to one Sync, with whatever goes wrong in the middle.
fn pipeline(r: &mut Random, out: &mut Messages) {
    for _ in 0..r.between(2, 5) {
        let p = portal(r);
        prepare_and_execute(r, "", p, out);
        match r.below(12) {
            0 => out.push(Some(Message::Flush)),
            1 => out.extend([Some(Message::Flush), None]),
            2 | 3 => out.push(Some(Message::Sync)),
            _ => {}
        }
    }
    out.push(Some(Message::Sync));
}

/// Any message in any order.
fn soup(r: &mut Random, out: &mut Messages) {
    for _ in 0..r.between(2, 9) {
        let (s, p) = (name(r), portal(r));
        let m = match r.below(12) {
            0 | 1 => Message::parse(s, for_extended(r)),
            2 => Message::parse(s, parametrised(r).sql),
            3 | 4 => Message::bind(p, s),
            5 => {
                let given = parametrised(r);
                Message::Bind(bind(r, &given, p, s, false))
            }
            6 => Message::Describe(r.pick(b"SP"), r.pick(&[s, p]).into()),
            7 | 8 => Message::execute(p, r.pick(&[0, 1, 2, -1])),
            9 => Message::Close(r.pick(b"SP"), r.pick(&[s, p]).into()),
            10 => r.pick(&[Message::Sync, Message::Flush]),
            _ => Message::query(if r.percent(50) { statement(r) } else { "SELECT 3".into() }),
        };
        out.push(Some(m));
    }
    out.push(Some(Message::Sync));
}

/// A portal that is fetched from in parts, in a block or in one batch.
fn limited(r: &mut Random, out: &mut Messages) {
    let in_block = r.percent(70);
    if in_block {
        out.push(Some(Message::query("BEGIN")));
    }
    let mut list = vec![
        "SELECT id, b FROM t ORDER BY id",
        "SELECT g FROM generate_series(1, 6) g",
        "UPDATE t SET a = 1 WHERE id < 5 RETURNING id",
        "INSERT INTO nokey SELECT g, 'limited' FROM generate_series(1, 4) g RETURNING x",
        "SELECT 10 / (3 - g) FROM generate_series(1, 5) g",
        "FETCH ALL FROM c1",
        "VALUES (1), (2), (3)",
        "EXPLAIN (COSTS OFF) SELECT 1",
    ];
    if on(topics::SUSPENDED_WRITES) {
        list.push("SELECT put(g, 'limited') FROM generate_series(1, 3) g");
    }
    let sql = r.pick(&list);
    let (s, p) = (name(r), portal(r));
    if !s.is_empty() {
        out.push(Some(Message::Close(b'S', s.into())));
    }
    out.extend([Some(Message::parse(s, sql)), Some(Message::bind(p, s))]);
    for _ in 0..r.between(1, 4) {
        out.push(Some(Message::execute(p, r.pick(&[0, 1, 2, 2, 3]))));
        match r.below(8) {
            0 | 1 => out.push(Some(Message::Sync)),
            2 => out.push(Some(Message::Flush)),
            3 => out.extend([Some(Message::Sync), None]),
            4 => out.push(Some(Message::Describe(b'P', p.into()))),
            _ => {}
        }
    }
    if r.percent(30) {
        out.push(Some(Message::Close(b'P', p.into())));
    }
    out.push(Some(Message::Sync));
    if in_block && r.percent(80) {
        out.push(Some(Message::query(r.pick(&["COMMIT", "COMMIT", "ROLLBACK"]))));
    }
}

fn block(r: &mut Random, out: &mut Messages) {
    out.push(Some(Message::query("BEGIN")));
    for _ in 0..r.between(1, 4) {
        match r.below(3) {
            0 => one_shot(r, out),
            1 => out.push(Some(Message::query(statement(r)))),
            _ => out.extend([None, Some(Message::query(statement(r)))]),
        }
    }
    out.push(Some(Message::query(r.pick(&["COMMIT", "COMMIT", "COMMIT", "ROLLBACK", "END"]))));
}

fn describe_only(r: &mut Random, out: &mut Messages) {
    let s = name(r);
    if r.percent(50) {
        out.push(Some(Message::Close(b'S', s.into())));
    }
    let sql = if r.percent(60) { parametrised(r).sql.to_owned() } else { for_extended(r) };
    out.extend([Some(Message::parse(s, sql)), Some(Message::Describe(b'S', s.into()))]);
    out.push(Some(if r.percent(50) { Message::Sync } else { Message::Flush }));
    out.push(Some(Message::Sync));
}

fn copy_text(r: &mut Random) -> &'static str {
    r.pick(&[
        "COPY nokey FROM STDIN",
        "COPY nokey FROM STDIN",
        "COPY nokey (x) FROM STDIN",
        "COPY t FROM STDIN",
        "COPY u (k, v) FROM STDIN (FORMAT csv)",
        "COPY m (id, mood) FROM STDIN",
    ])
}

fn copy_data(r: &mut Random, out: &mut Messages) {
    for _ in 0..r.between(0, 4) {
        let n = r.between(5, 40);
        let data = match r.below(14) {
            0 => "nonsense\tx\n".to_owned(),
            1 => format!("{n}\tcut"),
            2 => format!("{n}\ttoo\tmany\tcolumns\there\n"),
            3 => "\\.\n".to_owned(),
            4 => String::new(),
            5 => format!("k{n},7\n"),
            6 => format!("{n}\n"),
            7 => format!("{n}\tok\n"),
            8 => "\\N\t\\N\n".into(),
            _ => format!("{n}\tline\n{}\t\\N\n", n + 41),
        };
        out.push(Some(Message::CopyData(data.into_bytes())));
        match r.below(14) {
            0 => out.push(Some(Message::Flush)),
            1 if on(topics::SYNC_IN_COPY) => out.push(Some(Message::Sync)),
            2 => out.push(None),
            _ => {}
        }
    }
    out.push(Some(if r.percent(80) { Message::CopyDone } else { Message::CopyFail("changed my mind".into()) }));
}

fn copy_in(r: &mut Random, out: &mut Messages) {
    let mut sql = copy_text(r).to_owned();
    if r.percent(25) {
        let other = statement(r);
        if parses(&other) && !is_block_control(&other) {
            sql = if r.percent(50) { format!("{sql}; {other}") } else { format!("{other}; {sql}") };
        }
    }
    out.push(Some(Message::query(sql)));
    if r.percent(60) {
        out.push(None);
    }
    copy_data(r, out);
}

fn copy_in_extended(r: &mut Random, out: &mut Messages) {
    if r.percent(30) {
        prepare_and_execute(r, "", "", out);
    }
    out.extend([Some(Message::parse("", copy_text(r))), Some(Message::bind("", "")), Some(Message::execute("", 0))]);
    match r.below(4) {
        // As libpq does: Sync at once, which the server ignores while it copies.
        0 => out.push(Some(Message::Sync)),
        1 => out.extend([Some(Message::Flush), None]),
        _ => {}
    }
    copy_data(r, out);
    if r.percent(30) {
        prepare_and_execute(r, "", "", out);
    }
    out.push(Some(Message::Sync));
}

fn function_call(r: &mut Random, out: &mut Messages) {
    // int4pl(integer, integer): OID 177 on every server.
    let arguments = r.pick(&[
        &b"\0\0\0\xb1\0\0\0\x02\0\0\0\x011\0\0\0\x012\0\0"[..],
        b"\0\0\0\xb1\0\0\0\x01\0\0\0\x011\0\0",
        b"\0\0\0\x01\0\0\0\0\0\0",
    ]);
    out.push(Some(Message::Other(b'F', arguments.to_vec())));
}

/// What no driver sends.
fn abuse(r: &mut Random, out: &mut Messages) {
    if r.percent(40) {
        simple(r, out);
    }
    let m = match r.below(22) {
        0 => Message::bind("", "nobody"),
        1 => Message::execute("nobody", 0),
        2 => Message::Describe(b'S', "nobody".into()),
        3 => Message::Describe(b'P', "nobody".into()),
        4 => Message::Close(b'S', "nobody".into()),
        5 => Message::Describe(b'Z', "x".into()),
        6 => Message::Close(b'Z', "x".into()),
        7 => Message::CopyData(b"out of place".to_vec()),
        8 => Message::CopyDone,
        9 => Message::CopyFail("out of place".into()),
        10 => Message::Other(r.pick(b"yZ1?\x00\xffRK"), b"unknown".to_vec()),
        11 => Message::Other(b'Q', b"no terminator".to_vec()),
        12 => Message::Other(b'P', b"half".to_vec()),
        13 => Message::Other(b'B', b"\0\0\0\x05".to_vec()),
        14 => Message::Other(b'E', b"\0\0".to_vec()),
        15 => Message::Other(b'S', b"too much".to_vec()),
        16 => Message::Other(b'B', b"\0\0\0\0\0\x01\0\0\0\xff\0\0".to_vec()),
        17 => Message::Other(b'Q', b"SELECT 1\0SELECT 2\0".to_vec()),
        18 => Message::Other(b'Q', b"SELECT '\xff\xfe'\0".to_vec()),
        19 => Message::Raw(b"Q\xff\xff\xff\xff".to_vec()),
        20 => Message::Raw(b"Q\0\0\0\x01".to_vec()),
        _ => Message::Other(b'p', b"password\0".to_vec()),
    };
    out.push(Some(m));
    out.push(Some(Message::Sync));
}
