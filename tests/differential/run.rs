//! Running a case on both sides, and telling what differs.

use super::case::{Case, Step};
use super::connection::{Connection, PATIENCE, SILENCE};
use super::message::Message;
use super::world::{DATABASE, State, World};
use pglockstep::sandbox::client::Target;
use std::time::Duration;

/// What the proxy refuses by name, as its README says: from there on the two sides are in different states, so the rest
/// of the case is not compared with the plain server, only the nodes with each other.
const REFUSALS: &[&str] = &[
    "a temporary table cannot be the source of a replicated write",
    "is the name of a temporary table of this session",
    "WHERE CURRENT OF is not replicated",
    "two-phase commit by the client is not supported",
    "a FunctionCall of the function with OID",
    "a query that may write was not fetched to its end",
];

/// How the two sides differ.
#[derive(Debug)]
pub struct Difference {
    /// One line that is the same for the same bug, mostly.
    pub kind: String,
    /// For a person.
    pub text: String,
    /// The servers must be started anew.
    pub broken: bool,
}

/// Both sides of one connection.
struct Pair {
    plain: Connection,
    proxy: Connection,
}

impl Pair {
    fn login(world: &World, alone: bool) -> Result<Pair, Difference> {
        let login = |target: &Target| Connection::login(target, DATABASE, alone);
        let refused = |e: String| Difference { kind: format!("login: {e}"), text: e, broken: true };
        let plain = login(&world.plain).map_err(refused)?;
        let proxy = login(&world.sandbox.summary.proxy()).map_err(refused)?;
        Ok(Pair { plain, proxy })
    }

    fn send(&mut self, message: &Message) {
        for side in [&mut self.plain, &mut self.proxy] {
            side.sent(message.tag());
        }
        self.plain.write(&message.encode());
        self.proxy.write(&message.encode());
    }

    /// Waits for both sides; false: the proxy hangs.
    fn settle(&mut self, patience: Duration) -> bool {
        self.plain.settle(0, SILENCE);
        self.proxy.settle(self.plain.lines.len(), patience)
    }

    fn refused(&self) -> Option<usize> {
        self.proxy.lines.iter().position(|l| l.contains("C=\"0A000\"") && REFUSALS.iter().any(|r| l.contains(r)))
    }

    /// The proxy has closed the session where the server says that the protocol was violated and goes on to Sync.
    fn closed_for_abuse(&self) -> Option<usize> {
        let (plain, proxy) = (&self.plain.lines, last_words(&self.proxy.lines));
        let (last, before) = proxy.split_last()?;
        let violation = plain.get(before.len()).is_some_and(|l| l.contains("C=\"08P01\""));
        (last == "closed" && violation && plain.starts_with(before)).then_some(before.len())
    }

    /// Compares what has come so far. Without `whole` only what both have, since the proxy may have more on its way.
    fn compare(&self, hangs: bool) -> Option<Difference> {
        let (plain, proxy) = (&self.plain.lines, &self.proxy.lines);
        if self.plain.parameters != self.proxy.parameters {
            return Some(differ(&self.plain.parameters, &self.proxy.parameters, false));
        }
        let (plain, proxy) = (&last_words(plain), &last_words(proxy));
        if self.closed_for_abuse().is_some() {
            return None;
        }
        let until = self.refused().unwrap_or(usize::MAX);
        let (a, b) = (&plain[..plain.len().min(until)], &proxy[..proxy.len().min(until)]);
        if a != b {
            return Some(differ(a, b, hangs && b.len() < a.len()));
        }
        let (a, b) = (&self.plain.notifications, &self.proxy.notifications);
        (until == usize::MAX && a != b).then(|| differ(a, b, false))
    }
}

/// Without the errors in which a session ends that has violated the protocol: a server sends none, one or two of them
/// (it logs some only, and some come with "protocol synchronization was lost"), the proxy one.
fn last_words(lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    if lines.last().is_some_and(|l| l == "closed") {
        lines.pop();
        while lines.last().is_some_and(|l| l.starts_with("E ") && l.contains("C=\"08P01\"")) {
            lines.pop();
        }
        lines.push("closed".into());
    }
    lines
}

