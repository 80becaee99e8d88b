//! Messages of a client, and how a case file writes them: one line each.
//!
//! | line | message |
//! |---|---|
//! | `Q "sql"` | Query |
//! | `P "name" "sql" OID ...` | Parse |
//! | `B "portal" "statement" f=1,0 r=1 "value" null ...` | Bind: formats of parameters and results, values |
//! | `D S "name"`, `D P "name"` | Describe of a statement, of a portal |
//! | `E "portal" ROWS` | Execute |
//! | `C S "name"`, `C P "name"` | Close |
//! | `S`, `H` | Sync, Flush |
//! | `d "data"`, `c`, `f "message"` | CopyData, CopyDone, CopyFail |
//! | `m T "body"` | a message of type T with this body |
//! | `raw "bytes"` | bytes as they are |
//!
//! Inside quotes `\n`, `\t`, `\"`, `\\` and `\xNN` stand for what they do elsewhere.

/// A message of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(u8, String),
    Execute(String, i32),
    Close(u8, String),
    Sync,
    Flush,
    CopyData(Vec<u8>),
    CopyDone,
    CopyFail(String),
    /// Type and body.
    Other(u8, Vec<u8>),
    /// No message at all, perhaps.
    Raw(Vec<u8>),
}

/// The parts of a Bind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bind {
    pub portal: String,
    pub statement: String,
    pub formats: Vec<i16>,
    pub values: Vec<Option<Vec<u8>>>,
    pub results: Vec<i16>,
}

impl Message {
    /// A Query.
    pub fn query(sql: impl Into<String>) -> Message {
        Message::Query(sql.into())
    }

    /// A Parse without parameter types.
    pub fn parse(name: &str, sql: impl Into<String>) -> Message {
        Message::Parse { name: name.into(), sql: sql.into(), types: Vec::new() }
    }

    /// A Bind without parameters, results as text.
    pub fn bind(portal: &str, statement: &str) -> Message {
        Message::Bind(Bind { portal: portal.into(), statement: statement.into(), ..Bind::default() })
    }

    /// An Execute.
    pub fn execute(portal: &str, rows: i32) -> Message {
        Message::Execute(portal.into(), rows)
    }

    /// The type byte; `None` for what is no message.
    pub fn tag(&self) -> Option<u8> {
        Some(match self {
            Message::Query(_) => b'Q',
            Message::Parse { .. } => b'P',
            Message::Bind(_) => b'B',
            Message::Describe(..) => b'D',
            Message::Execute(..) => b'E',
            Message::Close(..) => b'C',
            Message::Sync => b'S',
            Message::Flush => b'H',
            Message::CopyData(_) => b'd',
            Message::CopyDone => b'c',
            Message::CopyFail(_) => b'f',
            Message::Other(tag, _) => *tag,
            Message::Raw(_) => return None,
        })
    }

    /// The bytes that are sent.
    pub fn encode(&self) -> Vec<u8> {
        let Some(tag) = self.tag() else {
            let Message::Raw(bytes) = self else { unreachable!("only raw bytes have no type") };
            return bytes.clone();
        };
        let body = self.body();
        [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Message::Query(sql) => cstr(&mut body, sql),
            Message::Parse { name, sql, types } => {
                cstr(&mut body, name);
                cstr(&mut body, sql);
                numbers(&mut body, types.iter().map(|t| t.to_be_bytes()));
            }
            Message::Bind(b) => b.body(&mut body),
            Message::Describe(kind, name) | Message::Close(kind, name) => {
                body.push(*kind);
                cstr(&mut body, name);
            }
            Message::Execute(portal, rows) => {
                cstr(&mut body, portal);
                body.extend(rows.to_be_bytes());
            }
            Message::CopyFail(why) => cstr(&mut body, why),
            Message::CopyData(data) | Message::Other(_, data) => body.extend(data),
            Message::Sync | Message::Flush | Message::CopyDone | Message::Raw(_) => {}
        }
        body
    }

    /// As a line of a case file.
    pub fn line(&self) -> String {
        match self {
            Message::Query(sql) => format!("Q {}", quote(sql.as_bytes())),
            Message::Parse { name, sql, types } => {
                let types: String = types.iter().map(|t| format!(" {t}")).collect();
                format!("P {} {}{types}", quote(name.as_bytes()), quote(sql.as_bytes()))
            }
            Message::Bind(b) => b.line(),
            Message::Describe(kind, name) => format!("D {} {}", char::from(*kind), quote(name.as_bytes())),
            Message::Execute(portal, rows) => format!("E {} {rows}", quote(portal.as_bytes())),
            Message::Close(kind, name) => format!("C {} {}", char::from(*kind), quote(name.as_bytes())),
            Message::Sync => "S".into(),
            Message::Flush => "H".into(),
            Message::CopyData(data) => format!("d {}", quote(data)),
            Message::CopyDone => "c".into(),
            Message::CopyFail(why) => format!("f {}", quote(why.as_bytes())),
            Message::Other(tag, body) => format!("m {} {}", quote(&[*tag]), quote(body)),
            Message::Raw(bytes) => format!("raw {}", quote(bytes)),
        }
    }

