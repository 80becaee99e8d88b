//! The one owner of owed replies.
//!
//! For each server connection of a session there is one queue of what that server still owes, in the order in which
//! it was asked. Every message of the server is held against the queue's head: the head says whose the message is
//! (the client's or the session's own) and what its completion means. A message that does not fit is a protocol
//! violation, and the session that saw it closes itself: no reply can ever reach the wrong request.
//!
//! Replies that the proxy gives itself (BEGIN answered locally, BindComplete of a COMMIT) stand in the same queue and
//! leave when everything before them has been answered.
//!
//! Source: "Message Flow" in PostgreSQL's protocol chapter; errors skip to the next Sync as `ignore_till_sync` in
//! `src/backend/tcop/postgres.c` does.

use std::collections::VecDeque;

use bytes::Bytes;

use super::note::Note;
use crate::sim::planted::{Planted, is};

/// What was asked, by the reply that completes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Query: any number of results, then ReadyForQuery.
    Query,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe of a statement: ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// Describe of a portal: RowDescription or NoData.
    DescribePortal,
    /// Execute: rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// FunctionCall: FunctionCallResponse, then ReadyForQuery.
    Function,
    /// Sync: ReadyForQuery.
    Sync,
}

/// What one of the session's own requests is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    /// BEGIN in front of the client's statement. Its failure is the statement's.
    Begin,
    /// The client's statement, prepared where it was not yet. Its failure is the client's.
    Prepare,
    /// Transaction id, now() and isolation level of the transaction on main.
    Info,
    /// What a statement of which nobody knows what it does has done: the transaction's id, if there is one now, and
    /// whether catalogues have changed.
    Opaque,
    /// The same in front of the first of them, to compare with.
    Baseline,
    /// Effective settings of the session on main.
    Settings,
    /// A SET of the client, brought to a reader.
    Replay,
    /// SET CONSTRAINTS ALL IMMEDIATE before the script is applied.
    Constraints,
    /// Whether main can prepare the transaction.
    Preparable,
    /// COMMIT of a transaction.
    Commit,
    /// ROLLBACK in the proxy's own name.
    Rollback,
    /// A sign of life of a backend that was idle for long.
    Check,
    /// A string of several statements, parsed as a whole before the first of them runs.
    Syntax,
    /// What `EXPLAIN (PGLOCKSTEP)` explains, parsed and never run. Its failure is the client's.
    Explain,
    /// Parameter types of what a PREPARE has prepared. Its failure is of no interest: PREPARE's own has been told.
    Types,
    /// SET TRANSACTION in place of a BEGIN that stands behind other statements. Its failure is the client's.
    Modes,
    /// A reader's isolation level, in a block whose BEGIN names none.
    Level,
    /// ROLLBACK of a block that leaves its reader for main.
    Leave,
    /// The tiny statement whose snapshot a READ ONLY block gets on a replica, inside the gate.
    Cut,
    /// The backend's default isolation level, seen to and told.
    Default,
    /// What a SHOW of the proxy's will show, set in front of it. Its failure is SHOW's.
    Token,
    /// The tiny statement with which a block on main takes its snapshot, whose token the client asks for. Its failure is
    /// that of the SHOW that waits.
    Seen,
    /// The session's `pglockstep.min_csn`. Its failure is that of the statement that waits.
    MinCsn,
    /// The catalogue as the transaction sees it. Its failure is that of the statement that waits.
    View,
    /// Whether main prints numbers exactly. Its failure is that of the statement that waits.
    Digits,
    /// Something whose outcome does not matter (Close of an own portal).
    Tidy,
}

/// Whose a reply is.
#[derive(Debug)]
pub enum Whose {
    /// Goes to the client; the note is taken when it completes.
    Client(Note),
    /// Goes to the session.
    Own(Own),
    /// Nothing is owed by the server: these bytes are the client's when this entry reaches the head.
    Local(Bytes, Note),
}

impl Whose {
    /// The client's write.
    #[must_use]
    pub fn write(&self) -> Option<&super::note::PendingWrite> {
        match self {
            Whose::Client(Note::Write(p)) => Some(p),
            _ => None,
        }
    }
}