fn differ(plain: &[String], proxy: &[String], hangs: bool) -> Difference {
    let at = plain.iter().zip(proxy).position(|(a, b)| a != b).unwrap_or(plain.len().min(proxy.len()));
    let nothing = if hangs { "(hangs)" } else { "(nothing)" };
    let line = |side: &[String]| side.get(at).cloned().unwrap_or_else(|| nothing.into());
    let mut text = String::new();
    for l in &plain[at.saturating_sub(8)..at] {
        text.push_str(&format!("   both  {l}\n"));
    }
    for (name, side) in [("server", plain), ("proxy", proxy)] {
        let side = side.get(at..).unwrap_or_default();
        for l in side.iter().take(8) {
            text.push_str(&format!("  {name:>6}  {l}\n"));
        }
        if side.is_empty() {
            text.push_str(&format!("  {name:>6}  {nothing}\n"));
        }
    }
    Difference { kind: format!("{} | {}", gist(&line(plain)), gist(&line(proxy))), text, broken: false }
}

/// What kind of message a line is: its type, and an error's severity, SQLSTATE and first words.
fn gist(line: &str) -> String {
    let words = if line.starts_with(['E', 'N']) { 6 } else { 2 };
    line.split(' ').take(words).collect::<Vec<_>>().join(" ")
}

/// Runs a case; `None`: both sides do the same.
pub fn run(world: &mut World, case: &Case, patience: Duration) -> Option<Difference> {
    if let Err(e) = world.reset() {
        return Some(Difference { kind: "no reset".into(), text: e, broken: true });
    }
    let count = case.connections();
    let mut pairs = Vec::new();
    for _ in 0..count {
        match Pair::login(world, count == 1) {
            Ok(pair) => pairs.push(pair),
            Err(d) => return Some(d),
        }
    }
    let (found, refused) = play(case, &mut pairs, patience);
    drop(pairs);
    if let Some(complaint) = world.complaint() {
        let text = found.map(|f| f.text).unwrap_or_default();
        return Some(Difference {
            kind: complaint.clone(),
            text: format!("the log says: {complaint}\n{text}"),
            broken: true,
        });
    }
    found.or_else(|| compare_states(world, refused))
}

fn play(case: &Case, pairs: &mut [Pair], patience: Duration) -> (Option<Difference>, bool) {
    for step in &case.steps {
        match step {
            Step::Send(c, m) => pairs[*c].send(m),
            Step::Await(c) => {
                let hangs = !pairs[*c].settle(patience);
                if let Some(d) = pairs[*c].compare(hangs) {
                    return (Some(d), false);
                }
                if pairs[*c].refused().or(pairs[*c].closed_for_abuse()).is_some() {
                    return (None, true);
                }
            }
        }
    }
    let mut refused = false;
    for pair in pairs {
        // Whatever state it is in: out of COPY, out of a batch, and a last answer behind which nothing comes.
        for m in [Message::CopyFail("the end".into()), Message::Sync, Message::query("SELECT 'the end'")] {
            pair.send(&m);
        }
        let hangs = !pair.settle(patience);
        if let Some(d) = pair.compare(hangs) {
            return (Some(d), false);
        }
        refused |= pair.refused().or(pair.closed_for_abuse()).is_some();
        pair.send(&Message::Other(b'X', Vec::new()));
        pair.plain.settle(usize::MAX, PATIENCE);
        pair.proxy.settle(usize::MAX, patience);
    }
    (None, refused)
}

fn compare_states(world: &World, refused: bool) -> Option<Difference> {
    let broken = |e: String| Some(Difference { kind: "no state".into(), text: e, broken: true });
    let states = match world.states() {
        Ok(s) => s,
        Err(e) => return broken(e),
    };
    let nodes = &states[1..];
    if let Some(i) = nodes.iter().position(|s| *s != nodes[0]) {
        return Some(states_differ("node 0", &nodes[0], &format!("node {i}"), &nodes[i], false));
    }
    (!refused && states[0] != states[1])
        .then(|| states_differ("the server", &states[0], "all nodes", &states[1], false))
}

fn states_differ(one: &str, a: &State, other: &str, b: &State, broken: bool) -> Difference {
    let lines =
        |s: &State| -> Vec<String> { s.definitions.lines().chain(s.contents.lines()).map(str::to_owned).collect() };
    let (a, b) = (lines(a), lines(b));
    let mut text = format!("{one} and {other} hold different things:\n");
    let mut kind = String::new();
    for (name, mine, theirs) in [(one, &a, &b), (other, &b, &a)] {
        for l in mine.iter().filter(|l| !theirs.contains(l)) {
            text.push_str(&format!("  {name}: {l}\n"));
            kind.push_str(&format!("{name}: {} ", gist(l)));
        }
    }
    Difference { kind, text, broken }
}