    /// From a line of a case file.
    pub fn read(line: &str) -> Result<Message, String> {
        let words = words(line)?;
        let (what, rest) = words.split_first().ok_or("an empty line")?;
        let text = |at: usize| match rest.get(at) {
            Some(Word::Quoted(b)) => Ok(String::from_utf8_lossy(b).into_owned()),
            _ => Err(format!("quotes expected: {line}")),
        };
        let bytes = |at: usize| match rest.get(at) {
            Some(Word::Quoted(b)) => Ok(b.clone()),
            _ => Err(format!("quotes expected: {line}")),
        };
        let kind = || match rest.first() {
            Some(Word::Bare(k)) if k.len() == 1 => Ok(k.as_bytes()[0]),
            _ => Err(format!("S or P expected: {line}")),
        };
        let Word::Bare(what) = what else { return Err(format!("a message expected: {line}")) };
        Ok(match what.as_str() {
            "Q" => Message::Query(text(0)?),
            "P" => {
                let types = rest[2..].iter().map(Word::number).collect::<Result<_, _>>()?;
                Message::Parse { name: text(0)?, sql: text(1)?, types }
            }
            "B" => Message::Bind(Bind::read(text(0)?, text(1)?, &rest[2..])?),
            "D" => Message::Describe(kind()?, text(1)?),
            "E" => Message::Execute(text(0)?, rest.get(1).ok_or("rows expected")?.number()?),
            "C" => Message::Close(kind()?, text(1)?),
            "S" => Message::Sync,
            "H" => Message::Flush,
            "d" => Message::CopyData(bytes(0)?),
            "c" => Message::CopyDone,
            "f" => Message::CopyFail(text(0)?),
            "m" => Message::Other(*bytes(0)?.first().ok_or("a type expected")?, bytes(1)?),
            "raw" => Message::Raw(bytes(0)?),
            _ => return Err(format!("no such message: {line}")),
        })
    }
}

impl Bind {
    fn body(&self, body: &mut Vec<u8>) {
        cstr(body, &self.portal);
        cstr(body, &self.statement);
        numbers(body, self.formats.iter().map(|f| f.to_be_bytes()));
        body.extend((self.values.len() as u16).to_be_bytes());
        for v in &self.values {
            match v {
                Some(v) => {
                    body.extend((v.len() as u32).to_be_bytes());
                    body.extend(v);
                }
                None => body.extend((-1i32).to_be_bytes()),
            }
        }
        numbers(body, self.results.iter().map(|f| f.to_be_bytes()));
    }

    fn line(&self) -> String {
        let list = |name: &str, l: &[i16]| {
            let items: Vec<String> = l.iter().map(ToString::to_string).collect();
            if items.is_empty() { String::new() } else { format!(" {name}={}", items.join(",")) }
        };
        let value = |v: &Option<Vec<u8>>| v.as_ref().map_or(" null".to_owned(), |v| format!(" {}", quote(v)));
        format!(
            "B {} {}{}{}{}",
            quote(self.portal.as_bytes()),
            quote(self.statement.as_bytes()),
            list("f", &self.formats),
            list("r", &self.results),
            self.values.iter().map(value).collect::<String>()
        )
    }

    fn read(portal: String, statement: String, rest: &[Word]) -> Result<Bind, String> {
        let mut bind = Bind { portal, statement, ..Bind::default() };
        let list = |l: &str| -> Result<Vec<i16>, String> {
            l.split(',').map(|n| n.parse().map_err(|_| format!("no number: {n}"))).collect()
        };
        for word in rest {
            match word {
                Word::Quoted(v) => bind.values.push(Some(v.clone())),
                Word::Bare(w) if w == "null" => bind.values.push(None),
                Word::Bare(w) => match w.split_once('=') {
                    Some(("f", l)) => bind.formats = list(l)?,
                    Some(("r", l)) => bind.results = list(l)?,
                    _ => return Err(format!("not a part of a Bind: {w}")),
                },
            }
        }
        Ok(bind)
    }
}

fn cstr(body: &mut Vec<u8>, text: &str) {
    body.extend(text.as_bytes());
    body.push(0);
}

fn numbers<const N: usize>(body: &mut Vec<u8>, list: impl ExactSizeIterator<Item = [u8; N]>) {
    body.extend((list.len() as u16).to_be_bytes());
    body.extend(list.flatten());
}

enum Word {
    Bare(String),
    Quoted(Vec<u8>),
}

impl Word {
    fn number<T: std::str::FromStr>(&self) -> Result<T, String> {
        match self {
            Word::Bare(w) => w.parse().map_err(|_| format!("no number: {w}")),
            Word::Quoted(_) => Err("a number expected".into()),
        }
    }
}

/// Bytes between double quotes, on one line.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &b in bytes {
        match b {
            b'"' | b'\\' => text.extend(['\\', char::from(b)]),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            0x20..=0x7e => text.push(char::from(b)),
            _ => text.push_str(&format!("\\x{b:02x}")),
        }
    }
    text.push('"');
    text
}

fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (bytes, after) = unquote(quoted)?;
            words.push(Word::Quoted(bytes));
            rest = after.trim_start();
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            words.push(Word::Bare(rest[..end].to_owned()));
            rest = rest[end..].trim_start();
        }
    }
    Ok(words)
}

fn unquote(text: &str) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((bytes, &text[at + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => bytes.push(b'\n'),
                Some('t') => bytes.push(b'\t'),
                Some('x') => {
                    let code = text.get(at + 2..at + 4).and_then(|h| u8::from_str_radix(h, 16).ok());
                    bytes.push(code.ok_or(format!("two hexadecimal digits expected: {text}"))?);
                    chars.next();
                    chars.next();
                }
                Some(c) => bytes.extend(c.to_string().as_bytes()),
                None => break,
            },
            c => bytes.extend(c.to_string().as_bytes()),
        }
    }
    Err(format!("no closing quote: {text}"))
}
