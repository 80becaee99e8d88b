//! What a statement that main has done leaves behind: an entry of the script, a setting, a name forgotten, an ended
//! transaction.

use bytes::Bytes;

use super::Session;
use super::io::Cx;
use super::note::{Forgets, Note, PendingSetting, PendingWrite};
use super::proofs::Proof;
use super::transaction::{Target, Tx};
use crate::script::{Entry, Expect};
use crate::sql::literals::Now;
use crate::wire::{PgError, back};

impl Session {
    /// A portal was left with rows to come. A write with RETURNING has been run to its end by main, the client fetches
    /// what it returned; a query whose functions write has been run as far as its rows were fetched.
    pub(super) fn suspended(&mut self, note: Note, cx: &mut Cx<'_>) {
        let Note::Write(mut p) = note else { return };
        self.rows.take();
        if p.noted.is_set() {
            return self.fetched_more(p.stepwise, false);
        }
        p.noted.set();
        p.opaque = true;
        p.counted = false;
        let stepwise = p.stepwise;
        self.add_write(*p, b"", true, cx);
        if let Some(open) = self.tx.open_mut() {
            let entry = open.script.entries().len().saturating_sub(1);
            open.unfinished.extend(stepwise.map(|portal| (portal, entry)));
        }
    }

    /// A query that writes as it is fetched has gone on, and was already an entry of the script.
    fn fetched_more(&mut self, portal: Option<u64>, to_the_end: bool) {
        let (Some(portal), Some(open)) = (portal, self.tx.open_mut()) else { return };
        open.unrepeatable |= open.torn.contains(&portal);
        if to_the_end {
            open.unfinished.retain(|(p, _)| *p != portal);
        }
    }

    /// The client's request has completed.
    pub(super) fn take_note(&mut self, target: Target, note: Note, message: &[u8], cx: &mut Cx<'_>) {
        if target == Target::Lane {
            if let Some(open) = self.tx.open_mut() {
                open.need = cx.env.sequencer.newest();
            }
        }
        let open = self.tx.open_mut().filter(|o| o.on == Target::Lane);
        match note {
            Note::Nothing | Note::Ready | Note::ImplicitEnd | Note::Call(_) | Note::Described(_) => {}
            Note::Write(p) => {
                if p.noted.is_set() {
                    self.fetched_more(p.stepwise, true);
                } else {
                    p.noted.set();
                    self.add_write(*p, message.get(5..).unwrap_or_default(), false, cx);
                }
            }
            Note::Savepoint(name) => open.into_iter().for_each(|o| o.script.savepoint(&name)),
            Note::Release(name) => open.into_iter().for_each(|o| o.script.release(&name)),
            Note::RollbackTo(name) => {
                if let Some(o) = self.tx.open_mut() {
                    o.script.rollback_to(&name);
                    o.failed = false;
                    o.catalogue_taken_back();
                    let left = o.script.entries().len();
                    let gone = o.unfinished.iter().filter(|(_, entry)| *entry >= left).map(|(portal, _)| *portal);
                    o.torn.extend(gone);
                    o.unfinished.retain(|(_, entry)| *entry < left);
                }
            }
            Note::Begun(modes) => {
                if let Some(o) = self.tx.open_mut() {
                    (o.implicit, o.modes) = (false, modes);
                }
            }
            Note::Modes(modes) => {
                if let Some(o) = self.tx.open_mut() {
                    o.modes.isolation = modes.isolation.or(o.modes.isolation);
                    o.modes.read_only = modes.read_only.or(o.modes.read_only);
                    o.modes.deferrable = modes.deferrable.or(o.modes.deferrable);
                }
            }
            Note::Setting(s) => self.setting_done(*s, cx),
            Note::Ended { chain } => self.transaction_ended(chain),
            Note::Forgets(what) => self.forget(&what, cx),
            Note::Named | Note::Unnamed => self.registry.confirm(),
            Note::PreparedBySql(p) => self.preparing = Some(p),
            Note::Replaced(name, statement) => {
                if let Some(l) = self.link(target) {
                    l.statements.insert(name.clone(), statement.version);
                }
                self.registry.insert(&name, statement, true);
            }
            Note::Bound => self.registry.confirm_portal(),
            Note::Temporary(name) => {
                self.temporary = true;
                self.main_only = true;
                self.temporary_names.extend(name);
            }
        }
    }

