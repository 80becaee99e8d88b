//! The gate and the window word: they say what sessions do, all along; nobody waits for ever, or is overtaken again and
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::sequencer::Class;
use crate::session::held::{AtGate, Held};
use crate::shard::driver::Time;
use crate::sim::control::TIMEOUT_US;
use crate::sim::world::World;

/// Who has a place at the gate: shard, slot, class, and since when it waits or is in.
type Place = (usize, usize, bool, Time);

/// How often one that waits may see the same session enter: in the phase that is under way, where it may have been
/// admitted before and not know it, and in the other class's phase behind that.
const ENTRIES_MAX: usize = 2;

/// What was seen at the gate.
#[derive(Debug, Default)]
pub(in crate::sim) struct GateWatch {
    inside: BTreeSet<Place>,
    /// For each one that waits, how often each session has entered since.
    waits: BTreeMap<Place, BTreeMap<(usize, usize), usize>>,
    /// The longest wait so far.
    pub longest: Duration,
}

/// How many places at the gate sessions have, and which.
#[derive(Debug, Default)]
struct Seen {
    inside: BTreeSet<Place>,
    waits: BTreeSet<Place>,
    /// By class (snapshots, commits): in, admitted, waiting.
    counts: [[usize; 3]; 2],
}

impl Seen {
    fn add(&mut self, shard: usize, slot: usize, held: &Held) {
        for (class, at) in [(Class::Snapshot, held.cut), (Class::Commit, held.commit)] {
            let commits = class == Class::Commit;
            let [inside, admitted, waiting] = &mut self.counts[usize::from(commits)];
            match at {
                AtGate::Outside => {}
                AtGate::Admitted => *admitted += 1,
                AtGate::Inside(since) => {
                    *inside += 1;
                    self.inside.insert((shard, slot, commits, since));
                }
                AtGate::Waits(since) => {
                    *waiting += 1;
                    self.waits.insert((shard, slot, commits, since));
                }
            }
        }
    }
}

impl World {
    fn at_gate(&self) -> Seen {
        let mut seen = Seen::default();
        for (s, shard) in self.shards.iter().enumerate() {
            shard.shard.held().for_each(|(slot, held)| seen.add(s, slot, &held));
        }
        seen
    }

    /// After each step.
    pub(super) fn check_gate(&mut self) -> Result<(), String> {
        let (gate, open) = (self.sequencer.occupancy(), usize::from(self.sequencer.look().open()));
        let seen = self.at_gate();
        let [cuts, commits] = seen.counts;
        if cuts[0] > 0 && commits[0] > 0 {
            return Err(format!("{} snapshots and {} commits are in the gate together", cuts[0], commits[0]));
        }
        let of_sessions = [cuts[0] + cuts[1] + commits[0] + commits[1], cuts[2], commits[2], commits[0]];
        let of_gate = [gate.inside, gate.snapshots, gate.commits].map(usize::from);
        if of_sessions != [of_gate[0], of_gate[1], of_gate[2], open] {
            return Err(format!(
                "sessions have {of_sessions:?} in the gate, snapshots and commits waiting, windows open; the sequencer \
                 says {gate:?}, {open} windows"
            ));
        }
        self.check_waits(&seen).map_err(|e| format!("{e}\n{gate:?}, {seen:?}\n{}", self.summary()))?;
        self.gate.inside = seen.inside;
        Ok(())
    }

    /// Nobody waits for too long, or is overtaken too often.
    fn check_waits(&mut self, seen: &Seen) -> Result<(), String> {
        // Two phases, each of which a hung node may make this long: it is probed when it has not answered for
        // commit_timeout, and taken out when the probe is not answered.
        let node = self.config.replication.commit_timeout + Duration::from_micros(TIMEOUT_US.unsigned_abs());
        let most = 2 * node;
        let now = self.now();
        let watch = &mut self.gate;
        let entered: Vec<(usize, usize)> =
            seen.inside.difference(&watch.inside).map(|(shard, slot, ..)| (*shard, *slot)).collect();
        watch.waits.retain(|place, _| seen.waits.contains(place));
        for place in &seen.waits {
            let waited = now.since(place.3);
            watch.longest = watch.longest.max(waited);
            if waited > most {
                return Err(format!("one waits at the gate for {waited:?} (shard, slot, commit, since: {place:?})"));
            }
            // Who enters in the step in which this one begins to wait came before it.
            let Some(overtaken) = watch.waits.get_mut(place) else {
                watch.waits.insert(*place, BTreeMap::new());
                continue;
            };
            for session in &entered {
                let times = overtaken.entry(*session).or_default();
                *times += 1;
                if *times > ENTRIES_MAX {
                    return Err(format!(
                        "{place:?} waits at the gate, and {session:?} has entered it {times} times since"
                    ));
                }
            }
        }
        Ok(())
    }

    /// When everything is quiet.
    pub(super) fn check_gate_left(&self) -> Result<(), String> {
        let (gate, look) = (self.sequencer.occupancy(), self.sequencer.look());
        let nobody = gate.inside == 0 && gate.snapshots == 0 && gate.commits == 0;
        if nobody && look.is_quiet() { Ok(()) } else { Err(format!("left over at the gate: {gate:?}, {look:?}")) }
    }
}