/// How far the reply to a request is. What may follow is as `printtup.c`, `copyto.c`, `copyfromparse.c` and the
/// `exec_` functions of `postgres.c` send it: whatever else comes belongs to another request, or to none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Reply {
    /// Nothing of it has come.
    #[default]
    Nothing,
    /// RowDescription of a Query's statement, ParameterDescription of a Describe.
    Described,
    /// Rows of an Execute.
    Rows,
    /// One statement of a Query is complete; the function has returned.
    Complete,
    /// CopyInResponse: nothing but an error until the client has ended its data.
    CopyIn,
    /// CopyOutResponse.
    CopyOut,
    /// The data has ended, whoever sent it.
    CopyEnd,
}

/// One entry of the queue.
#[derive(Debug)]
pub struct Owed {
    /// What was asked. Meaningless for [`Whose::Local`].
    pub asked: Asked,
    /// Whose the reply is.
    pub whose: Whose,
    reply: Reply,
    /// An ErrorResponse has been seen for it (Query and Function: ReadyForQuery is still to come).
    pub failed: bool,
}

/// What a message of the server means for the head of the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fits {
    /// Part of the head's reply; more will come.
    Part,
    /// Completes the head's reply.
    Completes,
    /// An error that completes the head and skips everything up to the next Sync.
    FailsToSync,
    /// An error inside a Query, FunctionCall or Sync; its ReadyForQuery is still to come.
    Fails,
    /// Asynchronous: belongs to no request (ParameterStatus, NotificationResponse, NoticeResponse).
    Async,
    /// An error although nothing is owed: the server ends the connection (57P01 and the like).
    Farewell,
    /// Protocol violation.
    Not,
}

/// What was dropped when an error skipped to the next Sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// A Query (or FunctionCall) stood there: the server has skipped it and nothing will end it but a Sync.
    pub query: bool,
    /// The queue now begins with a Sync that is already under way.
    pub sync_sent: bool,
}

/// The queue of one server connection.
///
/// Bound: entries exist only for messages of the client's input window and the proxy's own few in front of them.
#[derive(Debug, Default)]
pub struct OwedQueue {
    queue: VecDeque<Owed>,
    /// An error has come: the server ignores everything up to the next Sync, and has nothing more to say before it.
    skipping: bool,
}

impl OwedQueue {
    /// Adds what has just been sent.
    pub fn push(&mut self, asked: Asked, whose: Whose) {
        self.queue.push_back(Owed { asked, whose, reply: Reply::Nothing, failed: false });
    }

    /// Nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A SET that was brought to a backend, the question for a sign of life or for its default level is not answered yet.
    #[must_use]
    pub fn prepares(&self) -> bool {
        self.queue.iter().any(|o| matches!(o.whose, Whose::Own(Own::Replay | Own::Check | Own::Default)))
    }

    /// The snapshot of a block is being taken.
    #[must_use]
    pub fn takes_cut(&self) -> bool {
        self.queue.iter().any(|o| matches!(o.whose, Whose::Own(Own::Cut)) && o.asked != Asked::Sync)
    }

    /// The client's part of it is of no interest any more: the request will be run elsewhere.
    pub fn disown_all(&mut self) {
        for o in self.queue.iter_mut().filter(|o| !matches!(o.whose, Whose::Own(_))) {
            o.whose = Whose::Own(Own::Tidy);
        }
    }

