//! The second witness: sqlparser's tree of the text, which must be one query made of parts that are known here.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{Debug, Write as _};
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement,
    TableAlias, TableFactor, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::catalogue::Catalogue;
use super::finding::Finding;
use super::{Effect, builtin};
use crate::sql::reason::{Kind, Reason};

/// What a query is made of. Names are without schemas, folded.
#[derive(Default)]
pub(super) struct Parts {
    /// Names where relations stand, CTEs included.
    pub(super) relations: HashSet<String>,
    ctes: HashSet<String>,
    functions: BTreeSet<String>,
    types: BTreeSet<String>,
    /// What rows of relations are called: the relation's name or its alias.
    rows: Vec<(String, String)>,
    /// Identifiers that stand alone: columns, or whole rows.
    bare: Vec<String>,
    /// Those of them that are given to something that lets no row type out.
    swallowed: Vec<String>,
    locks: bool,
    whole_row: bool,
}

/// The parts of a text that is one query.
///
/// # Errors
/// It is not, or has a part that is not known here.
pub(super) fn read(sql: &str) -> Result<Parts, Reason> {
    let parse = || {
        let mut parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql)?;
        let query = parser.parse_query()?;
        parser.expect_token(&Token::EOF)?;
        Ok(query)
    };
    // Its line and column are those of a part of the client's text.
    let query = parse().map_err(|e: ParserError| match e {
        ParserError::TokenizerError(said) | ParserError::ParserError(said) => {
            Reason::Parser(said.split(" at Line:").next().unwrap_or_default().to_owned())
        }
        ParserError::RecursionLimitExceeded => Reason::Parser("it is nested too deep".to_owned()),
    })?;
    let mut parts = Parts::default();
    match query.visit(&mut parts) {
        ControlFlow::Continue(()) => Ok(parts),
        ControlFlow::Break(part) => Err(Reason::Construct(part)),
    }
}

impl Parts {
    /// What they do together.
    pub(super) fn effect(&self, catalogue: &Catalogue) -> Finding {
        let functions = self.functions.iter().map(|name| match catalogue.call(name) {
            None if builtin::is_keyword_function(name) => Finding::READ,
            effect => Finding::of_name(effect, Kind::Function, name, catalogue),
        });
        let relations = self.relations.iter().map(|name| match catalogue.relation(name) {
            None if self.ctes.contains(name) => Finding::READ,
            effect => Finding::of_name(effect, Kind::Relation, name, catalogue),
        });
        let types =
            self.types.iter().map(|name| Finding::of_name(catalogue.type_name(name), Kind::Type, name, catalogue));
        let own = match () {
            () if self.locks => Finding::new(Effect::MainOnly, || Reason::RowLock),
            () if self.shows_row_types(catalogue) => Finding::new(Effect::MainOnly, || Reason::WholeRow),
            () => Finding::READ,
        };
        Finding::worst(functions.chain(relations).chain(types).chain(std::iter::once(own)))
    }

    /// A whole row may leave the server as such: its type's OID is each node's own.
    fn shows_row_types(&self, catalogue: &Catalogue) -> bool {
        let is_row = |name: &&String| {
            self.rows.iter().any(|(row, relation)| {
                row == *name && (catalogue.relation(relation).is_some() || !self.ctes.contains(relation))
            })
        };
        self.whole_row || self.bare.iter().filter(is_row).count() > self.swallowed.iter().filter(is_row).count()
    }

