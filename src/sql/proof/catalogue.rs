//! What is known of a database: by name, what everything of that name does.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::builtin;
use super::graph::{Graph, Key, Need};
use super::rows::{FunctionRow, OperatorRow, RelationRow, TypeRow, parse, use_row};
use super::tables::{self, Table, Tables};
use super::{Effect, queries};
use crate::sql::reason::{Cause, Kind};
use crate::wire::FIRST_OWN_OID;

/// What is known of a database.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The version that it was read under.
    pub version: u64,
    /// Number of a transaction's own look at it, by which its session tells such from others; 0: it is what is committed.
    pub view: u64,
    /// Some constraint may be deferred to COMMIT.
    pub has_deferrable_constraints: bool,
    /// What may stand behind any expression without being named: comparisons, casts between built-in types.
    pub(super) implicit: Effect,
    functions: Names,
    /// Functions of users that may be called as `row.name`.
    attributes: Names,
    operators: Names,
    relations: Names,
    types: Names,
    user_types: Arc<HashSet<String>>,
    /// Built-in functions that are immutable whatever their arguments, and whose names no other function has.
    immutable: Arc<HashSet<String>>,
    builtin_relations: Arc<HashSet<String>>,
    /// Operators of users whose functions are not immutable: they may look at other rows.
    unsteady: Arc<HashSet<String>>,
    /// Users' functions, and relations, that may write.
    doubtful: Arc<HashSet<String>>,
    tables: Arc<Tables>,
    /// Temporary tables of the session that asks.
    temporary: Arc<HashSet<String>>,
}

/// Shared, so that a session's view with its temporary tables costs next to nothing.
/// The cause is why it is no read.
type Names = Arc<HashMap<String, (Effect, Cause)>>;

impl Default for Effect {
    /// Nothing is proved without evidence.
    fn default() -> Self {
        Effect::Unknown
    }
}

/// The operators that PostgreSQL uses for IN, BETWEEN, LIKE, CASE, JOIN USING, GROUP BY and so on.
const IMPLICIT_OPERATORS: [&str; 12] = ["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"];

