//! Definitions: CREATE, ALTER, DROP, TRUNCATE, from sqlparser's trees.

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::parse::{data_type, expr, ident, object};
use super::sql::*;
use super::value::{Res, Type, unknown};
use crate::wire::PgError;

/// A definition; anything else is not known.
pub fn definition(s: ast::Statement) -> Res<Statement> {
    Ok(match s {
        ast::Statement::CreateTable(c) => Statement::CreateTable(create_table(c)?),
        ast::Statement::CreateSequence { temporary: false, if_not_exists, name, sequence_options } => {
            let (mut start, mut increment) = (None, 1);
            for o in sequence_options {
                match o {
                    ast::SequenceOptions::StartWith(e, _) => start = Some(number(e)?),
                    ast::SequenceOptions::IncrementBy(e, _) => increment = number(e)?,
                    other => return Err(unknown(other)),
                }
            }
            let start = start.unwrap_or(if increment < 0 { -1 } else { 1 });
            Statement::CreateSequence { name: object(&name)?, if_not_exists, start, increment }
        }
        ast::Statement::Drop {
            object_type,
            if_exists,
            names,
            cascade: false,
            purge: false,
            temporary: false,
            table: None,
            ..
        } => {
            let names = names.iter().map(object).collect::<Res<_>>()?;
            match object_type {
                ast::ObjectType::Table => Statement::DropTable { names, if_exists },
                ast::ObjectType::Sequence => Statement::DropSequence { names, if_exists },
                other => return Err(unknown(format!("DROP {other}"))),
            }
        }
        ast::Statement::Truncate(t) => {
            let plain = t.partitions.is_none() && !t.if_exists && t.on_cluster.is_none();
            if !plain || t.table_names.iter().any(|n| n.has_asterisk) {
                return Err(unknown(t));
            }
            Statement::Truncate {
                names: t.table_names.iter().map(|n| object(&n.name)).collect::<Res<_>>()?,
                restart: t.identity == Some(ast::TruncateIdentityOption::Restart),
                cascade: t.cascade == Some(ast::CascadeOption::Cascade),
            }
        }
        ast::Statement::AlterTable(a) => {
            let shown = a.to_string();
            match a.operations.as_slice() {
                [
                    ast::AlterTableOperation::AddColumn {
                        if_not_exists: false, column_def, column_position: None, ..
                    },
                ] if !a.if_exists && a.location.is_none() && a.on_cluster.is_none() => {
                    let (column, keys) = column(column_def)?;
                    if !keys.is_empty() || column.serial {
                        return Err(unknown(shown));
                    }
                    Statement::AddColumn { table: object(&a.name)?, column }
                }
                _ => return Err(unknown(shown)),
            }
        }
        other => return Err(unknown(format!("this statement: {other}"))),
    })
}

fn number(e: ast::Expr) -> Res<i64> {
    match expr(e)? {
        Expr::Literal(super::value::Value::Int(n), _) => Ok(n),
        Expr::Negate(inner) => match *inner {
            Expr::Literal(super::value::Value::Int(n), _) => Ok(-n),
            other => Err(unknown(format!("{other:?} as a number"))),
        },
        other => Err(unknown(format!("{other:?} as a number"))),
    }
}

/// A constraint.
enum Key {
    Unique(UniqueSpec),
    Foreign(ForeignSpec),
}

fn create_table(mut c: ast::CreateTable) -> Res<CreateTable> {
    let bare = Parser::parse_sql(&PostgreSqlDialect {}, "CREATE TABLE t ()");
    let Ok([ast::Statement::CreateTable(bare)]) = bare.as_deref() else { return Err(unknown("CREATE TABLE")) };
    let (columns, constraints) = (std::mem::take(&mut c.columns), std::mem::take(&mut c.constraints));
    let name = object(&std::mem::replace(&mut c.name, bare.name.clone()))?;
    let if_not_exists = std::mem::take(&mut c.if_not_exists);
    if c != *bare {
        return Err(unknown(format!("all of this CREATE TABLE: {c}")));
    }
    let mut table = CreateTable { name, if_not_exists, columns: Vec::new(), uniques: Vec::new(), foreigns: Vec::new() };
    let mut keys = Vec::new();
    for def in &columns {
        let (column, its_keys) = column(def)?;
        table.columns.push(column);
        keys.extend(its_keys);
    }
    for c in &constraints {
        keys.push(constraint(c)?);
    }
    for k in keys {
        match k {
            Key::Unique(u) => table.uniques.push(u),
            Key::Foreign(f) => table.foreigns.push(f),
        }
    }
    // The primary key's index is made first (transformIndexConstraints in parse_utilcmd.c), and checked first.
    table.uniques.sort_by_key(|u| !u.primary);
    Ok(table)
}

