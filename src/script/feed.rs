//! How a script gets to one replica: as fast as that one takes it, and no faster.
//!
//! A script may still be growing when a replica is fed (early start), and it may be larger than memory. So an applier
//! keeps a [`Feed`], and whoever drives it asks for the next piece whenever there is room in the connection's queue.

use std::io;

use super::entry::{Entry, Script};
use super::packet::{PIECE, PacketWriter, Parts};

/// How far one replica has been fed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Feed {
    /// The next entry; those before it have been written whole.
    entry: usize,
    /// Inside a COPY: its next chunk.
    chunk: Option<usize>,
    /// What is left of a statement that is written in pieces.
    parts: Parts,
}

impl Feed {
    /// Number of entries of which the replica has been sent anything.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.entry + usize::from(self.chunk.is_some() || !self.parts.is_empty())
    }

    /// Everything that the script holds so far has been written.
    #[must_use]
    pub fn is_level(&self, script: &Script) -> bool {
        match script.entries().get(self.entry) {
            None => true,
            Some(Entry::Copy { data, .. }) if self.chunk.is_some() => {
                !data.is_complete() && self.chunk.is_some_and(|c| data.chunk(c).is_none())
            }
            Some(_) => false,
        }
    }

    /// Nothing more will be written. A server that awaits the data of a COPY would take no Sync for an answer (one that
    /// skips to Sync after an error takes this for nothing).
    pub fn break_off(&mut self, script: &Script, w: &mut PacketWriter<'_>) {
        let parts = std::mem::take(&mut self.parts);
        if let Some(entry) = script.entries().get(self.entry) {
            w.fill_up(&parts, entry.statement());
        }
        if self.chunk.take().is_some() {
            w.copy_fail();
        }
    }

    /// Writes the next piece: an entry, or a chunk of COPY data. False: there is none (yet).
    ///
    /// # Errors
    /// The spill file cannot be read.
    pub fn next(&mut self, script: &Script, w: &mut PacketWriter<'_>) -> io::Result<bool> {
        let Some(entry) = script.entries().get(self.entry) else { return Ok(false) };
        let Some(chunk) = self.chunk else {
            let s = entry.statement();
            if self.parts.is_empty() && s.length() > PIECE {
                self.parts = w.large(s, self.entry);
            }
            if !self.parts.is_empty() {
                if w.part(&mut self.parts, s, script)? {
                    return Ok(true);
                }
            } else {
                let (sql, bind) = (script.load(&s.sql)?, script.load(&s.bind)?);
                if let Some(p) = &s.prepare {
                    w.prepare(&script.load(&p.sql)?, &p.types, self.entry);
                }
                w.statement(&sql, &s.types, &bind, s.keep, Some(self.entry));
            }
            match entry {
                Entry::Copy { .. } => self.chunk = Some(0),
                Entry::Statement(_) | Entry::Setting(_) => self.entry += 1,
            }
            return Ok(true);
        };
        let Entry::Copy { data, .. } = entry else { return Ok(false) };
        if let Some(stored) = data.chunk(chunk) {
            w.raw(script.load(stored)?);
            self.chunk = Some(chunk + 1);
            return Ok(true);
        }
        if !data.is_complete() {
            return Ok(false);
        }
        w.copy_end();
        (self.entry, self.chunk) = (self.entry + 1, None);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Room;
    use super::super::entry::tests::{entry, make_spill};
    use super::super::packet::Prepared;
    use super::super::{Expect, check::Answer};
    use super::*;
    use bytes::Bytes;
    use std::collections::VecDeque;

    fn take(feed: &mut Feed, script: &Script, answers: &mut VecDeque<Answer>) -> Vec<u8> {
        let mut prepared = Prepared::default();
        let mut w = PacketWriter::new(&mut prepared, answers);
        while feed.next(script, &mut w).unwrap() {}
        w.finish().concat()
    }

    /// Whatever the moments at which a replica is fed, it is sent the same.
    #[test]
    fn a_script_that_grows_while_it_is_fed_is_sent_whole_and_in_order() {
        for limit in [usize::MAX, 1] {
            let room = &mut Room { limit, spill: &mut make_spill };
            let mut script = Script::default();
            let (mut early, mut answers, mut sent) = (Feed::default(), VecDeque::new(), Vec::new());
            let mut feed = |script: &Script| {
                sent.extend(take(&mut early, script, &mut answers));
                assert!(early.is_level(script));
            };
            script.add(entry("insert"), room).unwrap();
            feed(&script);
            let Entry::Statement(copy) = entry("copy t from stdin") else { unreachable!() };
            script.copy_begin(copy, room).unwrap();
            feed(&script);
            for _ in 0..30_000 {
                script.copy_data(b"d\0\0\0\x06x\n", room).unwrap();
                feed(&script);
            }
            script.copy_end(Expect::Success, room).unwrap();
            script.add(entry("update"), room).unwrap();
            feed(&script);
            let mut answers_at_once = VecDeque::new();
            let at_once = take(&mut Feed::default(), &script, &mut answers_at_once);
            assert!(sent == at_once && answers == answers_at_once && at_once.len() > 200_000);
        }
    }

    /// The server ignores Sync while it awaits the data, and neither side would ever say another word.
    #[test]
    fn a_copy_that_is_broken_off_is_told_so() {
        let room = &mut Room { limit: 1000, spill: &mut make_spill };
        let (mut script, mut feed) = (Script::default(), Feed::default());
        let Entry::Statement(copy) = entry("copy t from stdin") else { unreachable!() };
        script.copy_begin(copy, room).unwrap();
        take(&mut feed, &script, &mut VecDeque::new());
        let (mut prepared, mut answers) = (Prepared::default(), VecDeque::new());
        let mut w = PacketWriter::new(&mut prepared, &mut answers);
        feed.break_off(&script, &mut w);
        feed.break_off(&script, &mut w);
        assert_eq!(w.finish().concat(), crate::wire::front::COPY_FAIL);
    }

    /// However large a statement is, it is sent as it would be at once, in pieces.
    #[test]
    fn a_large_statement_is_sent_in_pieces_and_its_message_is_filled_up_where_it_is_broken_off() {
        let text = Bytes::from("insert ".repeat(30_000));
        for (limit, keep) in [(usize::MAX, true), (usize::MAX, false), (1, false)] {
            let room = &mut Room { limit, spill: &mut make_spill };
            let mut script = Script::default();
            let Entry::Statement(mut s) = entry("") else { unreachable!() };
            s.sql = text.clone().into();
            s.bind = Bytes::from(vec![7; 300_000]).into();
            s.types = std::sync::Arc::from([25, 23]);
            s.prepare =
                Some(Box::new(super::super::entry::Prepare { sql: text.clone().into(), types: s.types.clone() }));
            s.keep = keep;
            let (sql, types, bind) = (text.clone(), s.types.clone(), s.bind.memory().to_vec());
            script.add(Entry::Statement(s), room).unwrap();
            let mut answers = VecDeque::new();
            let sent = take(&mut Feed::default(), &script, &mut answers);
            let (mut prepared, mut at_once) = (Prepared::default(), VecDeque::new());
            let mut w = PacketWriter::new(&mut prepared, &mut at_once);
            w.prepare(&sql, &types, 0);
            w.statement(&sql, &types, &bind, keep, Some(0));
            assert!(sent == w.finish().concat() && answers == at_once);

            // Broken off after any number of pieces, what was sent is whole messages.
            for pieces in 1..20 {
                let (mut feed, mut prepared, mut answers) = (Feed::default(), Prepared::default(), VecDeque::new());
                let mut w = PacketWriter::new(&mut prepared, &mut answers);
                for _ in 0..pieces {
                    feed.next(&script, &mut w).unwrap();
                }
                feed.break_off(&script, &mut w);
                let sent = w.finish().concat();
                let mut at = 0;
                while at < sent.len() {
                    at += 1 + u32::from_be_bytes(sent[at + 1..at + 5].try_into().unwrap()) as usize;
                }
                assert_eq!(at, sent.len(), "after {pieces} pieces");
            }
        }
    }

    #[test]
    fn it_is_known_whether_a_replica_was_sent_what_was_taken_back() {
        let room = &mut Room { limit: 1000, spill: &mut make_spill };
        let (mut script, mut feed) = (Script::default(), Feed::default());
        script.add(entry("a"), room).unwrap();
        script.savepoint("s");
        script.add(entry("b"), room).unwrap();
        script.watch_taken_back();
        take(&mut feed, &script, &mut VecDeque::new());
        assert_eq!((feed.begun(), script.taken_back_to()), (2, None));
        script.rollback_to("s");
        script.add(entry("c"), room).unwrap();
        assert!(script.taken_back_to().is_some_and(|n| n < feed.begun()));
    }
}
