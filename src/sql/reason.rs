//! Why a statement is treated as it is, in words that name the part of it that decides.
//!
//! The proofs themselves give these reasons ([`super::proof::finding`], [`super::proof::judged`]); nothing here decides.
//! They are made once per shape at most, and when `EXPLAIN (PGLOCKSTEP)` asks.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use super::proof::Effect;

/// What a name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A function, aggregate or procedure.
    Function,
    /// An operator.
    Operator,
    /// A table, view, sequence and the like.
    Relation,
    /// A type or domain.
    Type,
}

impl Kind {
    /// The kind and the name, as a text would have them.
    #[must_use]
    pub fn named(self, name: &str) -> String {
        if self == Kind::Function { format!("function {name}()") } else { format!("{self} {name}") }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Function => "function",
            Kind::Operator => "operator",
            Kind::Relation => "relation",
            Kind::Type => "type",
        })
    }
}

/// Why what has a name is no read on every node: the rest of a sentence about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A user's function, VOLATILE (which is the default).
    Volatile,
    /// In `write_function_list`.
    Listed,
    /// A built-in that writes or runs what it is given.
    Writes,
    /// A built-in whose answer is each server's own.
    EachServersOwn,
    /// Who reads the table decides what is seen.
    RowSecurity,
    /// A sequence.
    Sequence,
    /// A foreign table.
    Foreign,
    /// A system catalogue or view.
    System,
    /// A type that a user has made.
    OwnOid,
    /// A function that returns such a type.
    ReturnsOwnOid,
    /// A temporary table.
    Temporary,
    /// Through what it uses.
    Uses(Arc<str>),
    /// The catalogue says nothing.
    Unknown,
}

impl Cause {
    /// That of a built-in function with this effect.
    #[must_use]
    pub fn of_builtin(effect: Effect) -> Cause {
        match effect {
            Effect::Unknown => Cause::Writes,
            Effect::MainOnly => Cause::EachServersOwn,
            Effect::Read => Cause::Unknown,
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Volatile => "is VOLATILE: it may write",
            Cause::Listed => "is in write_function_list",
            Cause::Writes => "writes, or runs what it is given",
            Cause::EachServersOwn => "gives each server's own answer",
            Cause::RowSecurity => "has row security: what is seen depends on who asks",
            Cause::Sequence => "is a sequence: each node counts for itself",
            Cause::Foreign => "is a foreign table: main alone reads it",
            Cause::System => "belongs to the system catalogue, which each node has its own of",
            Cause::OwnOid => "is a user-defined type: its OID is each node's own",
            Cause::ReturnsOwnOid => "returns a user-defined type: its OID is each node's own",
            Cause::Temporary => "is a temporary table: it lives on main alone",
            Cause::Uses(what) => return write!(f, "uses {what}"),
            Cause::Unknown => "is not known",
        })
    }
}

/// Something besides the statement that writes when the table is written, or makes it another kind of thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// A trigger of a user's, and the partition that has it.
    Trigger(String),
    /// A rule.
    Rule(String),
    /// Row security.
    RowSecurity,
    /// Inheritance children.
    Children,
    /// It is a view.
    View,
    /// It is a materialized view.
    MaterializedView,
    /// It is a foreign table, or has such a partition.
    Foreign,
    /// It is a sequence.
    Sequence,
    /// The catalogue does not say.
    Unknown,
}

impl Obstacle {
    /// As the catalogue query writes it: a letter, and a name where there is one.
    #[must_use]
    pub fn read(text: &str) -> Obstacle {
        let name = text.get(2..).unwrap_or_default().to_owned();
        match text.as_bytes().first() {
            Some(b't') => Obstacle::Trigger(name),
            Some(b'r') => Obstacle::Rule(name),
            Some(b's') => Obstacle::RowSecurity,
            Some(b'c') => Obstacle::Children,
            Some(b'v') => Obstacle::View,
            Some(b'm') => Obstacle::MaterializedView,
            Some(b'f') => Obstacle::Foreign,
            Some(b'S') => Obstacle::Sequence,
            _ => Obstacle::Unknown,
        }
    }
}

