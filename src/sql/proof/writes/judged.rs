//! Which form serves: the first that is proved, and why the ones before it are not.

use std::sync::Arc;

use super::super::catalogue::Catalogue;
use super::super::keys::{self, RowKey};
use super::super::tables::Default as Value;
use super::super::tokens::Tokens;
use super::super::unclear;
use super::{Change, Conflict, Form, delete, insert, list, name, update};
use crate::sql::class::Class;
use crate::sql::reason::Reason;

/// A form, and why it is no cheaper one.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// The first form that was proved.
    pub form: Form,
    /// Why not as a keyed statement.
    pub not_keyed: Option<Reason>,
    /// Why not by its rows.
    pub not_rows: Option<Reason>,
    /// Of a keyed one: the rows that it writes; `None`: nobody can say which.
    pub rows: Option<Vec<RowKey>>,
}

impl Judged {
    fn image(reason: Reason) -> Judged {
        Judged { form: Form::Image(reason.clone()), not_keyed: None, not_rows: Some(reason), rows: None }
    }
}

/// How a statement of this class reaches the replicas. `time`: its time functions will be literals.
pub(in crate::sql::proof) fn judged(
    sql: &str,
    std_strings: bool,
    class: &Class,
    catalogue: &Catalogue,
    time: bool,
) -> Judged {
    let class = match class {
        Class::Explain { analyze: true, inner } => &**inner,
        class => class,
    };
    let explains = !matches!(class, Class::Explain { .. }) && is_explained(sql, std_strings);
    let tokens = match unclear(sql, std_strings) {
        Some(reason) => Err(reason),
        None => Tokens::new(sql, std_strings),
    };
    match (class, tokens) {
        (Class::Insert | Class::Update | Class::Delete, Ok(tokens)) if !explains => {
            table_write(&tokens, class, catalogue, time)
        }
        (Class::Insert | Class::Update | Class::Delete, tokens) => {
            Judged::image(tokens.err().unwrap_or(Reason::Explained))
        }
        (Class::Merge, _) => Judged::image(Reason::RowByRow),
        (Class::WithDml, _) => Judged::image(Reason::WithWrites),
        (Class::Do, _) => Judged::image(Reason::Body("a DO block")),
        (Class::Call, _) => Judged::image(Reason::Body("a procedure")),
        (Class::Select { into: false, .. } | Class::CopyTo { .. }, Ok(tokens)) => match tokens.may_write(catalogue) {
            Some(name) => Judged::image(Reason::MayWrite(name)),
            None => Judged::default(),
        },
        (Class::CopyFrom { .. }, Ok(tokens)) => copy_from(&tokens, catalogue),
        (Class::Truncate, Ok(tokens)) => truncate(&tokens, catalogue),
        _ => Judged { not_rows: Some(Reason::Command), ..Judged::default() },
    }
}

/// EXPLAIN stands in front of it.
fn is_explained(sql: &str, std_strings: bool) -> bool {
    Tokens::new(sql, std_strings).is_ok_and(|t| t.is(0, "explain"))
}

fn table_write(tokens: &Tokens<'_>, class: &Class, catalogue: &Catalogue, time: bool) -> Judged {
    let parsed = match class {
        Class::Insert => insert(tokens),
        Class::Update => update(tokens),
        _ => delete(tokens),
    };
    let Some(write) = parsed else { return Judged::image(Reason::Parts) };
    let Some(table) = catalogue.table(write.schema.as_deref(), &write.table) else {
        return Judged::image(Reason::Table(write.table));
    };
    if !table.plain {
        return Judged::image(Reason::NotPlain(write.table, table.obstacles.clone()));
    }
    let fires = match write.change {
        Change::Insert => false,
        Change::Update => table.update_fires,
        Change::Delete => table.delete_fires,
    };
    if fires {
        return Judged::image(Reason::ForeignKey(write.table));
    }
    let not_keyed = match write.is_keyed(table, tokens, catalogue, time) {
        Ok(()) => {
            let rows = keys::written(&write, table, tokens);
            return Judged { form: Form::Keyed, rows, ..Judged::default() };
        }
        Err(reason) => Some(reason),
    };
    let by_key = write.change != Change::Insert || write.conflict == Some(Conflict::Update);
    if by_key && table.key.is_empty() && !table.full {
        // No replica could tell which row is meant.
        return Judged { not_keyed, not_rows: Some(Reason::NoKey(write.table)), ..Judged::default() };
    }
    match tokens.is_harmless_write(catalogue).and_then(|()| write.rows(table)) {
        Ok(rows) => Judged { form: Form::Rows(Arc::new(rows)), not_keyed, ..Judged::default() },
        Err(reason) => Judged { not_keyed, ..Judged::image(reason) },
    }
}

/// COPY FROM of a plain table, all of whose other columns get the same on every node, goes with its data.
fn copy_from(t: &Tokens<'_>, catalogue: &Catalogue) -> Judged {
    let Some((schema, named, at)) = name(t, 1) else { return Judged::image(Reason::Parts) };
    let Some(table) = catalogue.table(schema.as_deref(), &named) else {
        return Judged::image(Reason::Table(named));
    };
    if !table.plain {
        return Judged::image(Reason::NotPlain(named, table.obstacles.clone()));
    }
    let named = if t.is_char(at, b'(') { t.closing(at).and_then(|close| list(t, at + 1, close)) } else { None };
    let given = |column: &str| named.as_ref().is_none_or(|n| n.iter().any(|name| name == column));
    match table.columns.iter().find(|c| !c.generated && !given(&c.name) && c.default != Value::Fixed) {
        Some(c) => Judged::image(Reason::Default(c.name.clone(), c.why())),
        None => Judged::default(),
    }
}

/// TRUNCATE of plain tables does the same everywhere. Triggers fire at it, and with CASCADE those of tables that it does
/// not name.
fn truncate(t: &Tokens<'_>, catalogue: &Catalogue) -> Judged {
    if t.has("cascade") {
        return Judged::image(Reason::Word("cascade".into()));
    }
    let mut at = 1 + usize::from(t.is(1, "table"));
    loop {
        at += usize::from(t.is(at, "only"));
        let Some((schema, named, behind)) = name(t, at) else { return Judged::image(Reason::Parts) };
        let Some(table) = catalogue.table(schema.as_deref(), &named) else {
            return Judged::image(Reason::Table(named));
        };
        if !table.plain {
            return Judged::image(Reason::NotPlain(named, table.obstacles.clone()));
        }
        at = behind + usize::from(t.is_operator(behind, "*"));
        if !t.is_char(at, b',') {
            return Judged { not_rows: Some(Reason::Command), ..Judged::default() };
        }
        at += 1;
    }
}
