//! What clients say: messages of every kind, as the input's bytes choose them.

use bytes::{BufMut, BytesMut};

use super::Bytecode;
use super::backend::{bind, copy_data, function_call};
use crate::wire::{back::message, front, version};

/// Statements; `@` becomes the number by which an answer is known.
const STATEMENTS: &[&str] = &[
    "SELECT /*tok@*/ v FROM keys",
    "INSERT /*tok@*/ INTO keys VALUES (1, @)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "UPDATE keys SET v = 1 RETURNING id AS tok@",
    "BEGIN READ ONLY",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SET datestyle = 'ISO'",
    "SET LOCAL datestyle = 'ISO'",
    "COPY /*tok@*/ keys FROM STDIN",
    "COPY /*tok@*/ keys TO STDOUT",
    "SELECT /*tok@*/ f(1)",
    "CREATE TABLE x@ (a int)",
    "VACUUM keys",
    "CREATE DATABASE x@",
    "",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "PREPARE a AS SELECT /*tok@*/ v FROM keys",
    "EXECUTE /*tok@*/ a",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "LISTEN a",
    "CREATE TEMP TABLE scratch (a int)",
    "SELECT /*tok@*/ a FROM scratch",
    "DECLARE c CURSOR FOR SELECT 1",
    "FETCH /*tok@*/ c",
    "LOCK TABLE keys",
    "boom = /*tok@*/ 1",
    "SELECT /*tok@*/ boom",
    "CREATE ROLE r@ PASSWORD 'x'",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET CONSTRAINTS ALL DEFERRED",
    "PREPARE TRANSACTION 'x'",
    "SELECT /*tok@*/ pg_advisory_lock(1)",
    "NOTIFY a",
    "DELETE /*tok@*/ FROM keys WHERE id = @",
    "CALL /*tok@*/ p()",
    "ALTER ROLE r SET datestyle = 'ISO'",
    "START TRANSACTION READ WRITE",
    "END",
    "SELECT /*tok@*/ v FROM keys FOR UPDATE",
    "SELECT /*tok@*/ 'unterminated",
    ";;",
    "SELECT /*tok@*/ v FROM keys WHERE v = '\u{fffd}'",
];

const NAMES: &[&str] = &["", "a", "b", "c", "_pgls_r", "p"];

/// A client that speaks.
#[derive(Debug, Default)]
pub struct Speaker {
    number: u32,
}

impl Speaker {
    fn statement(&mut self, code: &mut Bytecode<'_>) -> String {
        self.number += 1;
        let pick = usize::from(code.byte());
        STATEMENTS[pick % STATEMENTS.len()].replace('@', &self.number.to_string())
    }

    fn text(&mut self, code: &mut Bytecode<'_>) -> Vec<u8> {
        let shape = code.byte();
        let mut text = self.statement(code);
        for _ in 0..(shape & 3) {
            text.push_str("; ");
            text.push_str(&self.statement(code));
        }
        let mut text = text.into_bytes();
        if shape & 0x70 == 0x70 {
            text.push(0xff);
        }
        if shape & 0xfc == 0x84 {
            text.resize(text.len() + 40 * usize::from(code.byte()), b' ');
        }
        text
    }

