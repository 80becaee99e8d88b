//! Bugs that can be switched on in this crate's own tests, to see that the simulator finds them.

/// A planted bug. Constantly absent outside of tests.
#[cfg_attr(not(test), allow(dead_code))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Planted {
    /// A script is applied after main's COMMIT.
    ApplyAfterMain,
    /// A disagreement is believed although commits are outstanding.
    BelieveAtOnce,
    /// A disagreement is never believed.
    BelieveNever,
    /// A lost applier's script is applied again before its backend is gone.
    ApplyTwice,
    /// COMMIT is sent while a commit that the transaction may rest on is unanswered.
    CommitWithoutNeed,
    /// The client hears of a COMMIT before the last node has acknowledged it.
    AnswerEarly,
    /// An applier goes back to its pool with a reply owed.
    PoolTooEarly,
    /// A statement is sent again after part of its answer was delivered.
    ResendAnswered,
    /// A reply goes to the neighbour's request.
    NeighboursReply,
    /// An applier lost after COMMIT was sent to main is replaced.
    ReplaceAfterMain,
    /// A commit that a node lacks is acknowledged before all shards have confirmed that the node is out.
    AckBeforeAll,
    /// A commit that had been sent to the old main is not finished on the survivors.
    ForgetSent,
    /// A commit's window opens when main has answered.
    WindowTooLate,
    /// A commit's window closes when main has answered.
    WindowTooEarly,
    /// A commit leaves the gate, and its window closes, when one of several replicas has acknowledged it.
    WindowToFirst,
    /// A commit takes back the marks of its rows when main has answered.
    RowsTooEarly,
    /// A commit marks only the rows of the last statement that wrote any.
    LastRowsOnly,
    /// Whoever arrives at the gate joins its class's phase, whoever waits.
    ArrivalsJoin,
    /// A shard that is rung looks only at watermarks, and not at the gate.
    DeafToRings,
    /// A new main is used before it has all commits that the lost one was sent.
    NewMainAtOnce,
    /// The epoch is not part of the window word.
    EpochApart,
    /// A read on a replica takes ParseComplete for a proof of its snapshot.
    LookAtParse,
    /// A READ ONLY block takes its snapshot on a replica outside the gate.
    NoGate,
    /// The steps of an image are applied in reverse.
    ImageReversed,
    /// COMMIT PREPARED is sent to main, and the image is applied after it.
    ImageAfterMain,
    /// What main has prepared for a lost session is left behind.
    LeavePrepared,
    /// A block that reads on a replica takes its snapshot on main with its first statement there, outside the gate.
    TwinOutside,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Plants one on this thread, or takes it away.
#[cfg(test)]
pub(crate) fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

/// This bug is planted.
#[cfg(test)]
pub(crate) fn is(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// This bug is planted.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn is(_: Planted) -> bool {
    false
}
