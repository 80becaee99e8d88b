//! What a server still owes, as a client can tell: so that a burst ends as soon as its last reply is there.
//!
//! Only for not having to wait. Where this is wrong (an error inside a COPY whose data was sent ahead), a moment's
//! silence ends the burst instead; what is compared is what came.

use std::collections::VecDeque;

/// Message types that were sent and are not answered.
#[derive(Default)]
pub struct Owed {
    queue: VecDeque<u8>,
    /// COPY FROM STDIN, and no end of the data has been sent.
    copy: bool,
    /// An error was told: everything up to Sync is skipped.
    skips: bool,
}

impl Owed {
    /// A message was sent. What is no message of the protocol (`None`) ends in an error at once, as a Query may.
    pub fn sent(&mut self, tag: Option<u8>) {
        let tag = tag.filter(|t| b"QPBDECSHdcfFX".contains(t)).unwrap_or(b'Q');
        match tag {
            b'c' | b'f' if self.copy => self.copy = false,
            b'd' => {}
            b'S' | b'H' if self.copy => {}
            _ if self.copy => {
                self.copy = false;
                self.queue.push_back(tag);
            }
            b'S' => {
                self.skips = false;
                self.queue.push_back(tag);
            }
            _ if self.skips => {}
            _ => self.queue.push_back(tag),
        }
        self.trim();
    }

    /// A message of the server's.
    pub fn received(&mut self, tag: u8) {
        let Some(&head) = self.queue.front() else { return };
        match (head, tag) {
            (_, b'N' | b'A' | b'S') => {}
            (b'Q' | b'F' | b'S', b'Z') => drop(self.queue.pop_front()),
            (b'Q' | b'E', b'G') => self.copy_begins(),
            (b'Q' | b'F' | b'S', _) => self.copy &= tag != b'E',
            (_, b'E') => {
                self.copy = false;
                while self.queue.front().is_some_and(|t| *t != b'S') {
                    self.queue.pop_front();
                }
                self.skips = self.queue.is_empty();
            }
            (b'P', b'1') | (b'B', b'2') | (b'C', b'3') | (b'D', b'T' | b'n') | (b'E', b'C' | b'I' | b's') => {
                self.queue.pop_front();
            }
            _ => {}
        }
        self.trim();
    }

    /// The server ignores Sync and Flush until the data ends.
    fn copy_begins(&mut self) {
        self.copy = true;
        while self.copy && self.queue.len() > 1 {
            self.copy = !matches!(self.queue.remove(1), Some(b'c' | b'f'));
        }
    }

    /// What needs no answer.
    fn trim(&mut self) {
        while matches!(self.queue.front(), Some(b'c' | b'f' | b'H')) {
            self.queue.pop_front();
        }
    }

    /// Nothing will come before more is sent.
    pub fn is_quiet(&self) -> bool {
        self.copy || !self.queue.iter().any(|t| matches!(t, b'Q' | b'F' | b'S' | b'H'))
    }
}
