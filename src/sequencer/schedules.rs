//! The gate and the window word against a sequential model that knows nothing of bits: random schedules of sessions that
//! enter, poll, leave and give up.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SHARDS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waits,
    /// It has its turn and does not know yet.
    Admitted,
    In,
}

/// The rules, in order of arrival.
#[derive(Default)]
struct Rules {
    /// Of those that are in or admitted.
    phase: Option<Class>,
    sessions: Vec<(Class, usize, State)>,
    /// Numbers of those that wait.
    queue: VecDeque<usize>,
    gone: Vec<bool>,
}

impl Rules {
    fn enter(&mut self, class: Class, shard: usize) -> State {
        let joins = self.phase.is_none_or(|phase| phase == class && self.queue.is_empty());
        let state = if joins { State::In } else { State::Waits };
        if joins {
            self.phase = Some(class);
        } else {
            self.queue.push_back(self.sessions.len());
        }
        self.sessions.push((class, shard, state));
        self.gone.push(false);
        state
    }

    fn is_inside(&self, session: usize) -> bool {
        !self.gone[session] && self.sessions[session].2 != State::Waits
    }

    /// The session goes; the shards of those that are admitted by that.
    fn go(&mut self, session: usize) -> u64 {
        let (class, _, state) = self.sessions[session];
        self.gone[session] = true;
        if state == State::Waits {
            self.queue.retain(|waiting| *waiting != session);
            return 0;
        }
        if (0..self.sessions.len()).any(|s| self.is_inside(s)) {
            return 0;
        }
        let waits = |wanted: Class| self.queue.iter().any(|s| self.sessions[*s].0 == wanted);
        let other = if class == Class::Commit { Class::Snapshot } else { Class::Commit };
        self.phase = [other, class].into_iter().find(|class| waits(*class));
        let mut shards = 0;
        for session in std::mem::take(&mut self.queue) {
            let (class, shard, state) = &mut self.sessions[session];
            if Some(*class) == self.phase {
                *state = State::Admitted;
                shards |= 1 << *shard;
            } else {
                self.queue.push_back(session);
            }
        }
        shards
    }

    fn open_windows(&self) -> usize {
        let open = |s: &usize| !self.gone[*s] && matches!(self.sessions[*s], (Class::Commit, _, State::In));
        (0..self.sessions.len()).filter(open).count()
    }
}

/// A session as the program holds it.
enum Held {
    Snapshot(Entry<SnapshotPass>),
    Commit(Entry<CommitPass>),
    Nothing,
}

impl Held {
    fn is_in(&self) -> bool {
        matches!(self, Held::Snapshot(Entry::In(_)) | Held::Commit(Entry::In(_)))
    }

