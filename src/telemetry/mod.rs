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
        let one =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds that HdrHistogram accepts");
        Recorder {
            histograms: (0..CLASSES.len() * PHASES.len()).map(|_| one()).collect(),
            counters: Counters::default(),
        }
    }
}

impl Recorder {
    /// Records a latency; what exceeds ten minutes counts as ten minutes.
    pub fn record(&mut self, class: StatementClass, phase: Phase, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.histograms[class as usize * PHASES.len() + phase_index(phase)].saturating_record(us);
    }

    /// Adds another shard's.
    pub fn merge(&mut self, other: &Recorder) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Cannot fail: both have the same bounds.
            let _ = mine.add(theirs);
        }
        self.counters.sessions += other.counters.sessions;
        self.counters.commits += other.counters.commits;
        self.counters.retries += other.counters.retries;
        self.counters.divergences += other.counters.divergences;
        self.counters.early_starts += other.counters.early_starts;
    }

    /// As lines of an aligned table, microseconds.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (class, name) in CLASSES {
            for (phase, phase_name) in PHASES {
                let h = &self.histograms[class as usize * PHASES.len() + phase_index(phase)];
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
            "sessions {} commits {} retries {} divergences {} early_starts {}",
            c.sessions, c.commits, c.retries, c.divergences, c.early_starts
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