impl Display for Obstacle {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Trigger(name) => write!(f, "has trigger {name}"),
            Obstacle::Rule(name) => write!(f, "has rule {name}"),
            Obstacle::RowSecurity => f.write_str("has row security"),
            Obstacle::Children => f.write_str("has inheritance children"),
            Obstacle::View => f.write_str("is a view"),
            Obstacle::MaterializedView => f.write_str("is a materialized view"),
            Obstacle::Foreign => f.write_str("is a foreign table, or has a partition that is one"),
            Obstacle::Sequence => f.write_str("is a sequence"),
            Obstacle::Unknown => f.write_str("is no plain table"),
        }
    }
}

/// Why a column's default is not the same on every node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Given {
    /// GENERATED AS IDENTITY.
    Identity,
    /// Its sequence.
    Sequence(String),
    /// It calls this function.
    Calls(String),
    /// A clock, or another expression that is evaluated anew.
    Anew,
}

impl Display for Given {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Given::Identity => f.write_str("is an identity column"),
            Given::Sequence(name) => write!(f, "takes its default from sequence {name}"),
            Given::Calls(name) => write!(f, "has a default that calls {name}()"),
            Given::Anew => f.write_str("has a default that is evaluated anew (a clock, a conversion by way of text)"),
        }
    }
}

