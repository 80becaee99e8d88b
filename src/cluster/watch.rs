//! When is a node lost? Sans-I/O: probes' outcomes in, findings out; the control plane and the simulator's probe.
//!
//! A probe is a new connection that asks for the node's incarnation: the start time of its checkpointer, which changes
//! with every restart, a crash restart included (pg_postmaster_start_time() does not; hazard 38). An old connection
//! proves nothing: those of a server that is stopping still answer (hazard 39). A terminated backend is no reason, nor
//! is one that waits for a lock: both are asked about, and neither is a probe that fails.

/// What a probe has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probed {
    /// The node answers. Its incarnation, if the role may see it (pg_monitor).
    Answers(Option<String>),
    /// It lets nobody in and says why, but it is there: too many clients, a wrong password.
    Refuses(String),
    /// It does not answer, or is starting, stopping or recovering.
    Fails(String),
}

/// What follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The node stands.
    Stands,
    /// To be probed once more, after `health_check_retry_delay`.
    Again(String),
    /// It is lost.
    Lost(String),
}

/// One node, watched.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    incarnation: Option<String>,
    failures: u32,
}

impl Watch {
    /// A node that was found to be of this incarnation; `None`: nobody may see it.
    #[must_use]
    pub fn new(incarnation: Option<String>) -> Watch {
        Watch { incarnation, failures: 0 }
    }

    /// The incarnation in which the node was taken in.
    #[must_use]
    pub fn incarnation(&self) -> Option<&str> {
        self.incarnation.as_deref()
    }

    /// A probe has ended. `forgiven`: failures in a row that are (`health_check_max_retries`).
    pub fn probed(&mut self, outcome: Probed, forgiven: u32) -> Finding {
        match outcome {
            Probed::Answers(now) => {
                self.failures = 0;
                match (&self.incarnation, now) {
                    (Some(before), Some(now)) if *before != now => Finding::Lost("it has restarted".into()),
                    (None, now) => {
                        self.incarnation = now;
                        Finding::Stands
                    }
                    _ => Finding::Stands,
                }
            }
            Probed::Refuses(_) => Finding::Stands,
            Probed::Fails(why) => {
                self.failures += 1;
                if self.failures > forgiven {
                    self.failures = 0;
                    return Finding::Lost(format!("health check failed: {why}"));
                }
                Finding::Again(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(incarnation: &str) -> Probed {
        Probed::Answers(Some(incarnation.into()))
    }

    #[test]
    fn a_node_is_lost_after_failures_in_a_row_or_when_it_has_restarted() {
        let mut w = Watch::new(Some("10:00".into()));
        let fails = || Probed::Fails("refused".into());
        assert_eq!(w.probed(fails(), 1), Finding::Again("refused".into()));
        assert_eq!(w.probed(answers("10:00"), 1), Finding::Stands);
        assert_eq!(w.probed(fails(), 1), Finding::Again("refused".into()));
        assert!(matches!(w.probed(fails(), 1), Finding::Lost(_)));
        assert!(matches!(w.probed(answers("10:01"), 1), Finding::Lost(_)));
    }

    #[test]
    fn what_nobody_may_see_and_a_node_that_is_full_prove_nothing() {
        let mut w = Watch::default();
        assert_eq!(w.probed(Probed::Answers(None), 0), Finding::Stands);
        assert_eq!(w.probed(Probed::Refuses("too many clients".into()), 0), Finding::Stands);
        assert_eq!(w.probed(answers("10:00"), 0), Finding::Stands);
        assert_eq!(w.probed(Probed::Answers(None), 0), Finding::Stands);
        assert!(matches!(w.probed(answers("10:01"), 0), Finding::Lost(_)));
    }
}
