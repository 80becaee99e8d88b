//! Memory: bounds that hold all along, and what must be left of a run when everything is quiet: nothing.

use crate::session::held::inbox_high;
use crate::session::{self};
use crate::shard::driver::Driver;
use crate::sim::driver::SimDriver;
use crate::sim::world::World;

/// What is let go at once is at most this: a packet, the answers to a request, a start-up packet.
const PACKET: usize = 2048;

impl World {
    /// After each turn of a shard.
    pub(super) fn check_bounds(&mut self) -> Result<(), String> {
        let high = SimDriver::HIGH_WATER;
        let (replication, limits) = (&self.config.replication, &self.config.limits);
        let script = usize::try_from(replication.script_limit).unwrap_or(usize::MAX);
        for (s, shard) in self.shards.iter().enumerate() {
            for (_, held) in shard.shard.held() {
                self.largest.inbox = self.largest.inbox.max(held.inbox);
                let bounds = [
                    ("bytes of messages wait", held.inbox, inbox_high(high) + self.largest.turn + PACKET),
                    ("bytes of script are in memory", held.script, script),
                    ("statements are prepared", held.statements, limits.prepared_statements),
                    ("SETs are remembered", held.settings, session::REPLAY_MAX),
                    ("appliers are in hand", held.appliers, self.nodes.len() - 1),
                ];
                if let Some((what, n, most)) = bounds.into_iter().find(|(_, n, most)| n > most) {
                    return Err(format!("a session of shard {s}: {n} {what}; at most {most} may"));
                }
            }
        }
        // Both sides of a session may have been given something in this turn, and a script's packet follows.
        let most = 2 * high + self.largest.turn + PACKET;
        if self.largest.queue > most {
            return Err(format!("{} bytes were queued on one connection; at most {most} may", self.largest.queue));
        }
        Ok(())
    }

    /// When everything is quiet.
    pub(super) fn check_left_over(&self) -> Result<(), String> {
        for (s, shard) in self.shards.iter().enumerate() {
            let shard = &shard.shard;
            let core = shard.core();
            let left = [
                ("sessions wait for watermarks", core.watchers.len()),
                ("questions are open", shard.open_questions()),
                ("things are deferred", core.deferred.len()),
                ("connections are owned beside the pools'", core.owned() - core.pooled() - core.backends.idle()),
                ("sessions wait for a backend", core.backends.waiting()),
                ("clients are counted", shard.counted_clients()),
            ];
            if let Some((what, n)) = left.into_iter().find(|(_, n)| *n > 0) {
                return Err(format!("left over on shard {s}: {n} {what}"));
            }
        }
        self.check_gate_left()?;
        let newest = self.sequencer.newest();
        let behind = self.membership.load().nodes().find(|n| self.sequencer.watermark(*n) < newest);
        match behind {
            Some(node) => Err(format!("left over: node {node} has not acknowledged every commit up to {newest}")),
            None => Ok(()),
        }
    }
}
