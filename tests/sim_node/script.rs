//! The scripts' text form.
//!
//! ```text
//! == title
//! setup SQL; SQL
//! s1: SQL                      one Query message
//! s2: SQL => waits             it must not have been answered when everything has come to rest
//! s2: SQL => 40001             it must fail so
//! s1| SQL <- 1, NULL | sync | SQL    Parse, Bind, Describe, Execute of each, up to a Sync (one more at the end)
//! s1 send: SQL ;; SQL          several Query messages at once
//! s1 copy: COPY ... <- lines   with the escapes \t and \n
//! s1 gone · s1 terminate · s1 cancel · tick (until deadlock_timeout has passed)
//! unordered                    rows come in physical order somewhere in this script
//! ```

/// One line.
#[derive(Clone, Debug)]
pub enum Action {
    Query(String),
    Send(Vec<String>),
    Pipeline(Vec<Piece>),
    Copy(String, String),
    Gone,
    Terminate,
    Cancel,
    Tick,
}

/// A part of a pipeline.
#[derive(Clone, Debug)]
pub enum Piece {
    Statement(String, Vec<Option<String>>),
    Sync,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    pub session: String,
    pub action: Action,
    pub expect: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub file: String,
    pub title: String,
    pub setup: Vec<String>,
    pub lines: Vec<Line>,
    pub ordered: bool,
}

/// Reads a file of scripts. `$SETTINGS`, `$OPAQUE` and `$DEFAULT` are the proxy's own questions.
pub fn read(file: &str, text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            let title = title.to_owned();
            scripts.push(Script { file: file.into(), title, setup: Vec::new(), lines: Vec::new(), ordered: true });
            continue;
        }
        let script = scripts.last_mut().expect("a line before the first title");
        if let Some(sql) = line.strip_prefix("setup ") {
            script.setup.extend(sql.split("; ").map(str::to_owned));
        } else if line == "unordered" {
            script.ordered = false;
        } else {
            let line = line.replace("$SETTINGS", pglockstep::session::settings::QUERY);
            let line = line.replace("$DEFAULT", pglockstep::session::snapshot::DEFAULT);
            script.lines.push(one(&line.replace("$OPAQUE", pglockstep::session::transaction::OPAQUE)));
        }
    }
    scripts
}

fn one(text: &str) -> Line {
    let (rest, expect) = match text.rsplit_once(" => ") {
        Some((rest, expect)) => (rest.trim(), Some(expect.trim().to_owned())),
        None => (text, None),
    };
    let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
    let (session, rest) = rest.split_at(end);
    let action = if session == "tick" {
        Action::Tick
    } else if let Some(sql) = rest.strip_prefix(":") {
        Action::Query(sql.trim().to_owned())
    } else if let Some(list) = rest.strip_prefix(" send: ") {
        Action::Send(list.split(" ;; ").map(str::to_owned).collect())
    } else if let Some(copy) = rest.strip_prefix(" copy: ") {
        let (sql, data) = copy.split_once(" <- ").expect("copy needs data");
        Action::Copy(sql.to_owned(), data.replace("\\t", "\t").replace("\\n", "\n"))
    } else if let Some(list) = rest.strip_prefix("| ") {
        Action::Pipeline(list.split(" | ").map(piece).collect())
    } else {
        match rest.trim() {
            "gone" => Action::Gone,
            "terminate" => Action::Terminate,
            "cancel" => Action::Cancel,
            _ => panic!("not understood: {text}"),
        }
    };
    Line { text: text.to_owned(), session: session.to_owned(), action, expect }
}

fn piece(text: &str) -> Piece {
    if text.trim() == "sync" {
        return Piece::Sync;
    }
    let (sql, parameters) = text.split_once(" <- ").unwrap_or((text, ""));
    let parameters = parameters.split(", ").filter(|p| !p.is_empty());
    let value = |p: &str| (p.trim() != "NULL").then(|| p.trim().to_owned());
    Piece::Statement(sql.trim().to_owned(), parameters.map(value).collect())
}

impl Script {
    /// Expectations that a transcript does not meet: a line's own entry says `waits`, or names the SQLSTATE.
    pub fn unmet(&self, transcript: &[String]) -> String {
        let mut text = String::new();
        for (i, line) in self.lines.iter().enumerate() {
            let head = format!("{i}> ");
            let entries: Vec<&String> = transcript.iter().filter(|t| t.starts_with(&head)).collect();
            let own = format!("{head}{}: ", line.session);
            let answer = entries.iter().find(|t| t.starts_with(&own)).map_or("", |t| t.as_str());
            let met = match line.expect.as_deref() {
                None => !answer.contains("waits"),
                Some(wanted) => answer.contains(wanted),
            };
            if !met {
                text.push_str(&format!("  {}\n    {answer}\n", line.text));
            }
        }
        text
    }
}
