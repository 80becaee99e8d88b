//! The client's messages: taken from its bytes, kept until their turn comes, and handed on.

use std::collections::VecDeque;

use bytes::Bytes;

use super::io::Cx;
use super::link::Link;
use super::{Request, Session, Stage, held};
use crate::wire::PgError;
use crate::wire::frame::{Frame, FrameError};

impl Session {
    /// Bytes of the client: frames first, then as many requests as can go.
    pub(super) fn client_bytes(&mut self, bytes: Bytes, cx: &mut Cx<'_>) {
        let mut rest = bytes;
        self.heard = cx.io.now();
        if matches!(self.stage, Stage::Startup(_)) {
            match self.startup_bytes(rest, cx) {
                Some(more) => rest = more,
                None => return,
            }
        }
        if self.broken.is_some() {
            return;
        }
        if !rest.is_empty() {
            self.framer.push(rest);
        }
        loop {
            match self.framer.next_frame() {
                Ok(Some(frame)) => {
                    self.inbox_bytes += frame.raw.len();
                    self.inbox.push_back(frame);
                }
                Ok(None) => break,
                Err(e) => {
                    let mut error = PgError::fatal("08P01", e.to_string());
                    let limit = cx.env.max_message_size();
                    if self.admitted && matches!(e, FrameError::TooLarge { limit: l, .. } if l == limit) {
                        error = error.hint("max_message_size sets this limit.");
                    }
                    if !self.admitted || self.in_copy() {
                        return self.fatal(&error, cx);
                    }
                    self.broken = Some(error);
                    break;
                }
            }
        }
        self.pump(cx);
        let high = held::inbox_high(cx.io.queue_high());
        if self.inbox_bytes > high && !self.client_paused && self.can_wait() {
            self.client_paused = true;
            cx.io.pause(self.client);
        }
    }

    /// The head of the inbox does not depend on what follows it.
    fn can_wait(&self) -> bool {
        self.inbox.len() > 1
    }

    /// As much of the client has come as is kept: nothing waits for more of it.
    pub(super) fn is_crowded(&self, cx: &Cx<'_>) -> bool {
        self.inbox_bytes > held::inbox_high(cx.io.queue_high())
    }

    /// Looks at the client's messages until one must wait.
    pub(super) fn pump(&mut self, cx: &mut Cx<'_>) {
        while self.may_go_on(cx) {
            let Some(frame) = self.inbox.front().cloned() else { break };
            // Nobody knows yet whether the block that it stands in is lost.
            if frame.tag != b'X' && self.limbo.is_some() {
                break;
            }
            let went = match self.stage {
                Stage::Password(_) => self.password_frame(&frame, cx),
                Stage::Ready => self.frame(&frame, cx),
                _ => false,
            };
            if !went {
                break;
            }
            self.inbox_bytes -= frame.raw.len();
            self.inbox.pop_front();
        }
        if self.inbox.is_empty() && self.inbox.capacity() > held::QUEUE_KEPT {
            // A client that sent very many messages at once once may be idle from now on.
            self.inbox = VecDeque::new();
        }
        // What came before it is answered first; COPY data that will not come is not waited for.
        if self.inbox.is_empty() && self.broken.is_some() && (self.in_copy() || self.barriers(cx) && self.is_quiet()) {
            if let Some(error) = self.broken.take() {
                return self.fatal(&error, cx);
            }
        }
        let low = held::inbox_high(cx.io.queue_high()) / 2;
        if self.client_paused && self.inbox_bytes <= low && !matches!(self.stage, Stage::Over) {
            self.client_paused = false;
            cx.io.resume(self.client);
        }
    }

    /// The client is sending COPY data.
    pub(super) fn in_copy(&self) -> bool {
        self.batch.copy || matches!(&self.request, Request::Simple(s) if s.in_copy())
    }

    fn may_go_on(&self, cx: &Cx<'_>) -> bool {
        let waits = self.cancels > 0 || self.catalogue_asked.is_some() || self.wanted.waits();
        if waits || self.commit.is_some() || self.after_rollback.is_some() {
            return false;
        }
        if cx.env.membership.is_held() && matches!(self.stage, Stage::Ready) {
            return false;
        }
        let crowded = |l: &Link| cx.io.queued(l.conn) > cx.io.queue_high();
        if self.lane.as_ref().is_some_and(crowded) {
            return false;
        }
        match &self.request {
            Request::None => true,
            Request::Simple(s) => s.in_copy(),
            Request::Function | Request::ImplicitEnd | Request::ExecuteEnd => false,
        }
    }

    /// One message of the client. False: it must wait.
    pub(super) fn frame(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        if matches!(frame.tag, b'Q' | b'F') && self.skips_request(cx) {
            return true;
        }
        if let Some(went) = self.lost_frame(frame, cx) {
            return went;
        }
        match frame.tag {
            b'X' => {
                self.end(cx);
                true
            }
            b'd' | b'c' | b'f' => self.copy_frame(frame, cx),
            // In COPY mode the server ignores Sync and Flush and fails on anything else.
            _ if self.in_copy() => self.copy_frame(frame, cx),
            b'Q' => self.simple_query(frame, cx),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' => self.extended(frame, cx),
            b'F' => self.function_call(frame, cx),
            _ if !self.barriers(cx) => false,
            tag => {
                let e = PgError::fatal("08P01", format!("invalid frontend message type {tag}"));
                self.fatal(&e, cx);
                true
            }
        }
    }
}
