//! What has happened, and whose affair it is.

use super::io::{Answer, Cx, TimerKind};
use super::{Event, Session, Stage};

impl Session {
    /// Something has happened.
    pub fn event(&mut self, event: Event, cx: &mut Cx<'_>) {
        match event {
            Event::Client(bytes) => self.client_bytes(bytes, cx),
            Event::ClientDrained => self.client_drained(cx),
            Event::ClientGone => {
                self.client_gone = true;
                self.end(cx);
            }
            Event::Connected(conn) => self.server_connected(conn, cx),
            Event::Server(conn, bytes) => self.server_bytes(conn, bytes, cx),
            Event::ServerDrained => {
                if self.commit.is_some() {
                    self.feed_replicas(cx);
                }
                self.pump(cx);
            }
            Event::ServerGone(conn, why) => self.server_gone(conn, &why, cx),
            Event::Timer(kind) => self.timer(kind, cx),
            Event::Answer(token, answer) => self.answered(token, answer, cx),
            Event::Watermarks => {
                self.advance_commit(cx);
                self.gate_moved(cx);
                self.main_caught_up(cx);
                self.min_csn_moved(false, cx);
            }
            Event::Turn => self.turn_came(cx),
            Event::Confirm { main_lost } => self.confirmed(main_lost, cx),
            Event::Go => self.go(cx),
            Event::Cancel => self.cancel_running(cx),
            Event::CancelDone => {
                self.cancels = self.cancels.saturating_sub(1);
                self.pump(cx);
            }
            Event::MakeRoom => self.make_room(cx),
            Event::Drain => self.draining = true,
            Event::Stop => self.shut_down(cx),
        }
        self.early(cx);
        self.drain_if_idle(cx);
        self.settle_gate();
        self.flush(cx);
    }

    fn timer(&mut self, kind: TimerKind, cx: &mut Cx<'_>) {
        match kind {
            TimerKind::Authentication if !self.admitted && !matches!(self.stage, Stage::Over) => {
                self.authentication_timed_out(cx);
            }
            TimerKind::Replica(node) => self.replica_timer(node, cx),
            TimerKind::RightOfWay => self.right_of_way(cx),
            TimerKind::Commit => self.commit_timer(cx),
            TimerKind::Idle => self.idle_timer(cx),
            TimerKind::Queue => self.queue_timer(cx),
            TimerKind::Reset => self.reset_timer(cx),
            TimerKind::Cut => self.cut_timer(cx),
            TimerKind::MinCsn => self.min_csn_moved(true, cx),
            TimerKind::Cancel => {
                self.cancels = 0;
                self.pump(cx);
            }
            TimerKind::Authentication => {}
        }
    }

    fn answered(&mut self, token: u64, answer: Answer, cx: &mut Cx<'_>) {
        if self.catalogue_asked.is_some_and(|(t, _)| t == token) {
            let asked = self.catalogue_asked.take();
            if let Answer::Catalogue(Err(error)) = &answer {
                tracing::warn!(database = %self.database, error, "no catalogue: nothing is proved to be a read");
                self.catalogue_missing = asked.map(|(_, version)| version);
            }
            // A commit may have waited for it.
            self.advance_commit(cx);
        }
        match self.stage {
            Stage::Secret { token: t } if t == token => {
                self.secret_found(answer, cx);
                return self.pump(cx);
            }
            Stage::Catalogue if self.catalogue_asked.is_none() => {
                self.begin_queries(cx);
                return self.pump(cx);
            }
            _ => {}
        }
        if self.slot_answered(token, &answer, cx) {
            return self.pump(cx);
        }
        let limbo = matches!(&answer, Answer::Stands(standing) if self.lane_probed(token, standing, cx));
        if !limbo {
            self.commit_answer(token, &answer, cx);
        }
        self.pump_requests(cx);
    }
}