fn column(def: &ast::ColumnDef) -> Res<(ColumnSpec, Vec<Key>)> {
    let name = ident(&def.name);
    let serial = match def.data_type.to_string().to_lowercase().as_str() {
        "serial" => Some(Type::Int4),
        "bigserial" => Some(Type::Int8),
        _ => None,
    };
    let ty = serial.map_or_else(|| data_type(&def.data_type), Ok)?;
    let serial = serial.is_some();
    let mut column = ColumnSpec { name: name.clone(), ty, serial, not_null: serial, default: None };
    let mut keys = Vec::new();
    for o in &def.options {
        let mut own = vec![name.clone()];
        match &o.option {
            ast::ColumnOption::Null => {}
            ast::ColumnOption::NotNull => column.not_null = true,
            ast::ColumnOption::Default(e) => column.default = Some(expr(e.clone())?),
            ast::ColumnOption::PrimaryKey(p) => keys.push(unique(&o.name, &mut own, true, p.characteristics.as_ref())),
            ast::ColumnOption::Unique(u) => keys.push(unique(&o.name, &mut own, false, u.characteristics.as_ref())),
            ast::ColumnOption::ForeignKey(f) => {
                let mut f = f.clone();
                f.name = f.name.or_else(|| o.name.clone());
                f.columns = vec![def.name.clone()];
                keys.push(foreign(&f)?);
            }
            other => return Err(unknown(other)),
        }
    }
    Ok((column, keys))
}

fn unique(
    name: &Option<ast::Ident>,
    columns: &mut Vec<String>,
    primary: bool,
    characteristics: Option<&ast::ConstraintCharacteristics>,
) -> Key {
    let columns = std::mem::take(columns);
    Key::Unique(UniqueSpec { name: name.as_ref().map(ident), columns, primary, deferral: deferral(characteristics) })
}

fn constraint(c: &ast::TableConstraint) -> Res<Key> {
    let columns = |list: &[ast::IndexColumn]| -> Res<Vec<String>> {
        let name = |c: &ast::IndexColumn| match &c.column.expr {
            ast::Expr::Identifier(i) => Ok(ident(i)),
            other => Err(unknown(other)),
        };
        list.iter().map(name).collect()
    };
    Ok(match c {
        ast::TableConstraint::PrimaryKey(p) if p.include.is_empty() && p.index_options.is_empty() => {
            unique(&p.name, &mut columns(&p.columns)?, true, p.characteristics.as_ref())
        }
        ast::TableConstraint::Unique(u)
            if u.include.is_empty()
                && u.index_options.is_empty()
                && u.nulls_distinct != ast::NullsDistinctOption::NotDistinct =>
        {
            unique(&u.name, &mut columns(&u.columns)?, false, u.characteristics.as_ref())
        }
        ast::TableConstraint::ForeignKey(f) => foreign(f)?,
        other => return Err(unknown(other)),
    })
}

fn foreign(f: &ast::ForeignKeyConstraint) -> Res<Key> {
    let action = |a: &Option<ast::ReferentialAction>| match a {
        None | Some(ast::ReferentialAction::NoAction) => Ok(Action::NoAction),
        Some(ast::ReferentialAction::Restrict) => Ok(Action::Restrict),
        Some(ast::ReferentialAction::Cascade) => Ok(Action::Cascade),
        Some(other) => Err(unknown(other)),
    };
    if f.match_kind.is_some() || f.index_name.is_some() {
        return Err(unknown(f));
    }
    Ok(Key::Foreign(ForeignSpec {
        name: f.name.as_ref().map(ident),
        columns: f.columns.iter().map(ident).collect(),
        parent: object(&f.foreign_table)?,
        parent_columns: f.referred_columns.iter().map(ident).collect(),
        on_delete: action(&f.on_delete)?,
        on_update: action(&f.on_update)?,
        deferral: deferral(f.characteristics.as_ref()),
    }))
}

fn deferral(c: Option<&ast::ConstraintCharacteristics>) -> Deferral {
    let initially_deferred = c.is_some_and(|c| c.initially == Some(ast::DeferrableInitial::Deferred));
    Deferral { deferrable: initially_deferred || c.is_some_and(|c| c.deferrable == Some(true)), initially_deferred }
}

/// The name that PostgreSQL gives a constraint or sequence that has none (ChooseConstraintName in pg_constraint.c).
pub fn generated_name(table: &str, columns: &[String], suffix: &str) -> Res<String> {
    let name = if columns.is_empty() {
        format!("{table}_{suffix}")
    } else {
        format!("{table}_{}_{suffix}", columns.join("_"))
    };
    if name.len() < 64 { Ok(name) } else { Err(PgError::error("0A000", "the simulated node does not shorten names")) }
}
