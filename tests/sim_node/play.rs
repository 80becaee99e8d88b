//! Plays a script on either kind of server, and writes down what the client saw.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use pglockstep::wire::front;

use super::script::{Action, Piece, Script};

/// A server with named sessions.
pub trait Sessions {
    /// Opens a session: the start-up packet has not been sent.
    fn open(&mut self, name: &str);
    /// Sends bytes on it; answers up to so many ReadyForQuery are awaited.
    fn send(&mut self, name: &str, bytes: &[u8], awaited: usize);
    /// Until every session is answered, closed, or waits for a lock.
    fn settle(&mut self);
    /// What has come since the last call, and whether the connection is closed.
    fn received(&mut self, name: &str) -> (Vec<u8>, bool);
    fn gone(&mut self, name: &str);
    fn terminate(&mut self, name: &str);
    fn cancel(&mut self, name: &str);
    /// deadlock_timeout passes.
    fn tick(&mut self);
}

/// A client's end.
#[derive(Default)]
struct Client {
    buffer: Vec<u8>,
    /// ReadyForQuery that have not come.
    owed: usize,
    closed: bool,
    answer: Vec<String>,
}

/// What the client saw, line by line.
pub fn play(script: &Script, server: &mut dyn Sessions) -> Vec<String> {
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    let mut transcript = Vec::new();
    for sql in &script.setup {
        let mut client = Client { answer: Vec::new(), ..open(server, "setup") };
        let mut out = BytesMut::new();
        front::query(&mut out, sql.as_bytes());
        server.send("setup", &out, 1);
        client.owed = 1;
        server.settle();
        client.read(server.received("setup"));
        let answer = client.answer.join(" ");
        assert!(client.owed == 0 && !answer.contains("ERROR"), "{}: setup {sql}: {answer}", script.title);
        server.send("setup", front::TERMINATE, 0);
        server.settle();
    }
    for (i, line) in script.lines.iter().enumerate() {
        let name = line.session.clone();
        if line.action.speaks() && !clients.contains_key(&name) {
            clients.insert(name.clone(), Client { answer: Vec::new(), ..open(server, &name) });
        }
        let (bytes, awaited) = encode(&line.action);
        match &line.action {
            Action::Gone => server.gone(&name),
            Action::Terminate => server.terminate(&name),
            Action::Cancel => server.cancel(&name),
            Action::Tick => server.tick(),
            _ => {
                clients.get_mut(&name).expect("opened above").owed += awaited;
                server.send(&name, &bytes, awaited);
            }
        }
        server.settle();
        if let Action::Gone = line.action {
            clients.remove(&name);
        }
        for (other, client) in &mut clients {
            client.read(server.received(other));
            let answer = std::mem::take(&mut client.answer).join(" ");
            let waits = if client.owed > 0 && !client.closed { " waits" } else { "" };
            if !answer.is_empty() || (*other == name && !waits.is_empty()) {
                transcript.push(format!("{i}> {other}: {answer}{waits}"));
            }
        }
    }
    transcript
}

fn open(server: &mut dyn Sessions, name: &str) -> Client {
    server.open(name);
    let mut out = BytesMut::new();
    front::startup(&mut out, [("user", "postgres"), ("database", "postgres"), ("application_name", name)]);
    server.send(name, &out, 1);
    server.settle();
    let mut client = Client { owed: 1, ..Client::default() };
    client.read(server.received(name));
    assert_eq!(client.owed, 0, "no login: {:?}", client.answer);
    client
}

/// What a login is answered.
pub fn login(server: &mut dyn Sessions) -> Vec<String> {
    open(server, "s1").answer
}

impl Action {
    fn speaks(&self) -> bool {
        matches!(self, Action::Query(_) | Action::Send(_) | Action::Pipeline(_) | Action::Copy(..))
    }
}