    fn table_factor(&mut self, factor: &TableFactor) -> Option<()> {
        match factor {
            TableFactor::Table { name, alias, args, .. } => {
                let name = last(name)?;
                if args.is_some() {
                    self.functions.insert(name);
                } else {
                    self.rows.push((alias.as_ref().map_or(name.clone(), |a| fold(&a.name)), name.clone()));
                    self.relations.insert(name);
                }
                self.column_types(alias.as_ref())
            }
            TableFactor::Function { name, alias, .. } => {
                self.functions.insert(last(name)?);
                self.column_types(alias.as_ref())
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => self.column_types(alias.as_ref()),
            _ => None,
        }
    }

    /// FROM f() AS alias(column type, ...).
    fn column_types(&mut self, alias: Option<&TableAlias>) -> Option<()> {
        let columns = alias.iter().flat_map(|a| &a.columns).filter_map(|c| c.data_type.as_ref());
        columns.into_iter().try_for_each(|t| self.data_type(t))
    }

    fn function(&mut self, f: &Function) -> Option<()> {
        let name = last(&f.name)?;
        if let FunctionArguments::List(list) = &f.args {
            let returning = |c: &FunctionArgumentClause| matches!(c, FunctionArgumentClause::JsonReturningClause(_));
            if list.clauses.iter().any(returning) {
                return None;
            }
            for arg in &list.args {
                self.argument(&name, arg);
            }
        }
        self.functions.insert(name);
        Some(())
    }

    fn argument(&mut self, function: &str, arg: &FunctionArg) {
        let (FunctionArg::Unnamed(arg) | FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. }) = arg;
        let swallows = builtin::swallows_rows(function);
        match arg {
            FunctionArgExpr::Expr(Expr::Identifier(i)) if swallows => self.swallowed.push(fold(i)),
            FunctionArgExpr::Expr(_) => {}
            FunctionArgExpr::QualifiedWildcard(_) => self.whole_row |= !swallows,
            FunctionArgExpr::Wildcard | FunctionArgExpr::WildcardWithOptions(_) => {}
        }
    }

    fn swallow(&mut self, inner: &Expr) {
        if let Expr::Identifier(i) = inner {
            self.swallowed.push(fold(i));
        }
    }

