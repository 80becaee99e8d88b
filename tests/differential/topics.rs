//! What the generator leaves out, each by name with the reason. A topic is switched on here when its differences are
//! gone; `DIFFERENTIAL_TOPICS=all` (or a list of names) tries them before that.

/// A topic: its name, and whether the generator and the comparison include it.
pub type Topic = (&'static str, bool);

/// A syntax error late in a string of several statements: nothing of the string is run by PostgreSQL.
pub const LATE_SYNTAX: Topic = ("late_syntax", true);
/// Positions of errors inside strings of several statements.
pub const POSITIONS: Topic = ("positions", true);
/// BEGIN with modes inside the implicit block of a string.
pub const BEGIN_MODES: Topic = ("begin_modes", true);
/// BEGIN and an error in a pipeline with one Sync.
pub const PIPELINED_BEGIN: Topic = ("pipelined_begin", true);
/// PREPARE, EXECUTE and DEALLOCATE by SQL.
pub const SQL_PREPARE: Topic = ("sql_prepare", true);
/// FunctionCall.
pub const FUNCTION_CALL: Topic = ("function_call", true);
/// UPDATE and DELETE ... WHERE CURRENT OF.
pub const CURRENT_OF: Topic = ("current_of", false);
/// Sync between the CopyData messages of a COPY whose data has an error: which side of the error it stands on only the
/// server knows, and it does not say.
pub const SYNC_IN_COPY: Topic = ("sync_in_copy", false);
/// A row limit on a statement that writes as its rows are fetched.
pub const SUSPENDED_WRITES: Topic = ("suspended_writes", true);
/// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
pub const TWO_PHASE: Topic = ("two_phase", false);

/// The topic is switched on.
pub fn on((name, on): Topic) -> bool {
    on || std::env::var("DIFFERENTIAL_TOPICS").is_ok_and(|l| l == "all" || l.split(',').any(|t| t == name))
}