fn encode(action: &Action) -> (BytesMut, usize) {
    let mut out = BytesMut::new();
    let mut awaited = 1;
    match action {
        Action::Query(sql) => front::query(&mut out, sql.as_bytes()),
        Action::Send(list) => {
            list.iter().for_each(|sql| front::query(&mut out, sql.as_bytes()));
            awaited = list.len();
        }
        Action::Copy(sql, data) => {
            front::query(&mut out, sql.as_bytes());
            // In two parts, so that a line is cut.
            let middle = data.len() / 2;
            for part in [&data[..middle], &data[middle..]] {
                pglockstep::wire::back::message(&mut out, b'd', |b| b.put_slice(part.as_bytes()));
            }
            out.put_slice(front::COPY_DONE);
        }
        Action::Pipeline(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Sync => {
                        out.put_slice(front::SYNC);
                        awaited += 1;
                    }
                    Piece::Statement(sql, parameters) => {
                        front::parse(&mut out, "", sql.as_bytes(), &[]);
                        let mut rest = BytesMut::new();
                        rest.put_u16(0);
                        rest.put_u16(u16::try_from(parameters.len()).unwrap());
                        for p in parameters {
                            match p {
                                None => rest.put_i32(-1),
                                Some(text) => {
                                    rest.put_u32(u32::try_from(text.len()).unwrap());
                                    rest.put_slice(text.as_bytes());
                                }
                            }
                        }
                        rest.put_u16(0);
                        front::bind_raw(&mut out, "", "", &rest);
                        pglockstep::wire::back::message(&mut out, b'D', |b| b.put_slice(b"P\0"));
                        front::execute(&mut out, "", 0);
                    }
                }
            }
            out.put_slice(front::SYNC);
        }
        Action::Gone | Action::Terminate | Action::Cancel | Action::Tick => awaited = 0,
    }
    (out, awaited)
}

impl Client {
    fn read(&mut self, (bytes, closed): (Vec<u8>, bool)) {
        self.buffer.extend_from_slice(&bytes);
        while self.buffer.len() >= 5 {
            let length = u32::from_be_bytes(self.buffer[1..5].try_into().unwrap()) as usize;
            if self.buffer.len() < length + 1 {
                break;
            }
            let message: Vec<u8> = self.buffer.drain(..=length).collect();
            if message[0] == b'Z' {
                self.owed -= 1;
            }
            self.answer.push(show(message[0], &message[5..]));
        }
        if closed && !self.closed {
            self.closed = true;
            self.answer.push("closed".into());
        }
    }
}

/// One message, without what differs between any two servers (OIDs of tables, process ids).
fn show(tag: u8, body: &[u8]) -> String {
    let strings = |b: &[u8]| String::from_utf8_lossy(b).split('\0').map(str::to_owned).collect::<Vec<_>>();
    match tag {
        b'T' => {
            let mut rest = &body[2..];
            let mut fields = Vec::new();
            while let Some(end) = rest.iter().position(|b| *b == 0) {
                let name = String::from_utf8_lossy(&rest[..end]).into_owned();
                let f = &rest[end + 1..];
                let number = |at: usize| u32::from_be_bytes(f[at..at + 4].try_into().unwrap());
                let column = u16::from_be_bytes(f[4..6].try_into().unwrap());
                fields.push(format!("{name}:{}:{column}:{}", number(6), f[17]));
                rest = &f[18..];
            }
            format!("columns({})", fields.join(","))
        }
        b'D' => {
            let mut rest = &body[2..];
            let mut values = Vec::new();
            while rest.len() >= 4 {
                let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
                rest = &rest[4..];
                match usize::try_from(length) {
                    Err(_) => values.push("NULL".to_owned()),
                    Ok(n) => {
                        values.push(String::from_utf8_lossy(&rest[..n]).into_owned());
                        rest = &rest[n..];
                    }
                }
            }
            format!("({})", values.join(","))
        }
        b'E' | b'N' => {
            let all = strings(body);
            let field = |c: char| all.iter().find_map(|f| f.strip_prefix(c)).unwrap_or("").to_owned();
            let state = field('C');
            // Messages about syntax are the parser's own.
            let message = if state == "42601" { String::new() } else { format!(" '{}'", field('M')) };
            let detail = if state.starts_with("23") { format!(" '{}'", field('D')) } else { String::new() };
            format!("{} {state}{message}{}", field('S'), if detail == " ''" { "" } else { &detail })
        }
        b'C' => format!("[{}]", strings(body)[0]),
        b'Z' => format!("Z{}", char::from(body[0])),
        b'S' => format!("{{{}={}}}", strings(body)[0], strings(body)[1]),
        b'K' => "key".into(),
        b't' => format!("parameters({:?})", &body[2..]),
        other => char::from(other).to_string(),
    }
}