/// Why a proof failed, or why it only shows that main must run the statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There is no catalogue to prove anything by.
    NoCatalogue,
    /// A server has refused to run the statement as a read.
    Refuted,
    /// The text is not valid in the client's encoding.
    Encoding,
    /// A backslash in a text, while `standard_conforming_strings` is off.
    Backslash,
    /// A string or comment has no end.
    Unterminated,
    /// More tokens than a proof looks at.
    TooLong(usize),
    /// More operators and the like than the parser's stack may be given.
    TooDeep(usize),
    /// A server may fold or cut this identifier in its own way.
    Identifier(String),
    /// No proof is made for this kind of statement.
    Command,
    /// SHOW: settings are each server's own.
    Show,
    /// What stands inside EXPLAIN, COPY or DECLARE is no query that is understood.
    Wrapped,
    /// The second witness, sqlparser, cannot read it; what it says.
    Parser(String),
    /// It can, but a part is not among those that are known here.
    Construct(String),
    /// This word may write.
    Word(String),
    /// A lock on rows.
    RowLock,
    /// TABLESAMPLE.
    Sample,
    /// A name that means the session's own schema.
    OwnSchema(String),
    /// A column or word that each node has its own of.
    NodesOwn(String),
    /// What has this name does something.
    Named {
        /// Function, relation and so on.
        kind: Kind,
        /// As the catalogue has it, without schema.
        name: String,
        /// Why.
        cause: Cause,
    },
    /// Nothing has this name.
    Missing {
        /// Function, relation and so on.
        kind: Kind,
        /// As the text has it.
        name: String,
    },
    /// A table's row leaves the server as one value.
    WholeRow,
    /// Comparisons or casts between built-in types may call what users have made.
    Implicit,
    /// DECLARE ... WITH HOLD.
    Hold,
    /// The write's parts could not be told.
    Parts,
    /// Nothing that can be written has this name, or several schemas have something of it.
    Table(String),
    /// The table is not plain.
    NotPlain(String, Vec<Obstacle>),
    /// A string that means a moment.
    Moment,
    /// A query stands in the write: what it finds may differ.
    Subquery(String),
    /// Its value is not the same everywhere: not immutable.
    Varies(String),
    /// A call of a name that is not known.
    Call(String),
    /// An INSERT without VALUES of its own, or with something behind them.
    NoValues,
    /// Several rows with ON CONFLICT.
    SeveralRows,
    /// A column that the INSERT leaves to its default.
    Default(String, Given),
    /// DEFAULT stands as a value, and some column's default varies.
    DefaultWord,
    /// The default calls something of which nobody knows what it writes.
    DoubtfulDefault(String, Given),
    /// Another table takes part.
    Joins,
    /// The table has no primary key.
    NoKey(String),
    /// No WHERE.
    NoCondition,
    /// The condition has this word.
    Condition(String),
    /// The condition does not name these columns of the key by equality with a value.
    KeyNotNamed(Vec<String>),
    /// A column of the key is set.
    KeyChanges(String),
    /// GENERATED ALWAYS AS IDENTITY is set.
    Always(String),
    /// No column is left that could be asked for.
    NothingToAsk,
    /// EXPLAIN ANALYZE stands in front of a write.
    Explained,
    /// MERGE.
    RowByRow,
    /// A WITH query writes.
    WithWrites,
    /// A body that no proof looks into.
    Body(&'static str),
    /// A query in which this name, or word, may write.
    MayWrite(String),
    /// A foreign key that refers to the table makes the write reach another one, which is not plain.
    ForeignKey(String),
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        use Reason as R;
        match self {
            R::NoCatalogue => f.write_str("the catalogue could not be read: nothing is proved"),
            R::Refuted => f.write_str("a server has refused to run such a statement as a read"),
            R::Encoding => f.write_str("the text is no UTF-8"),
            R::Backslash => f.write_str("a backslash stands in it while standard_conforming_strings is off"),
            R::Unterminated => f.write_str("a string or comment in it has no end"),
            R::TooLong(max) => write!(f, "it has more than {max} words and signs"),
            R::TooDeep(max) => write!(f, "it has more than {max} operators and conjunctions"),
            R::Identifier(name) => write!(
                f,
                "servers may read the identifier {name} differently (longer than 63 bytes, or not ASCII in capitals)"
            ),
            R::Command => f.write_str("no proof is made for this kind of statement"),
            R::Show => f.write_str("settings are each server's own"),
            R::Wrapped => f.write_str("what it wraps is no query that is understood"),
            R::Parser(said) => write!(f, "not understood: {said}"),
            R::Construct(part) => write!(f, "this part is not known: {part}"),
            R::Word(word) => write!(f, "{} may write", word.to_uppercase()),
            R::RowLock => f.write_str("it locks rows"),
            R::Sample => f.write_str("TABLESAMPLE picks other rows on each node"),
            R::OwnSchema(name) => write!(f, "schema {name} is the session's own"),
            R::NodesOwn(name) => write!(f, "{name} is each node's own"),
            R::Named { kind, name, cause } => write!(f, "{} {cause}", kind.named(name)),
            R::Missing { kind, name } => write!(f, "{} is not in the catalogue", kind.named(name)),
            R::WholeRow => f.write_str("a whole row is a result: the OID of its type is each node's own"),
            R::Implicit => {
                f.write_str("a user-defined operator or cast may stand behind any comparison in this database")
            }
            R::Hold => f.write_str("the cursor outlives its transaction"),
            R::Parts => f.write_str("not understood: its parts could not be told"),
            R::Table(name) => write!(f, "table {name} is not in the catalogue, or the name stands in several schemas"),
            R::NotPlain(table, why) => {
                let why: Vec<String> = why.iter().map(ToString::to_string).collect();
                write!(f, "table {table} {}", why.join(" and "))
            }
            R::Moment => f.write_str("a string in it means a moment ('now', 'today')"),
            R::Subquery(word) => {
                write!(f, "{} stands in it: what a query finds may differ between nodes", word.to_uppercase())
            }
            R::Varies(name) => write!(f, "{name} is not immutable"),
            R::Call(name) => write!(f, "it is not known what {name}() writes"),
            R::NoValues => f.write_str("its rows are not given by VALUES"),
            R::SeveralRows => f.write_str("ON CONFLICT with several rows: how many are hit depends on what is there"),
            R::Default(column, given) => write!(f, "column {column} {given}"),
            R::DefaultWord => f.write_str("DEFAULT stands for a value, and a column's default differs between nodes"),
            R::DoubtfulDefault(column, given) => {
                write!(f, "column {column} {given}, and it is not known what that writes")
            }
            R::Joins => f.write_str("another table takes part"),
            R::NoKey(table) => write!(f, "table {table} has no primary key"),
            R::NoCondition => f.write_str("it has no WHERE: it names no row"),
            R::Condition(word) => write!(f, "{} stands in its WHERE", word.to_uppercase()),
            R::KeyNotNamed(columns) => {
                write!(f, "WHERE does not name primary key {} = value", columns.join(" = value, "))
            }
            R::KeyChanges(column) => write!(f, "column {column} of the primary key is set"),
            R::Always(column) => write!(f, "column {column} is GENERATED ALWAYS AS IDENTITY"),
            R::Explained => f.write_str("EXPLAIN ANALYZE stands in front of it"),
            R::RowByRow => f.write_str("MERGE chooses what it does row by row"),
            R::WithWrites => f.write_str("WITH has a part that writes"),
            R::Body(what) => write!(f, "nobody knows what {what} writes"),
            R::MayWrite(name) => write!(f, "{name} may write"),
            R::ForeignKey(table) => write!(
                f,
                "a foreign key that refers to table {table} changes rows of a table with triggers or rules, or gives defaults"
            ),
            R::NothingToAsk => f.write_str("there is no column that main could be asked for"),
        }
    }
}

