//! A case: what one or two clients send, burst by burst. Its text form is what is kept of a failure.
//!
//! A line is a message (see `message.rs`), `@N` (what follows is sent by connection N), `--` (wait until the server has
//! answered everything) or a comment behind `#`.

use super::message::Message;

/// One step of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A connection sends a message.
    Send(usize, Message),
    /// A connection waits for all replies.
    Await(usize),
}

impl Step {
    /// Whose it is.
    pub fn connection(&self) -> usize {
        match self {
            Step::Send(c, _) | Step::Await(c) => *c,
        }
    }
}

/// A case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Case {
    pub steps: Vec<Step>,
}

impl Case {
    /// As a case file has it.
    pub fn text(&self) -> String {
        let (mut text, mut current) = (String::new(), 0);
        for step in &self.steps {
            if step.connection() != current {
                current = step.connection();
                text.push_str(&format!("@{current}\n"));
            }
            match step {
                Step::Send(_, m) => text.push_str(&m.line()),
                Step::Await(_) => text.push_str("--"),
            }
            text.push('\n');
        }
        text
    }

    /// From a case file.
    pub fn read(text: &str) -> Result<Case, String> {
        let (mut steps, mut current) = (Vec::new(), 0);
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            match line.strip_prefix('@') {
                Some(number) => current = number.parse().map_err(|_| format!("no connection: {line}"))?,
                None if line == "--" => steps.push(Step::Await(current)),
                None => steps.push(Step::Send(current, Message::read(line)?)),
            }
        }
        Ok(Case { steps })
    }

    /// How many connections it takes.
    pub fn connections(&self) -> usize {
        self.steps.iter().map(|s| s.connection() + 1).max().unwrap_or(1)
    }
}