    /// Appends what the next bytes of the input mean.
    pub fn speak(&mut self, code: &mut Bytecode<'_>, out: &mut BytesMut) {
        let name = |code: &mut Bytecode<'_>| NAMES[usize::from(code.byte()) % NAMES.len()];
        match code.byte() % 24 {
            0..=2 => {
                let text = self.text(code);
                front::query(out, &text);
            }
            3 => {
                let types = [23, 0, 20_000];
                let name = name(code);
                let text = self.text(code);
                front::parse(out, name, &text, &types[..usize::from(code.byte()) % 4 % 3]);
            }
            4 => {
                let (portal, statement) = (name(code), name(code));
                bind(out, portal, statement, rest(code));
            }
            5 => front::describe(out, if code.byte() % 2 == 0 { b'S' } else { b'P' }, name(code)),
            6 => front::execute(out, name(code), u32::from(code.byte() % 3)),
            7 => front::close(out, if code.byte() % 2 == 0 { b'S' } else { b'P' }, name(code)),
            8 | 9 => out.extend_from_slice(front::SYNC),
            10 => out.extend_from_slice(front::FLUSH),
            11 => copy_data(out, &vec![b'x'; usize::from(code.byte()) * 4]),
            12 => out.extend_from_slice(front::COPY_DONE),
            13 => out.extend_from_slice(front::COPY_FAIL),
            14 => function_call(out, [952, 957, 955, 953, 954, 1][usize::from(code.byte()) % 6]),
            15 => out.extend_from_slice(front::TERMINATE),
            // Parse, Bind, Describe, Execute of one statement, unnamed or not, as drivers send them.
            16..=19 => {
                let (name, shape) = (name(code), code.byte());
                let text = self.statement(code);
                front::parse(out, name, text.as_bytes(), &[]);
                bind(out, "", name, front::BIND_NOTHING);
                if shape & 1 == 1 {
                    front::describe(out, b'P', "");
                }
                front::execute(out, "", u32::from(shape >> 6));
                if shape & 2 == 0 {
                    out.extend_from_slice(front::SYNC);
                }
            }
            20 => {
                // A message with a body that says nothing of the kind.
                let tag = b"QPBDECSHFdcfXp?"[usize::from(code.byte()) % 15];
                let length = usize::from(code.byte() % 12);
                message(out, tag, |b| b.put_slice(&(0..length).map(|_| code.byte()).collect::<Vec<_>>()));
            }
            21 => {
                // A length that lies.
                out.put_u8(b"QPBDECSHFdcfX"[usize::from(code.byte()) % 13]);
                out.put_u32([0, 3, u32::MAX, 1 << 24, 0x7fff_ffff][usize::from(code.byte()) % 5]);
            }
            22 => {
                let length = usize::from(code.byte() % 32);
                out.extend((0..length).map(|_| code.byte()));
            }
            _ => {
                // A COPY whose data comes at once.
                let (count, end) = (code.byte() % 4, code.byte());
                self.number += 1;
                front::query(out, format!("COPY /*tok{}*/ keys FROM STDIN", self.number).as_bytes());
                for _ in 0..count {
                    copy_data(out, b"1\t2\n");
                    if end & 0x40 != 0 {
                        out.extend_from_slice(front::SYNC);
                    }
                }
                out.extend_from_slice(if end & 1 == 0 { front::COPY_DONE } else { front::COPY_FAIL });
            }
        }
    }
}

/// The part of a Bind behind its names.
fn rest(code: &mut Bytecode<'_>) -> &'static [u8] {
    const RESTS: [&[u8]; 6] = [
        front::BIND_NOTHING,
        front::BIND_NOTHING_BINARY,
        &[0, 0, 0, 1, 0, 0, 0, 1, b'7', 0, 0],
        &[0, 1, 0, 1, 0, 1, 255, 255, 255, 255, 0, 0],
        &[0, 0, 255, 255],
        &[],
    ];
    RESTS[usize::from(code.byte()) % RESTS.len()]
}

/// What a client says first, as the byte says.
pub fn start(how: u8, code: &mut Bytecode<'_>, out: &mut BytesMut) {
    let refused = |out: &mut BytesMut, code: u32| {
        out.put_u32(8);
        out.put_u32(code);
    };
    match how >> 4 {
        1 => refused(out, version::SSL),
        2 => {
            refused(out, version::GSSENC);
            refused(out, version::SSL);
        }
        3 => front::cancel(out, 1, &[0, 0, 0, 1]),
        4 => {
            let length = usize::from(code.byte() % 40);
            out.extend((0..length).map(|_| code.byte()));
        }
        5 => refused(out, 2 << 16),
        _ => {}
    }
    let mut parameters = vec![("user", "u"), ("database", "d")];
    match how & 15 {
        1 => parameters.push(("replication", "database")),
        2 => parameters.push(("_pq_.x", "1")),
        3 => parameters.push(("application_name", "a")),
        4 => parameters.push(("options", "-c datestyle=ISO")),
        5 => parameters.clear(),
        _ => {}
    }
    front::startup(out, parameters);
}
