//! What a shard measures: latencies by statement class and phase, and counters. Nothing is allocated when recording.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Largest latency that is told apart, microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatementClass {
    /// A read on a reader.
    Read,
    /// Anything on main.
    Main,
    /// COMMIT of a transaction that wrote.
    Commit,
}

/// Which part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Main's part.
    Main,
    /// Until all replicas had applied the script.
    Apply,
    /// Until all replicas had committed.
    Commit,
    /// All of it.
    Total,
}

const CLASSES: [(StatementClass, &str); 3] =
    [(StatementClass::Read, "read"), (StatementClass::Main, "main"), (StatementClass::Commit, "commit")];
const PHASES: [(Phase, &str); 4] =
    [(Phase::Apply, "apply"), (Phase::Main, "main"), (Phase::Commit, "replicas"), (Phase::Total, "total")];

/// What is measured of the gate (`snapshot_isolation`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// How long a snapshot waited for it.
    Snapshot,
    /// How long a commit waited for it.
    Commit,
    /// How long a commit's window was open.
    Window,
}

const GATES: [(Gate, &str); 3] = [(Gate::Snapshot, "snapshot"), (Gate::Commit, "commit"), (Gate::Window, "window")];

/// Events counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Clients accepted.
    pub sessions: u64,
    /// Transactions committed on all nodes.
    pub commits: u64,
    /// Scripts applied once more, since the replica owed a commit or chose a victim.
    pub retries: u64,
    /// Scripts that had another effect on a replica.
    pub divergences: u64,
    /// Transactions that were sent to replicas while their clients were at work.
    pub early_starts: u64,
    /// Single reads that a replica answered, and whose snapshot held.
    pub reads_at_once: u64,
    /// Single reads that were run again (by main, or in the gate), since a commit was under way when a replica took their
    /// snapshot.
    pub reads_again: u64,
    /// Single reads that main was sent at once, since a commit was under way.
    pub reads_busy: u64,
    /// Single reads that got their snapshot on a replica in the gate, at once or run again.
    pub reads_in_gate: u64,
    /// Blocks that began to read on a replica and went on on main, in the same snapshot.
    pub blocks_moved: u64,
    /// Single statements that were run again after a write conflict (40001).
    pub conflicts: u64,
}

impl Counters {
    fn add(&mut self, other: &Counters) {
        self.sessions += other.sessions;
        self.commits += other.commits;
        self.retries += other.retries;
        self.divergences += other.divergences;
        self.early_starts += other.early_starts;
        self.reads_at_once += other.reads_at_once;
        self.reads_again += other.reads_again;
        self.reads_busy += other.reads_busy;
        self.reads_in_gate += other.reads_in_gate;
        self.blocks_moved += other.blocks_moved;
        self.conflicts += other.conflicts;
    }
}

/// One shard's measurements.
pub struct Recorder {
    histograms: Vec<Histogram<u64>>,
    /// Events counted.
    pub counters: Counters,
}

impl Default for Recorder {
    fn default() -> Recorder {
        // Three significant digits up to ten minutes: about 200 KiB each, and the bounds are constants that fit.
        let one = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds that HdrHistogram accepts");
        Recorder { histograms: vec![one; CLASSES.len() * PHASES.len() + GATES.len()], counters: Counters::default() }
    }
}

impl Recorder {
    /// Records a latency; what exceeds ten minutes counts as ten minutes.
    pub fn record(&mut self, class: StatementClass, phase: Phase, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histograms[class as usize * PHASES.len() + phase_index(phase)].saturating_record(us);
    }

    /// Records a wait at the gate, or a window.
    pub fn gate(&mut self, which: Gate, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histograms[CLASSES.len() * PHASES.len() + which as usize].saturating_record(us);
    }

    /// Adds another shard's.
    pub fn merge(&mut self, other: &Recorder) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Cannot fail: both have the same bounds.
            let _ = mine.add(theirs);
        }
        self.counters.add(&other.counters);
    }

    /// As lines of an aligned table, microseconds.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let of_classes = CLASSES.iter().flat_map(|(_, class)| PHASES.iter().map(|(_, phase)| (*class, *phase)));
        let of_gate = GATES.iter().map(|(_, name)| ("gate", *name));
        let mut lines = Vec::new();
        for (at, (name, phase_name)) in of_classes.chain(of_gate).enumerate() {
            let h = &self.histograms[at];
            if h.is_empty() {
                continue;
            }
            let q = |p: f64| h.value_at_quantile(p);
            lines.push(format!(
                "{name:<7}{phase_name:<9}{:>10} {:>9} {:>9} {:>9} {:>9}",
                h.len(),
                q(0.5),
                q(0.95),
                q(0.99),
                h.max()
            ));
        }
        if !lines.is_empty() {
            let head = format!(
                "{:<7}{:<9}{:>10} {:>9} {:>9} {:>9} {:>9}",
                "class", "phase", "count", "p50 us", "p95 us", "p99 us", "max us"
            );
            lines.insert(0, head);
        }
        let c = &self.counters;
        lines.push(format!(
            "sessions {} commits {} retries {} divergences {} early_starts {} reads_at_once {} reads_again {} reads_busy {} reads_in_gate {} blocks_moved {} conflicts {}",
            c.sessions,
            c.commits,
            c.retries,
            c.divergences,
            c.early_starts,
            c.reads_at_once,
            c.reads_again,
            c.reads_busy,
            c.reads_in_gate,
            c.blocks_moved,
            c.conflicts
        ));
        lines
    }

    /// Writes the table to the log.
    pub fn dump(&self) {
        for line in self.lines() {
            tracing::info!("{line}");
        }
    }
}

fn phase_index(phase: Phase) -> usize {
    PHASES.iter().position(|(p, _)| *p == phase).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_on_two_shards_is_printed_as_one_table() {
        let (mut a, mut b) = (Recorder::default(), Recorder::default());
        a.record(StatementClass::Commit, Phase::Total, Duration::from_millis(2));
        b.record(StatementClass::Commit, Phase::Total, Duration::from_secs(3600));
        b.counters.commits = 2;
        a.merge(&b);
        let lines = a.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].starts_with("commit total") && lines[1].contains(" 2 "), "{}", lines[1]);
        assert!(lines[2].contains("commits 2"));
    }
}
