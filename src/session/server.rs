//! What the lane and the reader answer: relayed, kept, or taken for the session's own, as the queue of owed replies says.

use bytes::Bytes;

use super::elsewhere::Why;
use super::io::Cx;
use super::link::{parameter, violation};
use super::note::Note;
use super::owed::{Asked, Fits, Own, Whose};
use super::reader::Reader;
use super::rows::told_or_no_data;
use super::settings::Settings;
use super::transaction::{Columns, Target, Tx, read_info};
use super::{AfterRollback, Request, Session, Stage};
use crate::wire::error::ErrorFields;
use crate::wire::frame::Piece;
use crate::wire::{TxStatus, back, front};

/// Where the rest of a message goes that passes in parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Passing {
    /// Nowhere.
    #[default]
    Drop,
    /// To the client.
    Relay { digest: bool },
    /// It is a row of the session's own.
    Own,
    /// It is a row of which the client is told a part.
    Told,
}

impl Session {
    /// A connection to a node stands: the start-up packet leaves.
    pub(super) fn server_connected(&mut self, conn: crate::shard::driver::ConnId, cx: &mut Cx<'_>) {
        let link = if self.lane.as_ref().is_some_and(|l| l.conn == conn) {
            self.lane.as_mut()
        } else {
            match &mut self.reader {
                Reader::Opening(l) if l.conn == conn => Some(&mut **l),
                _ => self.applier_link(conn),
            }
        };
        if let Some(startup) = link.and_then(super::link::Link::connected) {
            cx.io.send(conn, startup);
        }
    }

    /// Bytes of a node.
    pub(super) fn server_bytes(&mut self, conn: crate::shard::driver::ConnId, bytes: Bytes, cx: &mut Cx<'_>) {
        if self.reset_received(conn, &bytes, cx) {
            return;
        }
        if let Some(lane) = self.lane.as_mut().filter(|l| l.conn == conn) {
            lane.framer.push(bytes);
            if !lane.is_ready() {
                self.lane_login(cx);
            }
            // A backend that is terminated right after its login says so in the same chunk.
            if self.lane.as_ref().is_some_and(|l| l.conn == conn && l.is_ready()) {
                self.relay(Target::Lane, cx);
            }
            return;
        }
        match &mut self.reader {
            Reader::Ready(l) if l.conn == conn => {
                l.framer.push(bytes);
                return self.relay(Target::Reader, cx);
            }
            Reader::Opening(l) if l.conn == conn => {
                l.framer.push(bytes);
                self.reader_login(cx);
                if matches!(&self.reader, Reader::Ready(l) if l.conn == conn) {
                    self.relay(Target::Reader, cx);
                }
                return;
            }
            _ => {}
        }
        if self.parked_received(conn, &bytes, cx) {
            return;
        }
        if let Some(i) = self.replica_at(conn) {
            self.applier_received(i, bytes, cx);
        }
    }

