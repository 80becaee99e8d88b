#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation { ReadUncommitted, ReadCommitted, RepeatableRead, Serializable }
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxModes { pub isolation: Option<Isolation>, pub read_only: Option<bool>, pub deferrable: Option<bool> }
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiscardWhat { All, Plans, Temp, Sequences }
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
  Begin(TxModes), Commit{chain:bool}, Rollback{chain:bool}, Savepoint(String), RollbackTo(String), Release(String),
  PrepareTransaction, CommitPrepared, RollbackPrepared,
  Select{ for_update:bool, into:bool }, Insert, Update, Delete, Merge, WithDml,
  CopyFrom{stdin:bool}, CopyTo{stdout:bool, query:bool, program:bool},
  Truncate, Lock, Set{local:bool, name:String}, Reset(String), Show, SetTransaction, SetSessionCharacteristics, SetConstraints,
  Discard(DiscardWhat), Prepare(String), Execute(String), Deallocate(Option<String>),
  Declare{name:String, hold:bool}, Fetch, Move, ClosePortal, Listen, Unlisten, Notify,
  Explain{analyze:bool, inner: Box<Class>}, Call, Do, NonTransactional(&'static str), CreateTemp, Ddl(&'static str),
  Analyze, Checkpoint, Load, Cluster, Empty, Other }
pub fn written_relation(_t: &str, _s: bool) -> Option<String> { None }
