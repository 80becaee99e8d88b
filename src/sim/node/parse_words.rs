//! Statements without expressions, read from their tokens: transactions, settings, LOCK.

use sqlparser::tokenizer::{Token, Word};

use super::sql::*;
use super::value::{Res, unknown};
use crate::wire::PgError;

/// A reader of the statements that have no expressions in them.
pub struct Words<'a> {
    pub tokens: &'a [Token],
    pub at: usize,
}

impl Words<'_> {
    /// Takes these keywords if they come next.
    fn take(&mut self, keywords: &str) -> bool {
        let wanted = keywords.split(' ');
        let is = |t: Option<&Token>, w: &str| matches!(t, Some(Token::Word(x)) if x.quote_style.is_none() && x.value.eq_ignore_ascii_case(w));
        if !wanted.clone().enumerate().all(|(i, w)| is(self.tokens.get(self.at + i), w)) {
            return false;
        }
        self.at += wanted.count();
        true
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

    fn string(&mut self) -> Res<String> {
        match self.next() {
            Some(Token::SingleQuotedString(s)) => Ok(s.clone()),
            _ => Err(self.error()),
        }
    }

    /// `None`: not one of these; sqlparser reads it.
    pub fn utility(&mut self) -> Res<Option<Statement>> {
        Ok(Some(if self.take("begin") {
            let _noise = self.take("transaction") || self.take("work");
            Statement::Begin { modes: self.modes()?, start: false }
        } else if self.take("start transaction") {
            Statement::Begin { modes: self.modes()?, start: true }
        } else if self.take("commit prepared") {
            Statement::CommitPrepared(self.string()?)
        } else if self.take("rollback prepared") {
            Statement::RollbackPrepared(self.string()?)
        } else if self.take("prepare transaction") {
            Statement::PrepareTransaction(self.string()?)
        } else if self.take("commit") || self.take("end") {
            let _noise = self.take("transaction") || self.take("work");
            Statement::Commit { chain: self.chain() }
        } else if self.take("rollback") || self.take("abort") {
            let _noise = self.take("transaction") || self.take("work");
            if self.take("to") {
                self.take("savepoint");
                Statement::RollbackTo(self.name()?)
            } else {
                Statement::Rollback { chain: self.chain() }
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
            let name = if self.take("session authorization") { "session_authorization".into() } else { self.guc()? };
            Statement::Reset(name)
        } else if self.take("show transaction isolation level") {
            Statement::Show("transaction_isolation".into())
        } else if self.take("show") {
            Statement::Show(self.guc()?)
        } else if self.take("discard all") {
            Statement::DiscardAll
        } else if self.take("deallocate") {
            self.take("prepare");
            if self.take("all") { Statement::Deallocate(None) } else { Statement::Deallocate(Some(self.name()?)) }
        } else if self.take("lock") {
            self.take("table");
            self.lock()?
        } else {
            return Ok(None);
        }))
    }

    fn chain(&mut self) -> bool {
        self.take("and chain") || {
            self.take("and no chain");
            false
        }
    }

    fn modes(&mut self) -> Res<Modes> {
        let mut modes = Modes::default();
        loop {
            if self.take("isolation level serializable") {
                modes.isolation = Some(Isolation::Serializable);
            } else if self.take("isolation level repeatable read") {
                modes.isolation = Some(Isolation::RepeatableRead);
            } else if self.take("isolation level read committed") {
                modes.isolation = Some(Isolation::ReadCommitted);
            } else if self.take("isolation level read uncommitted") {
                modes.isolation = Some(Isolation::ReadUncommitted);
            } else if self.take("read only") {
                modes.read_only = Some(true);
            } else if self.take("read write") {
                modes.read_only = Some(false);
            } else if self.take("not deferrable") || self.take("deferrable") {
                // Means something for SERIALIZABLE READ ONLY only, which is refused.
            } else {
                return Ok(modes);
            }
            self.symbol(&Token::Comma);
        }
    }

    /// A setting's name, dots included, in lower case: settings are found without regard to case.
    fn guc(&mut self) -> Res<String> {
        let mut name = self.name()?;
        while self.symbol(&Token::Period) {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(name.to_lowercase())
    }

    fn set(&mut self) -> Res<Statement> {
        if self.take("session characteristics as transaction") {
            return Ok(Statement::SetTransaction { modes: self.modes()?, session: true });
        }
        if self.take("constraints all") {
            let deferred = self.take("deferred");
            return if deferred || self.take("immediate") {
                Ok(Statement::SetConstraints { deferred })
            } else {
                Err(unknown("this SET CONSTRAINTS"))
            };
        }
        // SET SESSION AUTHORIZATION is a setting's name, SET SESSION x a scope.
        let local = self.take("local");
        if self.take("transaction") {
            return Ok(Statement::SetTransaction { modes: self.modes()?, session: false });
        }
        if self.take("session authorization") {
            return Ok(Statement::Set { name: "session_authorization".into(), value: self.value()?, local });
        }
        self.take("session");
        if self.take("role") {
            let _sign = self.take("to") || self.symbol(&Token::Eq);
            return Ok(Statement::Set { name: "role".into(), value: self.value()?, local });
        }
        if self.take("time zone") {
            return Ok(Statement::Set { name: "timezone".into(), value: self.value()?, local });
        }
        let name = self.guc()?;
        if !self.take("to") && !self.symbol(&Token::Eq) {
            return Err(self.error());
        }
        Ok(Statement::Set { name, value: self.value()?, local })
    }

    /// `None`: DEFAULT. Lists are joined as SHOW prints them.
    fn value(&mut self) -> Res<Option<String>> {
        if self.take("default") {
            return Ok(None);
        }
        let mut parts = Vec::new();
        loop {
            let sign = if self.symbol(&Token::Minus) { "-" } else { "" };
            parts.push(match self.next() {
                Some(Token::SingleQuotedString(s)) => s.clone(),
                Some(Token::Word(w)) => word(w),
                Some(Token::Number(n, _)) => format!("{sign}{n}"),
                _ => return Err(self.error()),
            });
            if !self.symbol(&Token::Comma) {
                return Ok(Some(parts.join(", ")));
            }
        }
    }

    fn lock(&mut self) -> Res<Statement> {
        let mut tables = Vec::new();
        loop {
            let mut table = self.name()?;
            if table == "public" && self.symbol(&Token::Period) {
                table = self.name()?;
            }
            tables.push(table);
            if !self.symbol(&Token::Comma) {
                break;
            }
        }
        let modes = [
            ("access share", LockMode::AccessShare),
            ("row share", LockMode::RowShare),
            ("row exclusive", LockMode::RowExclusive),
            ("share update exclusive", LockMode::ShareUpdateExclusive),
            ("share row exclusive", LockMode::ShareRowExclusive),
            ("share", LockMode::Share),
            ("exclusive", LockMode::Exclusive),
            ("access exclusive", LockMode::AccessExclusive),
        ];
        let mut mode = LockMode::AccessExclusive;
        if self.take("in") {
            let found = modes.into_iter().find(|(text, _)| self.take(text));
            mode = found.ok_or_else(|| self.error())?.1;
            self.take("mode");
        }
        Ok(Statement::Lock { tables, mode, nowait: self.take("nowait") })
    }
}

fn word(w: &Word) -> String {
    if w.quote_style.is_some() { w.value.clone() } else { w.value.to_lowercase() }
}
