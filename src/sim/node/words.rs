//! Statements without expressions, read from their tokens: transactions and settings.

use sqlparser::tokenizer::{Token, Word};

use super::sql::*;
use super::value::{Res, unknown};
use crate::wire::PgError;

/// A reader of one statement.
pub struct Words<'a> {
    pub tokens: &'a [Token],
    pub at: usize,
}

impl Words<'_> {
    /// Takes these keywords if they come next.
    fn take(&mut self, keywords: &str) -> bool {
        let is = |t: Option<&Token>, word: &str| matches!(t, Some(Token::Word(w)) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
        let wanted = keywords.split(' ');
        let found = wanted.clone().enumerate().all(|(i, w)| is(self.tokens.get(self.at + i), w));
        self.at += if found { wanted.count() } else { 0 };
        found
    }

    /// Takes this token if it comes next.
    fn symbol(&mut self, token: &Token) -> bool {
        let found = self.tokens.get(self.at) == Some(token);
        self.at += usize::from(found);
        found
    }

    fn next(&mut self) -> Option<&Token> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn error(&self) -> PgError {
        let near = self.tokens.get(self.at.saturating_sub(1)).map(ToString::to_string).unwrap_or_default();
        PgError::error("42601", format!("syntax error at or near \"{near}\""))
    }

    fn name(&mut self) -> Res<String> {
        match self.next() {
            Some(Token::Word(w)) => Ok(word(w)),
            _ => Err(self.error()),
        }
    }

    /// `None`: not one of these; sqlparser reads it.
    pub fn statement(&mut self) -> Res<Option<Statement>> {
        Ok(Some(if self.take("begin") {
            self.noise();
            Statement::Begin(self.modes()?, "BEGIN")
        } else if self.take("start transaction") {
            Statement::Begin(self.modes()?, "START TRANSACTION")
        } else if self.take("prepare transaction") {
            Statement::PrepareTransaction(self.string()?)
        } else if self.take("commit prepared") {
            Statement::FinishPrepared { gid: self.string()?, commit: true }
        } else if self.take("rollback prepared") {
            Statement::FinishPrepared { gid: self.string()?, commit: false }
        } else if self.take("create trigger") {
            self.trigger()?
        } else if self.take("commit") || self.take("end") {
            self.noise();
            Statement::Commit
        } else if self.take("rollback") || self.take("abort") {
            self.noise();
            if self.take("to") {
                self.take("savepoint");
                Statement::RollbackTo(self.name()?)
            } else {
                Statement::Rollback
            }
        } else if self.take("savepoint") {
            Statement::Savepoint(self.name()?)
        } else if self.take("release") {
            self.take("savepoint");
            Statement::Release(self.name()?)
        } else if self.take("set") {
            self.set()?
        } else if self.take("reset all") {
            Statement::ResetAll
        } else if self.take("reset") {
            Statement::Set { name: self.name()?, value: None, local: false, tag: "RESET" }
        } else if self.take("show") {
            Statement::Show(self.name()?)
        } else if self.take("discard all") {
            Statement::DiscardAll
        } else if self.take("deallocate") {
            self.take("prepare");
            if self.take("all") { Statement::Deallocate(None) } else { Statement::Deallocate(Some(self.name()?)) }
        } else {
            return Ok(None);
        }))
    }

    fn string(&mut self) -> Res<String> {
        match self.next() {
            Some(Token::SingleQuotedString(s)) => Ok(s.clone()),
            _ => Err(self.error()),
        }
    }

    /// CREATE TRIGGER, of the only kind that is known.
    fn trigger(&mut self) -> Res<Statement> {
        self.name()?;
        let known = self.take("after insert or update or delete on");
        let table = self.name()?;
        let known = known && self.take("for each row execute function audit");
        if known && self.symbol(&Token::LParen) && self.symbol(&Token::RParen) {
            return Ok(Statement::CreateTrigger(table));
        }
        Err(unknown("this trigger"))
    }

    fn noise(&mut self) {
        let _word = self.take("transaction") || self.take("work");
    }

    fn modes(&mut self) -> Res<Modes> {
        let mut modes = Modes::default();
        loop {
            if self.take("isolation level repeatable read") {
                modes.isolation = Some(Isolation::RepeatableRead);
            } else if self.take("isolation level read committed") {
                modes.isolation = Some(Isolation::ReadCommitted);
            } else if self.take("isolation level serializable") {
                modes.isolation = Some(Isolation::Serializable);
            } else if self.take("isolation level") {
                return Err(unknown("this isolation level"));
            } else if self.take("read only") {
                modes.read_only = Some(true);
            } else if self.take("read write") {
                modes.read_only = Some(false);
            } else {
                return Ok(modes);
            }
            self.symbol(&Token::Comma);
        }
    }

    fn set(&mut self) -> Res<Statement> {
        if self.take("constraints all") {
            let deferred = self.take("deferred");
            return if deferred || self.take("immediate") {
                Ok(Statement::SetConstraints { deferred })
            } else {
                Err(self.error())
            };
        }
        if self.take("transaction") {
            return Ok(Statement::SetTransaction(self.modes()?));
        }
        let local = self.take("local");
        self.take("session");
        let name = self.name()?;
        if !self.take("to") && !self.symbol(&Token::Eq) {
            return Err(unknown(format!("this SET {name}")));
        }
        Ok(Statement::Set { name, value: self.value()?, local, tag: "SET" })
    }

    /// `None`: DEFAULT. Lists are joined as SHOW prints them.
    fn value(&mut self) -> Res<Option<String>> {
        if self.take("default") {
            return Ok(None);
        }
        let mut parts = Vec::new();
        loop {
            parts.push(match self.next() {
                Some(Token::SingleQuotedString(s)) => s.clone(),
                Some(Token::Word(w)) => word(w),
                Some(Token::Number(n, _)) => n.clone(),
                _ => return Err(self.error()),
            });
            if !self.symbol(&Token::Comma) {
                return Ok(Some(parts.join(", ")));
            }
        }
    }
}

fn word(w: &Word) -> String {
    if w.quote_style.is_some() { w.value.clone() } else { w.value.to_lowercase() }
}