    /// The backend has not given the sign of life that it was asked for.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.queue.iter().any(|o| matches!(o.whose, Whose::Own(Own::Check)))
    }

    /// A reply of the client's is among them.
    #[must_use]
    pub fn owes_client(&self) -> bool {
        self.queue.iter().any(|o| !matches!(o.whose, Whose::Own(_)))
    }

    /// Nothing is owed to the client but the end of its block.
    #[must_use]
    pub fn ends_block(&self) -> bool {
        let mut clients = self.queue.iter().filter(|o| !matches!(o.whose, Whose::Own(_)));
        matches!(clients.next().map(|o| &o.whose), Some(Whose::Client(Note::Ended { .. }))) && clients.next().is_none()
    }

    /// A BEGIN is among what is still to be answered.
    #[must_use]
    pub fn begins_block(&self) -> bool {
        self.queue.iter().any(|o| matches!(o.whose, Whose::Local(_, Note::Begun(_))))
    }

    /// How many replies are owed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Who the next message is for.
    #[must_use]
    pub fn head(&self) -> Option<&Owed> {
        self.queue.front()
    }

    /// The head, to mark it.
    pub fn head_mut(&mut self) -> Option<&mut Owed> {
        self.queue.front_mut()
    }

    /// Takes the completed head.
    pub fn pop(&mut self) -> Option<Owed> {
        let head = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > super::held::QUEUE_KEPT {
            self.queue = VecDeque::new();
        }
        head
    }

    /// Takes a local reply if it is next.
    pub fn pop_local(&mut self) -> Option<(Bytes, Note)> {
        if !matches!(self.queue.front(), Some(Owed { whose: Whose::Local(..), .. })) {
            return None;
        }
        match self.queue.pop_front() {
            Some(Owed { whose: Whose::Local(bytes, note), .. }) => Some((bytes, note)),
            _ => None,
        }
    }

    /// What a message with this tag means for the head, which remembers that it has come.
    pub fn fits(&mut self, tag: u8) -> Fits {
        if matches!(tag, b'S' | b'A' | b'N') {
            return Fits::Async;
        }
        let Some(head) = self.queue.front_mut() else { return if tag == b'E' { Fits::Farewell } else { Fits::Not } };
        use Asked::*;
        use Reply::*;
        let ends_ready = matches!(head.asked, Query | Function | Sync);
        let next = match (head.asked, head.reply, tag) {
            (Query | Function, _, b'Z') if head.failed => return Fits::Completes,
            (Query | Function, Complete, b'Z') => return Fits::Completes,
            (Sync, _, b'Z') => {
                self.skipping = false;
                return Fits::Completes;
            }
            // Only ReadyForQuery may follow an error.
            _ if head.failed || self.skipping => return Fits::Not,
            (_, _, b'E') if ends_ready => {
                // An error at a Sync comes from ending the implicit transaction; its ReadyForQuery follows.
                head.failed = true;
                return Fits::Fails;
            }
            (_, _, b'E') => return Fits::FailsToSync,
            (Query, Nothing | Complete, b'T') | (Query, Described, b'D') => Described,
            (Query, Nothing | Complete | Described | CopyEnd, b'C') | (Query, Nothing | Complete, b'I') => Complete,
            (Query, Nothing | Complete, b'G') | (Execute, Nothing, b'G') => CopyIn,
            (Query, Nothing | Complete, b'H') | (Execute, Nothing, b'H') => CopyOut,
            (Query | Execute, CopyOut, b'd') => CopyOut,
            (Query | Execute, CopyOut, b'c') => CopyEnd,
            (Function, Nothing, b'V') => Complete,
            (DescribeStatement, Nothing, b't') => Described,
            (Execute, Nothing | Rows, b'D') => Rows,
            (Parse, _, b'1') | (Bind, _, b'2') | (Close, _, b'3') | (DescribePortal, _, b'T' | b'n') => {
                return Fits::Completes;
            }
            (DescribeStatement, Described, b'T' | b'n') => return Fits::Completes,
            (Execute, Nothing | Rows | CopyEnd, b'C') | (Execute, Nothing, b'I') => return Fits::Completes,
            (Execute, Nothing | Rows, b's') => return Fits::Completes,
            _ => return Fits::Not,
        };
        head.reply = next;
        Fits::Part
    }

    /// The client has ended its COPY data: the server may say that the COPY is complete.
    pub fn copy_ends(&mut self) {
        if let Some(head) = self.queue.front_mut().filter(|h| h.reply == Reply::CopyIn) {
            head.reply = Reply::CopyEnd;
        }
    }

    /// What the head's error makes fail. The proxy closes names of its own in front of something: if the server refuses
    /// that, it skips what stands behind it, and whoever waits for that must hear why.
    #[must_use]
    pub fn blamed(&self) -> Option<&Whose> {
        let closes = |o: &&Owed| o.asked == Asked::Close && matches!(o.whose, Whose::Own(Own::Tidy));
        let blamed = self.queue.iter().find(|o| !closes(o));
        let head = self.queue.front();
        blamed.filter(|o| o.asked != Asked::Sync && !matches!(o.whose, Whose::Local(..))).or(head).map(|o| &o.whose)
    }

    /// After an error: drops the head, and everything up to the next Sync, as the server does.
    pub fn skip_to_sync(&mut self) -> Skipped {
        self.queue.pop_front();
        self.skipping = true;
        let mut skipped = Skipped::default();
        while let Some(head) = self.queue.front() {
            if head.asked == Asked::Sync && !matches!(head.whose, Whose::Local(..)) {
                skipped.sync_sent = true;
                if is(Planted::NeighboursReply) {
                    self.queue.pop_front();
                }
                break;
            }
            skipped.query |=
                matches!(head.asked, Asked::Query | Asked::Function) && !matches!(head.whose, Whose::Local(..));
            self.queue.pop_front();
        }
        skipped
    }

    /// Forgets everything (the connection is gone).
    pub fn clear(&mut self) {
        self.queue.clear();
        self.skipping = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Whose {
        Whose::Client(Note::Nothing)
    }

    #[test]
    fn a_reply_that_was_not_asked_for_does_not_fit() {
        let mut q = OwedQueue::default();
        assert_eq!(q.fits(b'C'), Fits::Not);
        assert_eq!(q.fits(b'E'), Fits::Farewell);
        q.push(Asked::Parse, client());
        assert_eq!(q.fits(b'2'), Fits::Not);
        assert_eq!(q.fits(b'Z'), Fits::Not);
        assert_eq!(q.fits(b'1'), Fits::Completes);
        assert_eq!(q.fits(b'S'), Fits::Async);
    }

    #[test]
    fn a_reply_whose_parts_come_in_no_order_of_a_servers_does_not_fit() {
        let refused: [(Asked, &[u8], &[u8]); 8] = [
            (Asked::Query, b"", b"ZDdcsW12"),
            (Asked::Query, b"T", b"TZGI"),
            (Asked::Query, b"TDC", b"DVW"),
            (Asked::Query, b"TE", b"ECDT"),
            (Asked::Query, b"G", b"CZdcD"),
            (Asked::Execute, b"D", b"GHITZ"),
            (Asked::DescribeStatement, b"", b"TnZ"),
            (Asked::Function, b"", b"ZDC"),
        ];
        for (asked, before, wrong) in refused {
            for &tag in wrong {
                let mut q = OwedQueue::default();
                q.push(asked, client());
                before.iter().for_each(|&t| assert_ne!(q.fits(t), Fits::Not, "{asked:?} {}", char::from(t)));
                assert_eq!(q.fits(tag), Fits::Not, "{asked:?} {} behind {}", char::from(tag), before.escape_ascii());
            }
        }
        let mut q = OwedQueue::default();
        q.push(Asked::Query, client());
        assert_eq!(q.fits(b'G'), Fits::Part);
        q.copy_ends();
        assert_eq!((q.fits(b'C'), q.fits(b'Z')), (Fits::Part, Fits::Completes));
    }

    #[test]
    fn behind_an_error_a_server_says_nothing_but_that_it_is_ready() {
        let mut q = OwedQueue::default();
        q.push(Asked::Parse, client());
        q.push(Asked::Sync, client());
        q.push(Asked::Sync, client());
        assert_eq!(q.fits(b'E'), Fits::FailsToSync);
        assert!(q.skip_to_sync().sync_sent);
        assert_eq!(q.fits(b'E'), Fits::Not);
        assert_eq!(q.fits(b'Z'), Fits::Completes);
        q.pop();
        // This one ends an implicit transaction, which may fail.
        assert_eq!(q.fits(b'E'), Fits::Fails);
    }

    #[test]
    fn an_error_skips_local_replies_too_and_stops_at_the_sync_that_was_sent() {
        let mut q = OwedQueue::default();
        q.push(Asked::Execute, client());
        q.push(Asked::Bind, Whose::Local(Bytes::new(), Note::Nothing));
        q.push(Asked::Execute, client());
        q.push(Asked::Sync, client());
        q.push(Asked::Parse, client());
        assert_eq!(q.fits(b'E'), Fits::FailsToSync);
        assert_eq!(q.skip_to_sync(), Skipped { query: false, sync_sent: true });
        assert_eq!(q.len(), 2);
        assert_eq!(q.fits(b'Z'), Fits::Completes);
    }

    #[test]
    fn a_query_behind_a_failed_extended_request_is_known_to_be_skipped() {
        let mut q = OwedQueue::default();
        q.push(Asked::Execute, Whose::Own(Own::Begin));
        q.push(Asked::Parse, Whose::Client(Note::Named));
        q.push(Asked::Query, client());
        assert_eq!(q.skip_to_sync(), Skipped { query: true, sync_sent: false });
        assert!(q.is_empty());
    }
}
