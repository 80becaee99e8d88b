//! What nodes say that they should not.

use bytes::{BufMut, Bytes, BytesMut};

use super::Bytecode;
use super::world::{Check, World};
use crate::wire::PgError;
use crate::wire::back::{self, message};

/// Types of messages that servers send.
const TAGS: &[u8] = b"ZETDC12I3nstGHWdcVRKSANv?";

fn built(tag: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    message(&mut out, tag, |b| b.put_slice(body));
    out.freeze()
}

/// One message of this type, in order as far as that goes.
fn plausible(tag: u8, how: u8) -> Bytes {
    match tag {
        b'Z' => built(b'Z', &[b"ITE?"[usize::from(how) % 4]]),
        b'E' => PgError::error(["XX000", "25006", "57014", "25P02"][usize::from(how) % 4], "a lie").encode(),
        b'T' => built(b'T', b"\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"),
        b't' => built(b't', b"\0\0"),
        b'D' => built(b'D', b"\0\x01\0\0\0\x01x"),
        b'C' => back::command_complete(["COMMIT", "ROLLBACK", "INSERT 0 7", "BEGIN"][usize::from(how) % 4]),
        b'G' | b'H' | b'W' => built(tag, b"\0\0\0"),
        b'V' => built(b'V', b"\0\0\0\x01x"),
        b'R' => built(b'R', &[[0, 0, 0, how % 13].as_slice(), b"SCRAM-SHA-256\0\0"].concat()),
        b'K' => built(b'K', b"\0\0\0\x01\0\0\0\x01"),
        b'S' => back::parameter_status("datestyle", ["ISO", "German"][usize::from(how) % 2]),
        b'A' => built(b'A', b"\0\0\0\x01chan\0payload\0"),
        b'N' => {
            let mut e = PgError::error(if how % 4 == 3 { "57P01" } else { "00000" }, "a notice");
            e.severity = crate::wire::Severity::Warning;
            e.encode()
        }
        _ => built(tag, b""),
    }
}

/// A lie of this backend's, as the input chooses.
pub fn tell(index: usize, code: &mut Bytecode<'_>, world: &mut World) -> Check {
    let (op, how) = (code.byte(), code.byte());
    let tag = TAGS[usize::from(how) % TAGS.len()];
    // Numbers by which answers are known prove nothing behind these.
    let honest = op % 16 == 1 || op % 16 == 2 || (op % 16 == 0 && matches!(tag, b'S' | b'A' | b'N'));
    if !honest {
        world.dishonest();
    }
    let (mut lose, mut at_once) = (false, None);
    {
        let mut net = world.net.borrow_mut();
        let Some(c) = net.conns.get_mut(index) else { return Ok(()) };
        let cut = c.cut;
        let Some(backend) = &mut c.backend else { return Ok(()) };
        backend.lied |= !honest;
        // Of a message that has arrived in part the rest follows.
        let at = usize::from(cut > 0);
        let answers = &mut backend.answers;
        let next = answers.get(at).cloned();
        let insert =
            |answers: &mut std::collections::VecDeque<Bytes>, m: Bytes| answers.insert(at.min(answers.len()), m);
        match op % 16 {
            0 | 8 | 9 | 10 => insert(answers, plausible(tag, code.byte())),
            1 => {
                // It ends, as one that is terminated does.
                answers.truncate(at);
                insert(answers, PgError::fatal(["57P01", "57P03", "XX000"][usize::from(how) % 3], "the end").encode());
                backend.dies = true;
            }
            2 => {
                // It vanishes in the middle of a message.
                lose = true;
                if let Some(m) = answers.front() {
                    at_once = Some(m.slice(cut.min(m.len())..m.len().min(cut + usize::from(how))));
                }
            }
            3 => {
                answers.remove(at);
            }
            4 => next.into_iter().for_each(|m| insert(answers, m)),
            5 if answers.len() > at + 1 => answers.swap(at, at + 1),
            6 => {
                if let Some(m) = answers.get_mut(at) {
                    *m = [&[tag], &m[1..]].concat().into();
                }
            }
            7 => {
                let (place, byte) = (usize::from(code.byte()), code.byte());
                if let Some(m) = answers.get_mut(at) {
                    let mut raw = m.to_vec();
                    let place = place % raw.len();
                    raw[place] = byte;
                    *m = raw.into();
                }
            }
            11 => {
                let length = usize::from(how % 24);
                let raw: Vec<u8> = (0..length).map(|_| code.byte()).collect();
                insert(answers, raw.into());
            }
            12 => insert(answers, built(tag, &b"a body that says nothing"[..usize::from(code.byte()) % 24])),
            13 => insert(
                answers,
                [&[tag][..], &[[0, 0, 0, 0], [255; 4], [0, 0, 0, 3]][usize::from(how) % 3]].concat().into(),
            ),
            14 => {
                let ok = plausible(b'Z', how);
                insert(answers, ok);
                insert(answers, plausible(b'C', how));
            }
            _ => {
                if let Some(m) = answers.get_mut(at).filter(|m| m.len() > 5) {
                    let body = m.slice(5..m.len() - 1);
                    *m = built(m[0], &body);
                }
            }
        }
        // A message of no length at all would never be delivered.
        answers.retain(|m| !m.is_empty());
    }
    if let Some(bytes) = at_once.filter(|b| !b.is_empty()) {
        world.received(index, bytes)?;
    }
    if lose {
        world.lose(index)?;
    }
    Ok(())
}
