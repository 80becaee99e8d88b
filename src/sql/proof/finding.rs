//! What a proof has found: an effect and, if that is no read, the first part of the statement that made it so.

use super::Effect;
use super::catalogue::Catalogue;
use crate::sql::reason::{Kind, Reason};

/// An effect and its reason; none for a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What running it does.
    pub effect: Effect,
    /// Why it is no read.
    pub reason: Option<Reason>,
}

impl Finding {
    /// Nothing stands against it.
    pub(super) const READ: Finding = Finding { effect: Effect::Read, reason: None };

    /// The reason is made only if it is no read.
    pub(super) fn new(effect: Effect, reason: impl FnOnce() -> Reason) -> Finding {
        Finding { effect, reason: (effect != Effect::Read).then(reason) }
    }

    /// Nobody knows.
    pub(super) fn unknown(reason: Reason) -> Finding {
        Finding { effect: Effect::Unknown, reason: Some(reason) }
    }

    /// The effect of what has this name by the catalogue; `None`: it is not there.
    pub(super) fn of_name(effect: Option<Effect>, kind: Kind, name: &str, catalogue: &Catalogue) -> Finding {
        let name = || name.to_owned();
        match effect {
            Some(effect) => Finding::new(effect, || {
                let cause = catalogue.cause(kind, &name());
                Reason::Named { kind, name: name(), cause }
            }),
            None => Finding::unknown(Reason::Missing { kind, name: name() }),
        }
    }

    /// The worse of two; the first one if they are alike.
    pub(super) fn max(self, other: Finding) -> Finding {
        if other.effect > self.effect { other } else { self }
    }

    /// The worst of all, the first of those that are alike; a read if there are none.
    pub(super) fn worst(all: impl Iterator<Item = Finding>) -> Finding {
        all.fold(Finding::READ, Finding::max)
    }
}