impl Catalogue {
    /// What main is asked.
    pub const QUERIES: &'static [&'static str] = &queries::ALL;

    /// From main's answers to [`Self::QUERIES`]. The lists hold names of functions, `name` or `schema.name`, that are
    /// reads or writes whatever the catalogue says.
    ///
    /// # Errors
    /// The rows are not what was asked for.
    pub fn from_rows(
        version: u64,
        rows: &[Vec<Vec<Option<String>>>],
        read_only: &[String],
        write: &[String],
    ) -> Result<Catalogue, String> {
        let [builtins, functions, operators, relations, types, hooks, uses, deferrable, tables, columns] = rows else {
            return Err(format!("catalogue: {} answers to {} queries", rows.len(), queries::ALL.len()));
        };
        let functions = parse(functions, "functions", FunctionRow::new)?;
        let operators = parse(operators, "operators", OperatorRow::new)?;
        let relations = parse(relations, "relations", RelationRow::new)?;
        let types = parse(types, "types", TypeRow::new)?;

        let mut graph = Graph::default();
        functions.iter().for_each(|f| f.add_to(&mut graph, read_only, write));
        operators.iter().for_each(|o| o.add_to(&mut graph));
        relations.iter().for_each(|r| r.add_to(&mut graph));
        types.iter().for_each(|t| t.add_to(&mut graph));
        for (user, needed) in parse(hooks, "hooks", |c| Ok((c.oid(0)?, c.oid(1)?)))? {
            graph.need(Key::Type(user), Need::doubt(Key::Function(needed)));
        }
        for (user, needs) in parse(uses, "uses", use_row)? {
            needs.into_iter().for_each(|n| graph.need(user, n));
        }
        graph.settle();

        let mut all = Catalogue { version, implicit: Effect::Read, ..Catalogue::default() };
        for (kind, names) in parse(builtins, "builtins", |c| Ok((c.text(0)?, c.text_or_empty(1))))? {
            all.add_builtins(kind, names)?;
        }
        all.add_functions(&functions, &graph);
        let of = |key| (graph.effect(key), graph.cause(key));
        operators.iter().for_each(|o| join(&mut all.operators, &o.name, of(Key::Operator(o.oid))));
        // Functions that are not listed are immutable built-ins.
        let steady: HashMap<u32, bool> = functions.iter().map(|f| (f.oid, f.immutable)).collect();
        let looks = operators.iter().filter(|o| steady.get(&o.function) == Some(&false));
        all.unsteady = Arc::new(looks.map(|o| o.name.clone()).collect());
        for r in relations.iter().filter(|r| r.kind != 'c') {
            let known = of(Key::Relation(r.oid));
            if known.0 == Effect::Unknown {
                Arc::make_mut(&mut all.doubtful).insert(r.name.clone());
            }
            join(&mut all.relations, &r.name, known);
        }
        all.add_types(&types, &graph);
        all.has_deferrable_constraints =
            parse(deferrable, "deferrable constraints", |c| c.flag(0))?.into_iter().any(|d| d);
        if graph.has_doubtful_builtin_type() {
            all.implicit = Effect::Unknown;
        }
        all.implicit = IMPLICIT_OPERATORS.iter().fold(all.implicit, |e, o| e.max(all.operator(o)));
        // Those that are not listed are immutable built-ins.
        let named: HashMap<u32, &str> = functions.iter().map(|f| (f.oid, f.name.as_str())).collect();
        let calls = |oid: u32| match named.get(&oid) {
            None => (tables::Default::Fixed, ""),
            Some(name) if builtin::is_harmless_generator(name) => (tables::Default::Varies, *name),
            Some(name) if graph.effect(Key::Function(oid)) != Effect::Unknown => (tables::Default::Varies, *name),
            Some(name) => (tables::Default::Unknown, *name),
        };
        all.tables = Arc::new(Tables::read(tables, columns, calls)?);
        Ok(all)
    }

    fn add_builtins(&mut self, kind: &str, names: &str) -> Result<(), String> {
        for name in names.split(' ').filter(|n| !n.is_empty()) {
            match kind {
                "f" => {
                    let effect = builtin::function(name, false);
                    join(&mut self.functions, name, (effect, Cause::of_builtin(effect)));
                    Arc::make_mut(&mut self.immutable).insert(name.to_owned());
                }
                "o" => join(&mut self.operators, name, (Effect::Read, Cause::Unknown)),
                "r" => {
                    join(&mut self.relations, name, (Effect::MainOnly, Cause::System));
                    Arc::make_mut(&mut self.builtin_relations).insert(name.to_owned());
                }
                "t" => join(&mut self.types, name, (Effect::Read, Cause::Unknown)),
                _ => return Err(format!("catalogue: built-ins of an unknown kind {kind:?}")),
            }
        }
        Ok(())
    }

    fn add_functions(&mut self, functions: &[FunctionRow], graph: &Graph) {
        let immutable = Arc::make_mut(&mut self.immutable);
        functions.iter().for_each(|f| {
            immutable.remove(&f.name);
        });
        let (builtins, users): (Vec<_>, Vec<_>) = functions.iter().partition(|f| f.oid < FIRST_OWN_OID);
        for f in builtins {
            let key = Key::Function(f.oid);
            join(&mut self.functions, &f.name, (graph.effect(key), graph.cause(key)));
        }
        let builtin_names: HashSet<String> = self.functions.keys().cloned().collect();
        for f in users {
            let key = Key::Function(f.oid);
            let own = (graph.effect(key), graph.cause(key));
            if own.0 == Effect::Unknown {
                Arc::make_mut(&mut self.doubtful).insert(f.name.clone());
            }
            // max(citext) beside max(text): it is called only where a citext comes from somewhere else, which counts.
            let overloads = builtin_names.contains(&f.name) && f.arguments.iter().any(|t| *t >= FIRST_OWN_OID);
            let shows = f.results.iter().any(|t| graph.effect(Key::Type(*t)) != Effect::Read);
            let returns = (Effect::MainOnly, Cause::ReturnsOwnOid);
            let call = if shows && !overloads && own.0 == Effect::Read { returns } else { own };
            join(&mut self.functions, &f.name, call.clone());
            if f.takes_one {
                join(&mut self.attributes, &f.name, call);
            }
        }
    }

    fn add_types(&mut self, types: &[TypeRow], graph: &Graph) {
        for t in types {
            let key = Key::Type(t.oid);
            join(&mut self.types, &t.name, (graph.effect(key), graph.cause(key)));
            if t.named && t.oid >= FIRST_OWN_OID {
                Arc::make_mut(&mut self.user_types).insert(t.name.clone());
            }
        }
    }

    /// What a call by this name does; `None`: there is no such function.
    pub(super) fn call(&self, name: &str) -> Option<Effect> {
        self.functions.get(name).map(|known| known.0)
    }

    /// Why what has this name is no read.
    pub(super) fn cause(&self, kind: Kind, name: &str) -> Cause {
        let names = match kind {
            Kind::Function => &self.functions,
            Kind::Operator => &self.operators,
            Kind::Relation => &self.relations,
            Kind::Type => &self.types,
        };
        match names.get(name) {
            Some((effect, cause)) if *effect != Effect::Read => cause.clone(),
            _ if kind == Kind::Relation && self.temporary.contains(name) => Cause::Temporary,
            _ => Cause::Unknown,
        }
    }

    /// Every function of this name is an immutable built-in.
    pub(super) fn is_immutable(&self, name: &str) -> bool {
        self.immutable.contains(name)
    }

    /// A user's function or a relation of this name may write.
    pub(super) fn is_doubtful(&self, name: &str) -> bool {
        self.doubtful.contains(name)
    }

    /// The one table that the name can mean in every search path; a built-in relation or a temporary table may be meant
    /// as well.
    pub(super) fn table(&self, schema: Option<&str>, name: &str) -> Option<&Table> {
        let doubtful = self.temporary.contains(name) || self.builtin_relations.contains(name);
        if doubtful && schema.is_none() {
            return None;
        }
        self.tables.find(schema, name).map(|t| &**t)
    }

    /// What `row.name` does if it is no column.
    pub(super) fn attribute(&self, name: &str) -> Effect {
        self.attributes.get(name).map_or(Effect::Read, |known| known.0)
    }

    /// Some user's operator of this name, or function that may be called as `row.name`, may look at other rows.
    pub(super) fn looks_elsewhere(&self, name: &str) -> bool {
        self.unsteady.contains(name) || self.attributes.contains_key(name)
    }

    /// What operators of this name do.
    pub(super) fn operator(&self, name: &str) -> Effect {
        self.operators.get(name).map_or(Effect::Unknown, |known| known.0)
    }

    /// What reading relations of this name does; `None`: there is none that is not temporary.
    pub(super) fn relation(&self, name: &str) -> Option<Effect> {
        let permanent = self.relations.get(name).map(|known| known.0);
        if self.temporary.contains(name) {
            Some(permanent.unwrap_or(Effect::Read).max(Effect::MainOnly))
        } else {
            permanent
        }
    }

    /// The same, as a session with these temporary tables sees it: reading them changes nothing, on main alone.
    #[must_use]
    pub fn with_temporary(&self, names: HashSet<String>) -> Catalogue {
        Catalogue { temporary: Arc::new(names), ..self.clone() }
    }

    /// Those of these names (in any case) that some relation has, temporary ones left out.
    #[must_use]
    pub fn relations_among(&self, names: Vec<String>) -> Vec<String> {
        names.into_iter().filter(|n| self.relations.contains_key(n)).collect()
    }

    /// What values of types of this name do; `None`: there is no such type.
    pub(super) fn type_name(&self, name: &str) -> Option<Effect> {
        self.types.get(name).map(|known| known.0)
    }

    /// A user has made a type of this name (row types of tables left out).
    pub(super) fn is_user_type(&self, name: &str) -> bool {
        self.user_types.contains(name)
    }
}

fn join(names: &mut Names, name: &str, known: (Effect, Cause)) {
    // Nobody shares them while they are being read.
    match Arc::make_mut(names).entry(name.to_owned()) {
        Entry::Vacant(v) => drop(v.insert(known)),
        Entry::Occupied(mut o) if known.0 > o.get().0 => drop(o.insert(known)),
        Entry::Occupied(_) => {}
    }
}