impl Reason {
    /// Triggers or rules would act a second time; an image needs no advice about that.
    #[must_use]
    pub fn is_of_triggers(&self) -> bool {
        let acts = |o: &Obstacle| matches!(o, Obstacle::Trigger(_) | Obstacle::Rule(_));
        matches!(self, Reason::NotPlain(_, why) if why.iter().any(acts))
    }

    /// What to change, if that lies with the user.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        use Reason as R;
        let text = match self {
            R::Named { kind: Kind::Function, name, cause: Cause::Volatile } => format!(
                "If {name}() only reads, declare it STABLE or IMMUTABLE, or put it into read_only_function_list."
            ),
            R::Named { cause: Cause::Uses(what), .. } if what.contains("VOLATILE") => {
                "If that function only reads, declare it STABLE or IMMUTABLE, or put it into read_only_function_list."
                    .into()
            }
            R::Named { cause: Cause::Listed, name, .. } => {
                format!("If {name}() only reads, take it out of write_function_list.")
            }
            R::Backslash => "SET standard_conforming_strings = on.".into(),
            R::Encoding => "Use client_encoding UTF8.".into(),
            R::TooLong(_) | R::TooDeep(_) => "Split the statement, or pass a list as an array parameter.".into(),
            R::Parser(_) | R::Construct(_) | R::Parts => "Write it in simpler SQL.".into(),
            R::RowLock => "Leave FOR UPDATE or FOR SHARE out if the rows need not be locked.".into(),
            R::WholeRow => "Name the columns, or use row_to_json().".into(),
            R::Table(name) => format!("Write the schema in front of {name}."),
            _ if self.is_of_triggers() => "See to it that triggers and rules compute the same on every node.".into(),
            R::NotPlain(_, why) if why.contains(&Obstacle::View) => "Write the table itself, and not the view.".into(),
            R::RowByRow => "Send the INSERT, UPDATE and DELETE themselves.".into(),
            R::WithWrites => "Send the statement that writes alone, with RETURNING.".into(),
            R::Body(_) | R::MayWrite(_) => "Send the INSERT, UPDATE or DELETE itself, which can go by its rows.".into(),
            R::Subquery(_) | R::Joins => "Read first, then write explicit values.".into(),
            R::NoValues => "Write explicit values.".into(),
            R::Varies(name) => format!("Compute {name} in the client, and write the value."),
            R::Moment => "Use now() or CURRENT_DATE, which become literals.".into(),
            R::Default(column, _) => format!("Give {column} a value in the statement."),
            R::DoubtfulDefault(column, _) => format!("Give {column} another default, of built-in functions only."),
            R::DefaultWord => "Give the value.".into(),
            R::NoKey(table) => format!("Give {table} a primary key."),
            R::NoCondition | R::Condition(_) => "Name one row by its whole primary key, with AND only.".into(),
            R::KeyNotNamed(columns) => format!("Name {} by = with a literal or a parameter.", columns.join(" and ")),
            R::KeyChanges(column) => format!("Leave {column} as it is: DELETE the row and INSERT it anew."),
            R::SeveralRows => "Send one INSERT for each row.".into(),
            _ => return None,
        };
        Some(text)
    }

    /// The same for a value that is to be written.
    #[must_use]
    pub fn advice_for_write(&self) -> Option<String> {
        match self {
            Reason::Named { kind: Kind::Function, name, cause: Cause::EachServersOwn | Cause::Writes } => {
                Some(format!("Compute {name}() first, and write the value."))
            }
            _ => self.advice(),
        }
    }
}