    fn expr(&mut self, expr: &Expr) -> Option<()> {
        match expr {
            Expr::Identifier(i) => self.bare.push(fold(i)),
            Expr::Function(f) => self.function(f)?,
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                if matches!(data_type, DataType::Text | DataType::Varchar(_) | DataType::JSON | DataType::JSONB) {
                    self.swallow(expr);
                }
                self.data_type(data_type)?;
            }
            Expr::TypedString(t) => self.data_type(&t.data_type)?,
            Expr::IsNull(inner) | Expr::IsNotNull(inner) => self.swallow(inner),
            // row.column[1]
            Expr::CompoundFieldAccess { root, access_chain } => {
                if matches!(access_chain.first(), Some(AccessExpr::Dot(_))) {
                    self.swallow(root);
                }
            }
            Expr::QualifiedWildcard(..) | Expr::Wildcard(_) => self.whole_row = true,
            Expr::CompoundIdentifier(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::IsNormalized { .. }
            | Expr::In { .. }
            | Expr::Between { .. }
            | Expr::BinaryOp { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::SimilarTo { .. }
            | Expr::AnyOp { .. }
            | Expr::AllOp { .. }
            | Expr::UnaryOp { .. }
            | Expr::AtTimeZone { .. }
            | Expr::Extract { .. }
            | Expr::Ceil { .. }
            | Expr::Floor { .. }
            | Expr::Position { .. }
            | Expr::Substring { .. }
            | Expr::Trim { .. }
            | Expr::Overlay { .. }
            | Expr::Collate { .. }
            | Expr::Nested(_)
            | Expr::Value(_)
            | Expr::Case { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::GroupingSets(_)
            | Expr::Cube(_)
            | Expr::Rollup(_)
            | Expr::Tuple(_)
            | Expr::Array(_)
            | Expr::Interval(_) => {}
            _ => return None,
        }
        Some(())
    }

    /// Takes note of a type's name; `None` for what is no type of PostgreSQL.
    fn data_type(&mut self, data_type: &DataType) -> Option<()> {
        match data_type {
            DataType::Custom(name, _) => {
                self.types.insert(last(name)?);
            }
            DataType::Regclass => {
                self.types.insert("regclass".into());
            }
            DataType::Array(
                ArrayElemTypeDef::SquareBracket(inner, _)
                | ArrayElemTypeDef::AngleBracket(inner)
                | ArrayElemTypeDef::Parenthesis(inner),
            ) => self.data_type(inner)?,
            DataType::Array(ArrayElemTypeDef::None)
            | DataType::BigInt(_)
            | DataType::Bit(_)
            | DataType::BitVarying(_)
            | DataType::Bool
            | DataType::Boolean
            | DataType::Bytea
            | DataType::Char(_)
            | DataType::CharVarying(_)
            | DataType::Character(_)
            | DataType::CharacterVarying(_)
            | DataType::Date
            | DataType::Dec(_)
            | DataType::Decimal(_)
            | DataType::Double(_)
            | DataType::DoublePrecision
            | DataType::Float(_)
            | DataType::Float4
            | DataType::Float8
            | DataType::GeometricType(_)
            | DataType::Int(_)
            | DataType::Int2(_)
            | DataType::Int4(_)
            | DataType::Int8(_)
            | DataType::Integer(_)
            | DataType::Interval { .. }
            | DataType::JSON
            | DataType::JSONB
            | DataType::Numeric(_)
            | DataType::Real
            | DataType::SmallInt(_)
            | DataType::Text
            | DataType::Time(..)
            | DataType::Timestamp(..)
            | DataType::TsQuery
            | DataType::TsVector
            | DataType::Uuid
            | DataType::VarBit(_)
            | DataType::Varchar(_) => {}
            _ => return None,
        }
        Some(())
    }

    /// The parts of UNION and kin; queries in parentheses are visited by themselves.
    fn body(&mut self, body: &SetExpr) -> Option<()> {
        match body {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => Some(()),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left)?;
                self.body(right)
            }
            SetExpr::Table(table) => {
                let name = fold(table.table_name.as_ref()?);
                self.relations.insert(name);
                Some(())
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => None,
        }
    }
}

impl Visitor for Parts {
    /// The part that is not known.
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        self.locks |= !query.locks.is_empty();
        for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
            self.ctes.insert(fold(&cte.alias.name));
        }
        go_on(self.body(&query.body), &query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        go_on(select.into.is_none().then_some(()), &select.into)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<String> {
        go_on(self.table_factor(factor), factor)
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        go_on(self.expr(expr), expr)
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<String> {
        // Only the query itself was given: any statement inside it is one that writes.
        go_on(None, statement)
    }
}

fn go_on(known: Option<()>, part: &impl Debug) -> ControlFlow<String> {
    match known {
        Some(()) => ControlFlow::Continue(()),
        None => ControlFlow::Break(kind_of(part)),
    }
}

/// What sqlparser calls this part of its tree: the first word of what Debug prints. Nothing behind it is printed, since
/// that would recurse as deep as the tree is.
fn kind_of(part: &impl Debug) -> String {
    struct FirstWord(String);
    impl std::fmt::Write for FirstWord {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            let word: String = s.chars().take_while(|c| c.is_alphanumeric()).collect();
            self.0.push_str(&word);
            if word.len() == s.len() { Ok(()) } else { Err(std::fmt::Error) }
        }
    }
    let mut word = FirstWord(String::new());
    let _stopped_behind_the_word = write!(word, "{part:?}");
    word.0
}

/// An identifier as PostgreSQL folds it; the other witness has seen to it that ASCII rules suffice.
fn fold(i: &Ident) -> String {
    if i.quote_style.is_some() { i.value.clone() } else { i.value.to_ascii_lowercase() }
}

/// A name without its schema.
fn last(name: &ObjectName) -> Option<String> {
    match name.0.last()? {
        ObjectNamePart::Identifier(i) => Some(fold(i)),
        ObjectNamePart::Function(_) => None,
    }
}