    fn poll(self) -> Held {
        fn polled<G: Pass>(entry: Entry<G>) -> Entry<G> {
            match entry {
                Entry::Wait(waiting) => waiting.poll().map_or_else(Entry::Wait, Entry::In),
                inside => inside,
            }
        }
        match self {
            Held::Snapshot(entry) => Held::Snapshot(polled(entry)),
            Held::Commit(entry) => Held::Commit(polled(entry)),
            Held::Nothing => Held::Nothing,
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Enter(Class, usize),
    /// Of the sessions that are there, this one of a thousand.
    Poll(usize),
    Go(usize),
    Epoch,
    /// All sessions of a shard poll, as when it is rung.
    Turn(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let class = prop_oneof![Just(Class::Snapshot), Just(Class::Commit)];
    let act = prop_oneof![
        5 => (class, 0..SHARDS).prop_map(|(class, shard)| Act::Enter(class, shard)),
        2 => (0..1000usize).prop_map(Act::Poll),
        5 => (0..1000usize).prop_map(Act::Go),
        1 => (0..SHARDS).prop_map(Act::Turn),
        1 => Just(Act::Epoch),
    ];
    proptest::collection::vec(act, 1..80)
}

/// Both, and what the outside must have seen so far.
struct Beside {
    sequencer: Arc<Sequencer>,
    rules: Rules,
    held: Vec<Held>,
    /// Shards with a parked session that was admitted and may not know it: they must have been rung.
    owed: u64,
    opened: usize,
    epoch: u64,
}

impl Beside {
    fn there(&self, nth: usize) -> Option<usize> {
        let there: Vec<usize> = (0..self.held.len()).filter(|s| !self.rules.gone[*s]).collect();
        (!there.is_empty()).then(|| there[nth % there.len()])
    }

    fn poll(&mut self, session: usize) {
        let before = self.rules.sessions[session].2;
        if before == State::Admitted {
            self.rules.sessions[session].2 = State::In;
            self.opened += usize::from(self.rules.sessions[session].0 == Class::Commit);
        }
        let held = std::mem::replace(&mut self.held[session], Held::Nothing);
        self.held[session] = held.poll();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Enter(class, shard) => {
                let state = self.rules.enter(class, shard);
                self.held.push(match class {
                    Class::Snapshot => Held::Snapshot(self.sequencer.enter_snapshot(shard).unwrap()),
                    Class::Commit => Held::Commit(self.sequencer.enter_commit(shard).unwrap()),
                });
                if (class, state) == (Class::Commit, State::In) {
                    self.opened += 1;
                    self.sequencer.open_commit().unwrap();
                }
            }
            Act::Poll(nth) => {
                if let Some(session) = self.there(nth) {
                    self.poll(session);
                }
            }
            Act::Go(nth) => {
                if let Some(session) = self.there(nth) {
                    self.owed |= self.rules.go(session);
                    self.held[session] = Held::Nothing;
                }
            }
            Act::Turn(shard) => {
                for session in 0..self.held.len() {
                    if !self.rules.gone[session] && self.rules.sessions[session].1 == shard {
                        self.poll(session);
                    }
                }
            }
            Act::Epoch => {
                self.epoch += 1;
                self.sequencer.set_epoch(Epoch(self.epoch));
            }
        }
    }

    /// The shards that are rung now are those that have sessions admitted since the last time.
    fn rung(&mut self) -> (u64, u64) {
        // Shard 63 has no sessions.
        (self.sequencer.waiters_to_ring(63), std::mem::take(&mut self.owed))
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (session, held) in self.held.iter().enumerate() {
            let (_, _, state) = self.rules.sessions[session];
            prop_assert_eq!(held.is_in(), state == State::In && !self.rules.gone[session], "session {}", session);
            if let Held::Snapshot(Entry::In(pass)) = held {
                prop_assert!(self.sequencer.look().is_quiet());
                prop_assert_eq!(pass.token().csn, self.sequencer.newest());
            }
        }
        prop_assert_eq!(usize::from(self.sequencer.look().open()), self.rules.open_windows());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn the_gate_does_what_its_rules_say(acts in acts()) {
        let mut beside = Beside {
            sequencer: Arc::new(Sequencer::new(0, 2, 0)),
            rules: Rules::default(),
            held: Vec::new(),
            owed: 0,
            opened: 0,
            epoch: 0,
        };
        for act in acts {
            let before = (beside.sequencer.look(), beside.opened, beside.epoch);
            beside.act(act);
            let (rung, owed) = beside.rung();
            // A bit of a session that is gone, or looked by itself, may be left over: a ring too many.
            prop_assert_eq!(rung & owed, owed, "shards that were not rung");
            beside.check()?;
            let same = (beside.opened, beside.epoch) == (before.1, before.2);
            let open = beside.rules.open_windows() > 0;
            prop_assert_eq!(beside.sequencer.still(before.0), same && before.0.is_quiet() && !open);
        }
        // Whatever has happened, the gate is whole.
        let Beside { sequencer, held, .. } = beside;
        drop(held);
        prop_assert!(matches!(sequencer.enter_snapshot(0), Ok(Entry::In(_))));
        prop_assert!(matches!(sequencer.enter_commit(0), Ok(Entry::In(_))));
        prop_assert!(sequencer.look().is_quiet());
    }
}
