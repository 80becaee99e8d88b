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
mod forms;
mod graph;
mod queries;
mod rows;
mod tables;
mod tokens;
mod walk;
mod writes;

pub use catalogue::Catalogue;
pub use writes::{Change, Form, Rows, follow};

use super::class::Class;
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

/// What running the statement does.
#[must_use]
pub fn effect(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue) -> Effect {
    // The text was not valid in the client's encoding as we read it: names in it are not what they seem. And sqlparser
    // reads backslashes in plain strings as PostgreSQL does with standard_conforming_strings on.
    if sql.contains(char::REPLACEMENT_CHARACTER) || (!std_strings && sql.contains('\\')) {
        return Effect::Unknown;
    }
    let Some(tokens) = Tokens::new(sql, std_strings) else { return Effect::Unknown };
    match class {
        Class::Select { into: false, .. } => query(sql, std_strings, catalogue),
        Class::Show => Effect::MainOnly,
        Class::Explain { analyze: false, .. } => inner(forms::explain(&tokens), sql, std_strings, catalogue),
        Class::CopyTo { stdout: true } => inner(forms::copy(&tokens), sql, std_strings, catalogue),
        Class::Declare => inner(forms::declare(&tokens), sql, std_strings, catalogue),
        _ => Effect::Unknown,
    }
}

/// How a write reaches the replicas. `time`: its time functions will be literals there.
#[must_use]
pub fn form(sql: &str, std_strings: bool, class: &Class, catalogue: &Catalogue, time: bool) -> Form {
    writes::form(sql, std_strings, class, catalogue, time)
}

/// The effect of a statement that wraps a query or a table.
fn inner(form: Option<Inner>, sql: &str, std_strings: bool, catalogue: &Catalogue) -> Effect {
    match form {
        Some(Inner::Query { range, at_least }) => query(&sql[range], std_strings, catalogue).max(at_least),
        Some(Inner::Table(name)) => catalogue.relation(&name).unwrap_or(Effect::Unknown).max(catalogue.implicit),
        None => Effect::Unknown,
    }
}

/// The effect of a text that should be a query, by both witnesses.
fn query(sql: &str, std_strings: bool, catalogue: &Catalogue) -> Effect {
    let Some(tokens) = Tokens::new(sql, std_strings) else { return Effect::Unknown };
    if !tokens.is_query() || !tokens.fit_a_parser() {
        return Effect::Unknown;
    }
    let Some(parts) = walk::read(&tokens.parser_text()) else { return Effect::Unknown };
    // Comparisons and casts that no token shows stand in any statement.
    catalogue.implicit.max(tokens.effect(catalogue, &parts.relations)).max(parts.effect(catalogue))
}

#[cfg(test)]
mod tests;
