//! COPY FROM STDIN: the client's data on its way to main.

use super::io::Cx;
use super::note::Note;
use super::owed::Whose;
use super::transaction::Target;
use super::{Request, Session};
use crate::wire::PgError;
use crate::wire::frame::Frame;

impl Session {
    /// A message of the client in COPY mode (or one that came too late for it, which PostgreSQL ignores).
    pub(super) fn copy_frame(&mut self, frame: &Frame, cx: &mut Cx<'_>) -> bool {
        let simple = matches!(&self.request, Request::Simple(s) if s.copy);
        if self.batch.copy_asked {
            return false;
        }
        if !simple && !self.batch.copy {
            // Data may be sent ahead of the server's word that it is wanted; what comes when it is not is ignored.
            return self.batch.skips() || self.barrier(self.target(), cx);
        }
        match frame.tag {
            b'd' => {
                let Some(lane) = &mut self.lane else { return true };
                let replicated = matches!(
                    lane.owed.head().map(|h| &h.whose),
                    Some(Whose::Client(Note::Write(p))) if p.copy
                );
                let conn = lane.conn;
                cx.io.send(conn, frame.raw.clone());
                self.copy_data = true;
                if replicated {
                    let added = self.with_script(cx, |open, room| open.script.copy_data(&frame.raw, room));
                    self.script_written(added, cx);
                }
            }
            b'c' | b'f' => {
                if let Request::Simple(s) = &mut self.request {
                    s.copy = false;
                }
                self.batch.copy = false;
                self.ignored_syncs = 0;
                if let Some(lane) = &mut self.lane {
                    // By the extended protocol what it is answered with stays in the server's buffer.
                    lane.unflushed = true;
                    lane.owed.copy_ends();
                    let conn = lane.conn;
                    cx.io.send(conn, frame.raw.clone());
                }
            }
            b'S' => self.ignored_syncs += usize::from(self.copy_data),
            b'H' => {}
            tag => {
                let e = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                self.fatal(&PgError::fatal("08P01", e), cx);
            }
        }
        true
    }

    /// CopyInResponse.
    pub(super) fn copy_in_begins(&mut self, target: Target, cx: &mut Cx<'_>) {
        if let Some(Whose::Client(Note::Write(p))) = self.link(target).and_then(|l| l.owed.head()).map(|h| &h.whose) {
            if p.copy {
                let statement = p.statement.clone();
                let begun = self.with_script(cx, |open, room| open.script.copy_begin(statement, room));
                self.script_written(begun, cx);
            }
        }
        self.copy_data = false;
        match &mut self.request {
            Request::Simple(s) => s.copy = true,
            _ => self.batch.copy = std::mem::take(&mut self.batch.copy_asked),
        }
    }
}
