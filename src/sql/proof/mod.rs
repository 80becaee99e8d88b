//! Read proofs: which statements any node may serve, and which change no rows but belong on main.
//!
//! A proof needs two witnesses. Our own lexer looks at every token ([`tokens`]): no word that could write, every
//! function, operator, type and relation that a name *could* mean harmless by main's catalogue ([`catalogue`]). And
//! sqlparser must read the text as exactly one query of known parts ([`walk`]), which says where relations, functions
//! and types stand. Neither is believed alone: sqlparser accepts what PostgreSQL refuses and the other way round.
//!
//! Names are resolved without search_path: one counts as harmless only if everything of that name in whatever schema
//! is, so that neither role nor search_path can change the verdict (hazard 20).
//!
//! What is taken for the same on every node although it need not be:
//! - now(), CURRENT_TIMESTAMP, one-argument age() and kin are each node's own clock, as with Pgpool-II.
//! - Rows without ORDER BY, array_agg, LIMIT and the like follow the physical order (hazard 13). One PostgreSQL
//!   promises no order either.
//! - A user function that is declared STABLE or IMMUTABLE is believed (hazard 23); the server's own read-only check
//!   catches most of those that lie, and `write_function_list` names the rest.
//! - current_user, session_user, current_schema: readers log in as the client's role and are given its settings.
//!
//! Not judged here, since a statement's text does not show it: temporary tables (the session knows them) and types of
//! parameters that the client states in Parse.

mod builtin;
mod catalogue;
mod finding;
mod forms;
mod graph;
mod keys;
mod queries;
mod rows;
mod tables;
mod tokens;
mod walk;
mod writes;

pub use catalogue::Catalogue;
pub use finding::Finding;
pub use keys::{Keyed, RowKey};
pub use writes::{Change, Form, Judged, Rows, follow};

use super::class::Class;
use super::reason::{Kind, Reason};
use forms::Inner;
use tokens::Tokens;

/// What running the statement does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// Nothing, and every node gives the same rows: any of them may run it.
    Read,
    /// It changes no rows, but belongs on main: locks, catalogues, sequences, clocks, session state.
    MainOnly,
    /// Nobody knows.
    Unknown,
}

/// What running the statement does, and why it is no read.
#[must_use]
pub fn finding(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue) -> Finding {
    if let Some(reason) = unclear(sql, std_strings) {
        return Finding::unknown(reason);
    }
    let tokens = match Tokens::new(sql, std_strings) {
        Ok(tokens) => tokens,
        Err(reason) => return Finding::unknown(reason),
    };
    match class {
        Class::Select { into: false, .. } => query(sql, std_strings, catalogue),
        Class::Show => Finding::new(Effect::MainOnly, || Reason::Show),
        Class::Explain { analyze: false, .. } => inner(forms::explain(&tokens), sql, std_strings, catalogue),
        Class::CopyTo { stdout: true } => inner(forms::copy(&tokens), sql, std_strings, catalogue),
        Class::Declare => inner(forms::declare(&tokens), sql, std_strings, catalogue),
        _ => Finding::unknown(Reason::Command),
    }
}

/// What running the statement does.
#[must_use]
pub fn effect(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue) -> Effect {
    finding(sql, std_strings, class, catalogue).effect
}

/// Why nothing can be proved of the text: it was not valid in the client's encoding as we read it, so names in it are not
/// what they seem; or sqlparser would read backslashes in plain strings as PostgreSQL does with
/// standard_conforming_strings on only.
fn unclear(sql: &str, std_strings: bool) -> Option<Reason> {
    if sql.contains(char::REPLACEMENT_CHARACTER) {
        return Some(Reason::Encoding);
    }
    (!std_strings && sql.contains('\\')).then_some(Reason::Backslash)
}

/// How a write reaches the replicas, and why in no cheaper form. `time`: its time functions will be literals there.
#[must_use]
pub fn judged(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue, time: bool) -> Judged {
    writes::judged(sql, std_strings, class, catalogue, time)
}

/// The one row that a query looks at, if that is proved.
#[must_use]
pub fn row_read(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue) -> Option<RowKey> {
    if !matches!(class, Class::Select { into: false, .. }) || unclear(sql, std_strings).is_some() {
        return None;
    }
    keys::read(&Tokens::new(sql, std_strings).ok()?, catalogue)
}

/// How a write reaches the replicas.
#[must_use]
pub fn form(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue, time: bool) -> Form {
    judged(sql, std_strings, class, catalogue, time).form
}

/// The effect of a statement that wraps a query or a table.
fn inner(form: Option<Inner>, sql: &str, std_strings: bool, catalogue: &Catalogue) -> Finding {
    match form {
        Some(Inner::Query { range, at_least }) => {
            query(&sql[range], std_strings, catalogue).max(Finding::new(at_least, || Reason::Hold))
        }
        Some(Inner::Table(name)) => relation(&name, catalogue).max(implicit(catalogue)),
        None => Finding::unknown(Reason::Wrapped),
    }
}

/// What reading relations of this name does.
fn relation(name: &str, catalogue: &Catalogue) -> Finding {
    Finding::of_name(catalogue.relation(name), Kind::Relation, name, catalogue)
}

/// What comparisons and casts do that no token shows: they stand in any statement.
fn implicit(catalogue: &Catalogue) -> Finding {
    Finding::new(catalogue.implicit, || Reason::Implicit)
}

/// The effect of a text that should be a query, by both witnesses.
fn query(sql: &str, std_strings: bool, catalogue: &Catalogue) -> Finding {
    let read = || {
        let tokens = Tokens::new(sql, std_strings)?;
        if !tokens.is_query() {
            return Err(Reason::Wrapped);
        }
        tokens.fit_a_parser()?;
        let parts = walk::read(&tokens.parser_text())?;
        Ok((tokens, parts))
    };
    match read() {
        Ok((tokens, parts)) => {
            tokens.effect(catalogue, &parts.relations).max(parts.effect(catalogue)).max(implicit(catalogue))
        }
        Err(reason) => Finding::unknown(reason),
    }
}

#[cfg(test)]
mod tests;