    fn setting_done(&mut self, setting: PendingSetting, cx: &mut Cx<'_>) {
        match self.tx.open_mut().filter(|o| o.on == Target::Lane) {
            // In a block it may still be rolled back; as an entry it is in force for what follows.
            Some(_) => {
                let added = self.with_noted(cx, |o, room| o.script.add(Entry::Setting(setting.statement), room));
                self.script_written(added, cx);
            }
            None if !setting.local => self.remember_setting(Bytes::copy_from_slice(setting.statement.sql.memory())),
            None => {}
        }
    }

    /// The server's transaction is over without a COMMIT of the proxy's.
    pub(super) fn transaction_ended(&mut self, chain: bool) {
        let modes = self.tx.open().map(|o| o.modes.clone()).unwrap_or_default();
        self.tx = if chain { Tx::Begun(modes) } else { Tx::Idle };
        self.registry.drop_portals();
    }

    pub(super) fn forget(&mut self, what: &Forgets, cx: &mut Cx<'_>) {
        match what {
            Forgets::All => {
                self.registry.clear();
                self.registry.drop_portals();
                self.replay.clear();
                self.settings_dirty = true;
                self.snapshots.stale = true;
                self.role_changed = false;
                self.temporary = false;
                self.temporary_names.clear();
                self.main_only = false;
                self.bound = false;
                self.close_readers(cx);
                self.forget_own_statements();
            }
            Forgets::Statements => {
                self.registry.clear();
                self.forget_own_statements();
                if let Some(reader) = self.link(Target::Reader) {
                    reader.disown_all();
                }
                self.parked.iter_mut().for_each(|l| l.disown_all());
            }
            Forgets::Statement(name) => self.deallocated(name),
            Forgets::Temporary => {
                self.temporary = false;
                self.temporary_names.clear();
            }
        }
    }

    fn forget_own_statements(&mut self) {
        if let Some(l) = &mut self.lane {
            l.forget_all();
        }
    }

    /// Adds what main has done to the script.
    fn add_write(&mut self, mut write: PendingWrite, tag: &[u8], always: bool, cx: &mut Cx<'_>) {
        let rows = self.rows.take();
        if write.by_rows {
            self.rows_complete(&write, cx);
            return self.rests_on(write.proof);
        }
        let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
        let none = std::str::from_utf8(tag).ok().and_then(back::tag_count) == Some(0);
        if write.counted && none && !always && !write.copy {
            return;
        }
        self.rests_on(write.proof.take());
        let std_strings = self.std_strings;
        self.touches(write.rows.take());
        let added = self.with_noted(cx, |open, room| {
            if let Some(info) = &open.info {
                write.at_time(Now { micros: info.now }, std_strings);
            }
            open.opaque |= write.opaque;
            let expect = match &write.asked {
                _ if write.opaque => Expect::Success,
                Some(asked) if write.binary && asked.text_only => Expect::Tag(tag.into()),
                _ => Expect::Same { tag: tag.into(), rows },
            };
            if write.copy {
                return open.script.copy_end(expect, room);
            }
            write.statement.expect = expect;
            open.script.add(Entry::Statement(write.statement), room)
        });
        self.script_written(added, cx);
    }

    /// What main has done was decided by this proof: the commit looks at it once more.
    fn rests_on(&mut self, proof: Option<Proof>) {
        if let (Some(proof), Some(open)) = (proof, self.tx.open_mut()) {
            open.proofs.add(proof);
        }
    }

    /// A script that cannot be kept cannot be applied: the session ends, and with it the transaction on main.
    pub(super) fn script_written(&mut self, result: Option<std::io::Result<()>>, cx: &mut Cx<'_>) {
        let Some(Err(e)) = result else { return };
        tracing::error!(error = %e, "spill file cannot be written");
        let e = PgError::fatal("53100", "could not write the transaction's spill file")
            .detail(e.to_string())
            .hint("Free space in work_dir, or write less in one transaction.");
        self.fatal(&e, cx);
    }
}