    /// Goes on with whatever waits: a simple query's step, or the next message.
    pub(super) fn pump_requests(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.request, Request::Simple(_)) {
            self.resume_step(cx);
        }
        self.pump(cx);
    }

    /// All pieces of the link's current chunk.
    fn relay(&mut self, target: Target, cx: &mut Cx<'_>) {
        let Some(chunk) = self.link(target).map(|l| l.framer.chunk().clone()) else { return };
        while let Some(link) = self.link(target) {
            match link.framer.next_piece() {
                Ok(Some(piece)) => self.server_message(target, &chunk, &piece, cx),
                Ok(None) => break,
                Err(e) => {
                    link.lies = true;
                    self.out.end_run(&chunk);
                    self.fatal(&violation(&e.to_string()), cx);
                    break;
                }
            }
        }
        self.out.end_run(&chunk);
        self.pump(cx);
    }

    fn server_message(&mut self, target: Target, chunk: &Bytes, piece: &Piece, cx: &mut Cx<'_>) {
        if piece.first && piece.last && self.is_farewell(target, piece.tag, bytes_of(chunk, piece)) {
            return;
        }
        let Some(link) = self.link(target) else { return };
        // While one link's message for the client has come in part, another link may answer the session itself.
        let for_client = if piece.first {
            !link.owed.head().is_some_and(|h| matches!(h.whose, Whose::Own(_)))
        } else {
            matches!(link.passing, Passing::Relay { .. } | Passing::Told)
        };
        if for_client {
            self.torn = !piece.last;
        }
        if !piece.first {
            return self.continued(target, chunk, piece, cx);
        }
        let Some(link) = self.link(target) else { return };
        let fits = match piece.tag {
            b'Z' if !is_ready(bytes_of(chunk, piece)) => Fits::Not,
            tag => link.owed.fits(tag),
        };
        link.lies |= fits == Fits::Not;
        // That it writes comes before that it was overtaken: main must know.
        let refuses = || piece.tag == b'E' && ErrorFields::parse(&bytes_of(chunk, piece)[5..]).sqlstate == "25006";
        if let Some(retry) = self.retry.as_mut().filter(|r| target == Target::Reader && r.why.is_some() && refuses()) {
            // BindComplete had shown that it was overtaken.
            retry.why = Some(Why::Refuted);
        }
        // Of the session's own requests in front of the read only an error is its answer.
        let answers = for_client || piece.tag == b'E';
        if target == Target::Reader && answers && !refuses() && self.is_overtaken(piece.tag, cx) {
            self.answer_elsewhere(chunk);
        } else if target == Target::Reader
            && for_client
            && self.may_still_go_elsewhere()
            && self.first_answer(chunk, piece)
        {
            return;
        }
        if target == Target::Lane {
            self.conflict_answer(piece.tag, chunk);
        }
        match fits {
            Fits::Async => self.asynchronous(target, chunk, piece),
            Fits::Part => self.part(target, chunk, piece, cx),
            Fits::Completes => self.completes(target, chunk, piece, cx),
            Fits::Fails => self.fails(target, chunk, piece, false, cx),
            Fits::FailsToSync => self.fails(target, chunk, piece, true, cx),
            // An error that nobody asked for, and not a fatal one: the connection's end follows all the same.
            Fits::Farewell => {}
            Fits::Not => {
                // Nothing of it has been passed on: the client can be told.
                self.torn = false;
                self.out.end_run(chunk);
                let what = format!("message '{}' was not asked for", char::from(piece.tag));
                tracing::error!(user = %self.user, what, "session closed: a reply would have reached the wrong request");
                self.fatal(&violation(&what), cx);
            }
        }
    }

    fn continued(&mut self, target: Target, chunk: &Bytes, piece: &Piece, cx: &mut Cx<'_>) {
        let Some(link) = self.link(target) else { return };
        match link.passing {
            Passing::Drop => {}
            Passing::Relay { digest } => {
                if digest {
                    self.rows.part(bytes_of(chunk, piece), piece.last);
                }
                self.out.relay(chunk, &piece.place);
            }
            Passing::Own => {
                link.own_row.extend_from_slice(bytes_of(chunk, piece));
                if piece.last {
                    self.own_row_complete(target);
                }
            }
            Passing::Told => {
                link.own_row.extend_from_slice(bytes_of(chunk, piece));
                if piece.last {
                    self.out.end_run(chunk);
                    self.row_told(target, cx);
                }
            }
        }
    }

    fn asynchronous(&mut self, target: Target, chunk: &Bytes, piece: &Piece) {
        if target == Target::Reader && piece.tag != b'N' {
            return;
        }
        if piece.tag == b'S' {
            if let Some((name, value)) = bytes_of(chunk, piece).get(5..).and_then(parameter) {
                if name == "standard_conforming_strings" {
                    self.std_strings = value == "on";
                }
                self.lane.iter_mut().for_each(|l| l.set_parameter(&name, &value));
                self.changed.insert(name.to_ascii_lowercase(), (name, value));
            }
            return;
        }
        // What a reader says of the session's own statements may come in the middle of the lane's answers.
        let own = self.link_ref(target).and_then(|l| l.owed.head()).is_some_and(|h| match h.whose {
            Whose::Own(own) => target == Target::Reader || matches!(own, Own::Settings | Own::Tidy | Own::Replay),
            Whose::Client(_) | Whose::Local(..) => false,
        });
        if !own {
            self.out.relay(chunk, &piece.place);
        }
    }

    fn part(&mut self, target: Target, chunk: &Bytes, piece: &Piece, cx: &mut Cx<'_>) {
        let Some(link) = self.link(target) else { return };
        let Some(head) = link.owed.head() else { return };
        match &head.whose {
            Whose::Own(Own::Tidy) => link.passing = Passing::Drop,
            Whose::Own(_) => {
                if piece.tag == b'D' {
                    link.passing = Passing::Own;
                    link.own_row.clear();
                    link.own_row.extend_from_slice(bytes_of(chunk, piece));
                    if piece.last {
                        self.own_row_complete(target);
                    }
                } else if piece.tag == b't' && piece.last {
                    self.types_told(bytes_of(chunk, piece));
                } else if piece.tag == b'C' {
                    back::tag(&bytes_of(chunk, piece)[5..]).clone_into(&mut link.own_tag);
                }
            }
            Whose::Client(note) => match piece.tag {
                b'D' if note.asks() => {
                    link.passing = Passing::Told;
                    link.own_row.clear();
                    link.own_row.extend_from_slice(bytes_of(chunk, piece));
                    self.out.end_run(chunk);
                    if piece.last {
                        self.row_told(target, cx);
                    }
                }
                b'T' if note.asks() => {
                    let Note::Write(p) = note else { return };
                    let told = p.asked.as_ref().and_then(|r| Self::description_told(bytes_of(chunk, piece), r));
                    self.out.end_run(chunk);
                    told.into_iter().for_each(|t| self.out.push(t));
                }
                b'D' => {
                    let digest = matches!(note, Note::Write(p) if !p.opaque && !p.noted.is_set());
                    link.passing = Passing::Relay { digest };
                    if digest {
                        self.rows.part(bytes_of(chunk, piece), piece.last);
                    }
                    self.out.relay(chunk, &piece.place);
                }
                b'd' => {
                    link.passing = Passing::Relay { digest: false };
                    self.out.relay(chunk, &piece.place);
                }
                b'C' | b'I' => {
                    let note = match self.link(target).and_then(|l| l.owed.head_mut()).map(|h| &mut h.whose) {
                        Some(Whose::Client(n)) => std::mem::take(n),
                        _ => Note::Nothing,
                    };
                    self.take_note(target, note, bytes_of(chunk, piece), cx);
                    self.simple_complete(chunk, piece);
                }
                b'G' if target == Target::Reader => {
                    // Its blocks are READ ONLY, so it refuses COPY FROM; the client's data has no way to it.
                    self.out.end_run(chunk);
                    self.torn = false;
                    self.fatal(&violation("a reader asks for COPY data"), cx);
                }
                b'G' => {
                    self.out.relay(chunk, &piece.place);
                    self.copy_in_begins(target, cx);
                }
                b'V' => {
                    link.passing = Passing::Relay { digest: false };
                    self.function_result(bytes_of(chunk, piece));
                    self.out.relay(chunk, &piece.place);
                }
                _ => self.out.relay(chunk, &piece.place),
            },
            Whose::Local(..) => {}
        }
    }

    fn own_row_complete(&mut self, target: Target) {
        let Some(link) = self.link(target) else { return };
        let row = std::mem::take(&mut link.own_row);
        let own = match link.owed.head().map(|h| &h.whose) {
            Some(Whose::Own(own)) => *own,
            _ => return,
        };
        match own {
            Own::Info => {
                if let (Some(info), Some(open)) = (read_info(&row), self.tx.open_mut()) {
                    open.info = Some(info);
                }
            }
            Own::Baseline => {
                let counted = Columns::new(&row).into_iter().flatten().nth(1).flatten();
                if let Some(open) = self.tx.open_mut() {
                    open.baseline = counted.map(<[u8]>::to_vec);
                    open.counted = None;
                }
            }
            Own::Opaque => {
                let mut columns = Columns::new(&row).into_iter().flatten();
                let xid = columns.next().flatten().and_then(|v| Some(u64::from_be_bytes(v.try_into().ok()?)));
                let counted = columns.next().flatten();
                if let Some(open) = self.tx.open_mut() {
                    open.assigned = open.assigned.or(xid);
                    open.catalogue_counted(counted);
                }
            }
            Own::View => self.view_row(&row),
            Own::Digits => self.digits_row(&row),
            Own::Settings => {
                let value = Columns::new(&row).and_then(|mut c| c.next()).flatten();
                let text = value.map(|v| String::from_utf8_lossy(v).into_owned());
                if let Some(text) = text.filter(|t| !self.digits_told(t)) {
                    self.settings_rows.push(text);
                }
            }
            Own::Default => {
                let value = Columns::new(&row).and_then(|mut c| c.next()).flatten();
                value.into_iter().for_each(|v| self.default_told(v));
            }
            Own::Preparable => {
                let value = Columns::new(&row).and_then(|mut c| c.next()).flatten();
                self.preparable_told(value);
            }
            Own::MinCsn => {
                let value = Columns::new(&row).and_then(|mut c| c.next()).flatten();
                self.min_csn_told(value);
            }
            Own::Level => {
                let value = Columns::new(&row).and_then(|mut c| c.next()).flatten();
                let moves = value.is_some_and(|v| matches!(v, b"read committed" | b"read uncommitted"));
                self.link(Target::Reader).into_iter().for_each(|l| l.read_committed = Some(moves));
            }
            _ => {}
        }
    }

    fn completes(&mut self, target: Target, chunk: &Bytes, piece: &Piece, cx: &mut Cx<'_>) {
        let Some(owed) = self.link(target).and_then(|l| l.owed.pop()) else { return };
        if piece.tag == b'Z' {
            self.out.end_run(chunk);
            let status = bytes_of(chunk, piece).get(5).and_then(|&b| TxStatus::from_byte(b)).unwrap_or(TxStatus::Idle);
            self.ready_for_query(target, owed.asked, owed.whose, status, cx);
        } else {
            match owed.whose {
                Whose::Client(note) => self.completes_for_client(target, owed.asked, note, chunk, piece, cx),
                Whose::Own(own) => {
                    if piece.tag == b'C' && matches!(own, Own::Commit | Own::Rollback) {
                        let tag = back::tag(&bytes_of(chunk, piece)[5..]);
                        self.link(target).into_iter().for_each(|l| tag.clone_into(&mut l.own_tag));
                    } else if own == Own::View && owed.asked == Asked::Bind {
                        self.view_begins();
                    } else if own == Own::Types && matches!(piece.tag, b'T' | b'n') {
                        self.types_complete(cx);
                    } else if own == Own::Cut && owed.asked == Asked::Execute && !self.owes_cut() {
                        let token = self.cut_taken();
                        self.tx.open_mut().into_iter().for_each(|o| o.token = token);
                    }
                }
                Whose::Local(..) => {}
            }
        }
        self.emit_locals(target, chunk, cx);
    }

    fn completes_for_client(
        &mut self,
        target: Target,
        asked: Asked,
        note: Note,
        chunk: &Bytes,
        piece: &Piece,
        cx: &mut Cx<'_>,
    ) {
        if let (Note::Described(rows), b'T') = (&note, piece.tag) {
            let told = Self::description_told(bytes_of(chunk, piece), rows);
            self.out.end_run(chunk);
            self.out.push(told_or_no_data(told));
        } else if asked == Asked::Execute {
            self.out.relay(chunk, &piece.place);
            if piece.tag == b's' {
                return self.suspended(note, cx);
            }
        } else {
            self.out.relay(chunk, &piece.place);
        }
        self.take_note(target, note, bytes_of(chunk, piece), cx);
    }

    /// Local replies whose turn has come.
    fn emit_locals(&mut self, target: Target, chunk: &Bytes, cx: &mut Cx<'_>) {
        while let Some((bytes, note)) = self.link(target).and_then(|l| l.owed.pop_local()) {
            self.out.end_run(chunk);
            self.out.push(bytes);
            if matches!(note, Note::Ready) {
                self.ready(cx);
            } else {
                self.take_note(target, note, &[], cx);
            }
        }
    }

    fn ready_for_query(&mut self, target: Target, asked: Asked, whose: Whose, status: TxStatus, cx: &mut Cx<'_>) {
        if let Some(link) = self.link(target) {
            link.status = status;
            link.unit_done();
        }
        match whose {
            Whose::Client(note) => {
                let of_this = self.registry.answering() >= self.tx_since;
                if let Some(open) = self.tx.open_mut().filter(|o| o.on == target && of_this) {
                    open.failed = status == TxStatus::Failed;
                    if target == Target::Lane {
                        open.need = cx.env.sequencer.newest();
                    }
                }
                match (note, asked) {
                    (Note::ImplicitEnd, _) => self.implicit_end(cx),
                    (Note::Call(call), _) => self.function_done(&call, cx),
                    (_, Asked::Sync) if !matches!(self.request, Request::Simple(_)) => {
                        if status == TxStatus::Idle && self.tx.target() == Some(target) && of_this {
                            // The transaction ended on the server without the session's doing.
                            self.tx = Tx::Idle;
                        }
                        if self.will_run_again() {
                            return self.roll_back_lane(AfterRollback::Sync, cx);
                        }
                        if let Some(sql) = self.everywhere.take() {
                            return self.start_everywhere(sql, super::commit::After::SyncEnd, cx);
                        }
                        self.request = Request::None;
                        self.ready(cx);
                    }
                    _ => self.step_done(target, status, cx),
                }
            }
            Whose::Own(own) => self.own_ready(target, own, cx),
            Whose::Local(..) => {}
        }
    }

    fn own_ready(&mut self, target: Target, own: Own, cx: &mut Cx<'_>) {
        let Some(link) = self.link(target) else { return };
        let error = link.own_error.take();
        match own {
            Own::Commit => {
                let tag = std::mem::take(&mut link.own_tag);
                self.main_committed(error, &tag, cx);
            }
            Own::Constraints => self.constraints_checked(error, cx),
            Own::Preparable => self.preparable_answered(error, cx),
            Own::Rollback if self.undoing.is_some() => {
                self.undo_answered(error.is_some(), cx);
                self.tx = Tx::Idle;
                self.rolled_back(cx);
            }
            Own::Rollback if error.is_some() && self.link_ref(target).is_some_and(|l| l.status != TxStatus::Idle) => {
                let fields = ErrorFields::parse(error.as_deref().and_then(|raw| raw.get(5..)).unwrap_or_default());
                if fields.sqlstate != "57014" {
                    let what = format!("ROLLBACK was refused: {} {}", fields.sqlstate, fields.message);
                    return self.fatal(&violation(&what), cx);
                }
                // A cancel has hit it.
                self.send_own(target, ("_pgls_r", "ROLLBACK"), Own::Rollback, cx);
                self.sync_own(target, Own::Rollback, cx);
            }
            Own::Rollback => {
                self.tx = Tx::Idle;
                self.rolled_back(cx);
            }
            Own::Settings => {
                let rows = std::mem::take(&mut self.settings_rows);
                match error {
                    None => {
                        self.settings = std::sync::Arc::new(Settings::new(rows));
                    }
                    Some(_) => self.settings_dirty = true,
                }
                self.pump_requests(cx);
            }
            Own::Replay if target == Target::Lane => self.lane_replayed(error, cx),
            Own::Replay => {
                if error.is_some() {
                    // It does not know a setting that main has taken: what it reads may be something else.
                    tracing::warn!(user = %self.user, "a reader refused a SET of its session, which reads on main from now on");
                    self.main_only = true;
                }
                self.pump_requests(cx);
            }
            Own::Syntax => self.syntax_answered(target, error, cx),
            Own::Explain => self.explain_parsed(error, cx),
            Own::Modes => self.modes_set(cx),
            Own::Check => self.lane_lives(cx),
            Own::Default => self.pump_requests(cx),
            Own::View => self.view_read(error, cx),
            Own::Digits => self.digits_answered(error, cx),
            Own::MinCsn | Own::Seen => self.question_answered(own, error.as_deref(), cx),
            Own::Leave => self.pump_requests(cx),
            Own::Tidy if target == Target::Reader => {
                if self.retry.as_ref().is_some_and(|r| r.why.is_some()) {
                    self.run_elsewhere(cx);
                }
            }
            _ => self.own_answered(cx),
        }
    }

    /// ROLLBACK of the proxy's own has been answered.
    pub(super) fn rolled_back(&mut self, cx: &mut Cx<'_>) {
        self.registry.drop_portals();
        match self.after_rollback.take() {
            Some(AfterRollback::Commit { after, error }) => self.commit_failed(after, error, cx),
            Some(AfterRollback::Simple | AfterRollback::Sync) if self.run_again() => {}
            Some(AfterRollback::Simple) => self.finish_simple(cx),
            Some(AfterRollback::Sync) => {
                self.request = Request::None;
                self.ready(cx);
            }
            Some(AfterRollback::Execute { chain }) => self.rollback_executed(chain, cx),
            None => {}
        }
    }

    fn fails(&mut self, target: Target, chunk: &Bytes, piece: &Piece, to_sync: bool, cx: &mut Cx<'_>) {
        let Some(head) = self.link(target).and_then(|l| l.owed.head_mut()) else { return };
        head.failed = true;
        let blamed = self.link_ref(target).and_then(|l| l.owed.blamed());
        let unnamed = matches!(blamed, Some(Whose::Client(Note::Unnamed)));
        let own = match blamed {
            Some(Whose::Own(own)) => Some(*own),
            Some(Whose::Client(_) | Whose::Local(..)) | None => None,
        };
        self.rows.take();
        self.row_entries = super::rows::Told::default();
        // The block was opened only to fail on the server as it has failed for the client, who has been told.
        let told = own == Some(Own::Begin) && self.tx.open().is_some_and(|o| o.failed);
        match own {
            _ if told => {}
            // Taken when the ReadyForQuery of the session's own Sync (or Query) comes.
            Some(
                Own::Commit
                | Own::Constraints
                | Own::Preparable
                | Own::Rollback
                | Own::Settings
                | Own::Replay
                | Own::Syntax
                | Own::Explain
                | Own::MinCsn
                | Own::View
                | Own::Digits
                | Own::Seen,
            ) => {
                let error = Bytes::copy_from_slice(bytes_of(chunk, piece));
                self.link(target).into_iter().for_each(|l| l.own_error = Some(error.clone()));
            }
            // Nobody waits for it: kept, it would be taken for the answer to something else.
            Some(Own::Tidy | Own::Types | Own::Check | Own::Leave | Own::Default) => {}
            // What it was asked about has failed, and the client knows.
            Some(Own::Opaque) if self.tx.open().is_some_and(|o| o.failed) => {}
            None if target == Target::Lane && piece.last && self.is_run_again(bytes_of(chunk, piece), cx) => {
                self.tx.open_mut().into_iter().for_each(|o| o.failed = true);
                self.step_failed();
            }
            Some(
                Own::Begin
                | Own::Prepare
                | Own::Info
                | Own::Baseline
                | Own::Opaque
                | Own::Modes
                | Own::Level
                | Own::Cut
                | Own::Token,
            )
            | None => self.relay_error(target, chunk, piece),
        }
        if matches!(own, Some(Own::Begin | Own::Cut)) {
            self.cut_taken();
        }
        if !to_sync {
            return;
        }
        let Some(link) = self.link(target) else { return };
        let skipped = link.owed.skip_to_sync();
        link.forget_fresh();
        if unnamed {
            self.registry.drop_unnamed_too()
        } else {
            self.registry.drop_unconfirmed()
        }
        if told {
            if !skipped.sync_sent {
                self.sync_own(target, Own::Tidy, cx);
            }
        } else if skipped.query {
            self.forward(target, Bytes::from_static(front::SYNC), Asked::Sync, Whose::Client(Note::Nothing), cx);
        } else if !skipped.sync_sent {
            self.batch_failed();
        }
    }

    /// An error of the client's own: it sees it as the server said it.
    fn relay_error(&mut self, target: Target, chunk: &Bytes, piece: &Piece) {
        if let Some(open) = self.tx.open_mut().filter(|o| o.on == target) {
            open.failed = true;
        }
        // What the statement would have answered is held back only while it may still be replaced.
        if self.out.is_holding() {
            self.out.end_run(chunk);
            self.out.release();
        }
        self.everywhere = None;
        let moved = if piece.first && piece.last { self.with_clients_position(bytes_of(chunk, piece)) } else { None };
        self.step_failed();
        match moved {
            Some(raw) => {
                self.out.end_run(chunk);
                self.out.push(raw);
            }
            None => self.out.relay(chunk, &piece.place),
        }
    }

    /// The link of one of the appliers.
    fn applier_link(&mut self, conn: crate::shard::driver::ConnId) -> Option<&mut super::link::Link> {
        let i = self.replica_at(conn)?;
        self.replicas[i].applier.as_mut().map(|a| &mut a.link)
    }

    /// A node's connection is gone.
    pub(super) fn server_gone(&mut self, conn: crate::shard::driver::ConnId, why: &str, cx: &mut Cx<'_>) {
        if self.reset_gone(conn) {
            return;
        }
        if self.lane.as_ref().is_some_and(|l| l.conn == conn) {
            // The answer to a question may have gone with it.
            self.settings_dirty = true;
            return self.lane_gone(why, cx);
        }
        match &self.reader {
            Reader::Opening(l) if l.conn == conn => return self.reader_failed(why, cx),
            Reader::Ready(l) if l.conn == conn => return self.reader_gone(why, cx),
            _ => {}
        }
        self.parked.retain(|l| l.conn != conn);
        if let Some(i) = self.replica_at(conn) {
            self.applier_lost(i, why, cx);
            self.advance_commit(cx);
        }
        if matches!(self.stage, Stage::Over) && self.commit.is_none() {
            self.finish_over(cx);
        }
    }
}

/// A whole ReadyForQuery, with a status that there is.
fn is_ready(message: &[u8]) -> bool {
    matches!(message.get(5..), Some([status]) if TxStatus::from_byte(*status).is_some())
}

pub(super) fn bytes_of<'a>(chunk: &'a Bytes, piece: &'a Piece) -> &'a [u8] {
    match &piece.place {
        crate::wire::frame::Place::Chunk(r) => &chunk[r.clone()],
        crate::wire::frame::Place::Carried(b) => b,
    }
}
