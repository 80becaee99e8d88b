//! Random transactions over a schema. A statement is a kind and a few numbers that mean something only together with the
//! schema, so that both shrink each by itself.

use super::schema::{KINDS, Key, Schema, Table};
use super::script::{Client, Step};
use proptest::collection::vec;
use proptest::prelude::*;

/// What a statement is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Insert,
    Update,
    Delete,
    InsertDefaults,
    InsertSelect,
    ConflictNothing,
    ConflictUpdate,
    UpdateKey,
    Swap,
    Merge,
    WithMoves,
    Queue,
    Copy,
    Truncate,
    Do,
    Place,
    Call,
    Read,
    ReadVolatile,
    Lock,
    Savepoint,
    RollbackTo,
    Release,
    Fail,
    Cursor,
    Execute,
    Set,
    Constraints,
    Temporary,
    Explain,
    Notify,
    CreateAs,
    AddColumn,
    AlterType,
    Index,
    Setval,
    Several,
    Function,
}

impl Kind {
    fn is_ddl(self) -> bool {
        matches!(self, Kind::CreateAs | Kind::AddColumn | Kind::AlterType | Kind::Index)
    }
}

/// How often each is drawn. The first is what a failure shrinks to.
const KINDS_DRAWN: &[(u32, Kind)] = &[
    (12, Kind::Insert),
    (12, Kind::Update),
    (7, Kind::Delete),
    (3, Kind::InsertDefaults),
    (5, Kind::InsertSelect),
    (3, Kind::ConflictNothing),
    (4, Kind::ConflictUpdate),
    (4, Kind::UpdateKey),
    (2, Kind::Swap),
    (3, Kind::Merge),
    (3, Kind::WithMoves),
    (3, Kind::Queue),
    (3, Kind::Copy),
    (1, Kind::Truncate),
    (3, Kind::Do),
    (3, Kind::Place),
    (2, Kind::Call),
    (4, Kind::Read),
    (2, Kind::ReadVolatile),
    (2, Kind::Lock),
    (4, Kind::Savepoint),
    (3, Kind::RollbackTo),
    (1, Kind::Release),
    (1, Kind::Fail),
    (2, Kind::Cursor),
    (2, Kind::Execute),
    (2, Kind::Set),
    (1, Kind::Constraints),
    (1, Kind::Temporary),
    (1, Kind::Explain),
    (1, Kind::Notify),
    (1, Kind::CreateAs),
    (1, Kind::AddColumn),
    (1, Kind::AlterType),
    (1, Kind::Index),
    (1, Kind::Setval),
    (2, Kind::Several),
    (1, Kind::Function),
];

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    pub kind: Kind,
    /// Two tables.
    t: u8,
    u: u8,
    /// What the kind makes of them.
    x: u8,
    y: u8,
    z: u8,
    /// Number of a row or a value.
    v: u8,
    /// 0: simple; 1: extended, in text; 2: in binary.
    via: u8,
    returning: bool,
    view: bool,
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub statements: Vec<Statement>,
    /// 0, 1: no block; 2: all in one string; else BEGIN with a level.
    block: u8,
    rolls_back: bool,
}

/// What one client does.
#[derive(Clone, Debug)]
pub struct Work {
    pub plain_role: bool,
    pub transactions: Vec<Transaction>,
}

fn statement() -> impl Strategy<Value = Statement> {
    let kind = proptest::strategy::Union::new_weighted(
        KINDS_DRAWN.iter().map(|(weight, kind)| (*weight, Just(*kind).boxed())).collect(),
    );
    let small = || prop_oneof![2 => Just(0u8), 3 => 0u8..14];
    let flag = |chance: f64| proptest::bool::weighted(chance);
    (kind, 0u8..3, 0u8..3, small(), small(), small(), 0u8..16, 0u8..3, flag(0.3), flag(0.2)).prop_map(
        |(kind, t, u, x, y, z, v, via, returning, view)| Statement { kind, t, u, x, y, z, v, via, returning, view },
    )
}

fn transaction() -> impl Strategy<Value = Transaction> {
    (vec(statement(), 1..6), 0u8..9, proptest::bool::weighted(0.1))
        .prop_map(|(statements, block, rolls_back)| Transaction { statements, block, rolls_back })
}

pub fn work() -> impl Strategy<Value = Vec<Work>> {
    let client = (proptest::bool::weighted(0.4), vec(transaction(), 1..6))
        .prop_map(|(plain_role, transactions)| Work { plain_role, transactions });
    vec(client, 1..9)
}

/// A statement being written: its text, and the values of its parameters if it has any.
struct Out<'a> {
    sql: String,
    values: Vec<String>,
    extended: bool,
    schema: &'a Schema,
}

impl Out<'_> {
    fn add(&mut self, text: &str) -> &mut Self {
        self.sql.push_str(text);
        self
    }

    /// A literal, or a parameter.
    fn value(&mut self, text: &str) -> &mut Self {
        if self.extended {
            self.values.push(text.to_owned());
            let n = self.values.len();
            self.add(&format!("${n}"))
        } else {
            let number = text.parse::<i64>().is_ok();
            self.add(&if number { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) })
        }
    }

    /// What a column of n's type is set to.
    fn number(&mut self, s: &Statement, u: usize) {
        match s.x % 8 {
            0 => self.value(&(s.v as u32 * 7 % 90).to_string()),
            1 => self.add("(random() * 80)::int"),
            2 => self.add(&format!("(SELECT count(*) FROM t{u})::int")),
            3 => self.add("extract(epoch FROM clock_timestamp())::int % 89"),
            4 => self.add("NULL"),
            5 => self.add("looks(").value(&s.v.to_string()).add(")"),
            6 => self.add(&format!("(SELECT n FROM t{u} LIMIT 1)")),
            _ => self.add("peeks(").value(&s.v.to_string()).add(")::int"),
        };
    }

    /// What a further column is set to.
    fn further(&mut self, table: &Table, column: usize, choice: u8) {
        let (_, _, literal, volatile) = KINDS[table.columns[column] as usize];
        match choice % 4 {
            0 => self.value(literal),
            1 => self.add(volatile),
            2 => self.add("DEFAULT"),
            _ => self.add("NULL"),
        };
    }

    /// WHERE, from the row of number v on.
    fn condition(&mut self, table: &Table, name: &str, u: usize, how: u8, v: u8) {
        let (a, b) = (table.key_value(v as u32), table.key_value(v as u32 + 3));
        match how % 13 {
            0 => self.add(" WHERE k = ").value(&a),
            1 => self.add(" WHERE k IN (").value(&a).add(", ").value(&b).add(")"),
            2 => self.add(" WHERE n = ").value(&v.to_string()),
            3 => self.add(" WHERE n > ").value(&(v as u32 * 3).to_string()),
            4 => self.add(" WHERE k = ").value(&a).add(" AND n < ").value("50"),
            5 => self.add(&format!(" WHERE k IN (SELECT k FROM {name} ORDER BY random() LIMIT 2)")),
            6 => self.add(" WHERE random() < 0.3"),
            7 => self.add(&format!(" WHERE EXISTS (SELECT 1 FROM t{u} s WHERE s.n = {name}.n)")),
            8 => self.add(&format!(" WHERE k = (SELECT k FROM {name} ORDER BY k DESC LIMIT 1)")),
            9 => self.add(&format!(" WHERE k IN (SELECT k FROM {name} LIMIT 3)")),
            10 => self.add(" WHERE k = ").value(&a).add(" AND n = ").value(&v.to_string()),
            11 => self.add(" WHERE k BETWEEN ").value(&a).add(" AND ").value(&b),
            _ => self,
        };
    }

    fn returning(&mut self, s: &Statement) {
        if s.returning {
            self.add(if s.z.is_multiple_of(2) { " RETURNING k, n" } else { " RETURNING *" });
        }
    }

    /// INSERT INTO ... VALUES, up to its end.
    fn insert(&mut self, s: &Statement, rows: u8) {
        let (u, _) = self.schema.table(s.u);
        let (_, table) = self.schema.table(s.t);
        let target = self.schema.target(s.t, s.view);
        let table = table.clone();
        let gives_key = table.needs_key() || s.y.is_multiple_of(3);
        let columns = if target.starts_with('v') { 0 } else { table.columns.len().min(s.z as usize % 4) };
        self.add("INSERT INTO ").add(&target).add(" (");
        if gives_key {
            self.add("k, ");
        }
        self.add("n");
        for c in 0..columns {
            self.add(&format!(", c{c}"));
        }
        self.add(")");
        if gives_key && table.key() == Key::Always {
            self.add(" OVERRIDING SYSTEM VALUE");
        }
        self.add(" VALUES ");
        for row in 0..rows {
            self.add(if row > 0 { ", (" } else { "(" });
            if gives_key {
                self.value(&table.key_value(u32::from(s.v) * 5 % 40 + u32::from(row))).add(", ");
            }
            self.number(s, u);
            for c in 0..columns {
                self.add(", ").further(&table, c, s.x / 2 + c as u8 + row);
            }
            self.add(")");
        }
    }

    fn update(&mut self, s: &Statement) {
        let (u, _) = self.schema.table(s.u);
        let (_, table) = self.schema.table(s.t);
        let table = table.clone();
        let name = self.schema.target(s.t, s.view);
        self.add("UPDATE ").add(&name).add(" SET ");
        let columns = if name.starts_with('v') { 0 } else { table.columns.len() };
        match s.y % 6 {
            0 => forget(self.add("n = n + 1")),
            1 => {
                self.add("n = ").number(s, u);
            }
            2 | 3 if columns > 0 => {
                let c = s.v as usize % columns;
                self.add(&format!("c{c} = ")).further(&table, c, s.z);
            }
            4 if columns > 0 => {
                self.add("n = n, c0 = ").further(&table, 0, s.z);
            }
            _ => forget(self.add(&format!("n = (SELECT coalesce(max(n), 0) FROM t{u}) % 89"))),
        }
        self.condition(&table, &name, u, s.x, s.v);
        self.returning(s);
    }
}

impl Statement {
    /// As steps of a client.
    fn steps(&self, schema: &Schema, switches: Switches) -> Vec<Step> {
        let (t, table) = schema.table(self.t);
        let (u, other) = schema.table(self.u);
        let name = schema.target(self.t, self.view);
        let takes_values = !matches!(self.kind, Kind::Do | Kind::Execute | Kind::Temporary | Kind::Cursor);
        let mut out = Out { sql: String::new(), values: Vec::new(), extended: self.via > 0 && takes_values, schema };
        let changes = !matches!(self.kind, Kind::Insert);
        if changes && !switches.keyless && (table.key() == Key::None || other.key() == Key::None) {
            return self.keyless(schema);
        }
        match self.kind {
            Kind::Insert => {
                out.insert(self, 1 + self.z / 4 % 3);
                out.returning(self);
            }
            Kind::Update => out.update(self),
            Kind::Delete => {
                out.add("DELETE FROM ").add(&name);
                out.condition(table, &name, u, self.x, self.v);
                out.returning(self);
            }
            Kind::InsertDefaults => {
                out.add(&format!("INSERT INTO {name} DEFAULT VALUES"));
                out.returning(self);
            }
            Kind::InsertSelect => {
                let key = if table.needs_key() { "k, " } else { "" };
                let value = match (table.needs_key(), table.key()) {
                    (false, _) => String::new(),
                    (_, Key::Text) => format!("'s' || s.n || {}, ", self.v),
                    _ => format!("s.n + {}, ", 100 * (1 + u32::from(self.v))),
                };
                let from = match self.x % 5 {
                    0 => format!("t{u} s"),
                    1 => format!("t{u} s ORDER BY random() LIMIT 3"),
                    2 => format!("t{u} s LIMIT 3"),
                    3 => "(SELECT DISTINCT n FROM audit, generate_series(1, 3) n) s".to_owned(),
                    _ => format!("t{u} s TABLESAMPLE BERNOULLI (50)"),
                };
                out.add(&format!("INSERT INTO {name} ({key}n) SELECT {value}s.n FROM {from}"));
                if self.y.is_multiple_of(4) {
                    out.add(" ON CONFLICT DO NOTHING");
                }
                out.returning(self);
            }
            Kind::ConflictNothing => {
                out.insert(self, 1 + self.z / 4 % 3);
                out.add(if self.y.is_multiple_of(2) {
                    " ON CONFLICT DO NOTHING"
                } else {
                    " ON CONFLICT (k) DO NOTHING"
                });
                out.returning(self);
            }
            Kind::ConflictUpdate => {
                let key = if table.key() == Key::Composite { "k, n" } else { "k" };
                out.insert(self, 1 + self.z / 4 % 3);
                out.add(&format!(" ON CONFLICT ({key}) DO UPDATE SET n = "));
                out.add(match self.y % 3 {
                    0 => "excluded.n",
                    1 => "(random() * 80)::int",
                    _ => "CASE WHEN random() < 0.5 THEN 3 ELSE 4 END",
                });
                if self.v.is_multiple_of(3) {
                    out.add(&format!(" WHERE {name}.n < 40"));
                }
                out.returning(self);
            }
            Kind::UpdateKey if table.key_is_number() => {
                let set = ["k = k + 1000", "k = -k", "k = k", "n = n + 6"][self.y as usize % 4];
                out.add(&format!("UPDATE {name} SET {set}"));
                out.condition(table, &name, u, self.x, self.v);
                out.returning(self);
            }
            Kind::UpdateKey => out.update(self),
            Kind::Swap => {
                out.add(&format!("UPDATE {name} SET n = 13 - n WHERE n BETWEEN 1 AND 12"));
            }
            Kind::Merge => {
                let (columns, values) =
                    if table.needs_key() { ("k, n", table_key(table, "s.g + 8")) } else { ("n", String::new()) };
                out.add(&format!(
                    "MERGE INTO t{t} USING (SELECT g FROM generate_series(1, 6) g) s ON t{t}.n = s.g + 3 "
                ));
                out.add(match self.x % 3 {
                    0 => "WHEN MATCHED THEN UPDATE SET n = t",
                    1 => "WHEN MATCHED AND random() < 0.5 THEN UPDATE SET n = t",
                    _ => "WHEN MATCHED AND s.g = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET n = t",
                });
                out.add(&format!("{t}.n + 20 WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values}s.g)"));
            }
            Kind::WithMoves => {
                let (columns, values) =
                    if other.needs_key() { ("k, n", table_key(other, "d.n + 200")) } else { ("n", String::new()) };
                out.add(&format!("WITH d AS (DELETE FROM t{t}"));
                out.condition(table, &format!("t{t}"), u, self.x, self.v);
                out.add(&format!(" RETURNING n) INSERT INTO t{u} ({columns}) SELECT {values}d.n FROM d"));
            }
            Kind::Queue => {
                let inner = format!("SELECT k FROM t{t} WHERE n < 60 ORDER BY k FOR UPDATE SKIP LOCKED LIMIT 1");
                match self.x % 2 {
                    0 => out.add(&format!("UPDATE t{t} SET n = n + 60 WHERE k IN ({inner})")),
                    _ => out.add(&format!("DELETE FROM t{t} WHERE k IN ({inner})")),
                };
                out.returning(self);
            }
            Kind::Copy => return vec![self.copy(t, table)],
            Kind::Truncate => forget(
                out.add(
                    &format!(
                        "TRUNCATE t{t}{}{}",
                        if self.x.is_multiple_of(2) { " CASCADE" } else { "" },
                        if self.y % 3 == 1 { " RESTART IDENTITY" } else { "" }
                    )
                    .replace(" CASCADE RESTART IDENTITY", " RESTART IDENTITY CASCADE"),
                ),
            ),
            Kind::Do => {
                let mut inner = Statement { kind: Kind::Update, view: false, via: 0, returning: false, ..self.clone() };
                inner.t = self.t;
                let one = inner.steps(schema, switches).remove(0).sql().to_owned();
                out.add(&match self.z % 4 {
                    0 => format!("DO $$ BEGIN {one}; END $$"),
                    1 => format!("DO $$ BEGIN FOR i IN 1..2 LOOP PERFORM place(1); {one}; END LOOP; END $$"),
                    2 => format!(
                        "DO $$ BEGIN PERFORM place(1); RAISE division_by_zero; EXCEPTION WHEN OTHERS THEN {one}; END $$"
                    ),
                    _ => format!("DO $$ BEGIN {one}; IF random() < 0.2 THEN RAISE EXCEPTION 'unlucky'; END IF; END $$"),
                });
            }
            Kind::Place => {
                out.add("SELECT place(").value(&(u32::from(self.v) % 4).to_string()).add(")");
            }
            Kind::Function => {
                out.add(&format!("SELECT looks(n), peeks(5) FROM t{t}"));
            }
            Kind::Call => forget(out.add("CALL settle(").value(&self.v.to_string()).add(")")),
            Kind::Read => {
                out.add(&format!("SELECT * FROM {name}"));
                out.condition(table, &name, u, self.x, self.v);
            }
            Kind::ReadVolatile => {
                out.add(
                    [
                        "SELECT clock_timestamp(), random()",
                        "SELECT pg_backend_pid()",
                        "SELECT txid_current()",
                        "SELECT currval('audit_id_seq')",
                        "SELECT pg_advisory_xact_lock(7)",
                        "SELECT lastval()",
                    ][self.x as usize % 6],
                );
            }
            Kind::Lock => {
                out.add(&format!("SELECT k, n FROM t{t}"));
                out.condition(table, &format!("t{t}"), u, self.x, self.v);
                out.add([" FOR UPDATE", " FOR SHARE", " FOR UPDATE NOWAIT", " FOR KEY SHARE"][self.y as usize % 4]);
            }
            Kind::Savepoint => forget(out.add("SAVEPOINT s")),
            Kind::RollbackTo => forget(out.add("ROLLBACK TO s")),
            Kind::Release => forget(out.add("RELEASE s")),
            Kind::Fail => {
                forget(out.add(["SELECT 1 / 0", "SELEC", "INSERT INTO nowhere VALUES (1)"][self.x as usize % 3]))
            }
            Kind::Cursor => {
                return [
                    "DECLARE c CURSOR FOR SELECT k, n FROM t# ORDER BY n FOR UPDATE",
                    "FETCH 2 FROM c",
                    ["UPDATE t# SET n = n + 1 WHERE CURRENT OF c", "DELETE FROM t# WHERE CURRENT OF c"]
                        [self.x as usize % 2],
                    "CLOSE c",
                ]
                .map(|s| Step::Simple(s.replace('#', &t.to_string())))
                .to_vec();
            }
            Kind::Execute => {
                out.extended = true;
                Statement { kind: Kind::Update, via: 1, ..self.clone() }.write_update(&mut out);
                let values: Vec<String> = out.values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
                let arguments = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
                return vec![
                    Step::Simple(format!("PREPARE q AS {}", out.sql)),
                    Step::Simple(format!("EXECUTE q{arguments}")),
                    Step::Simple("DEALLOCATE q".into()),
                ];
            }
            Kind::Set => forget(out.add(
                [
                    "SET TimeZone = 'Asia/Kolkata'",
                    "SET DateStyle = 'SQL, DMY'",
                    "SET LOCAL TimeZone = 'America/New_York'",
                    "SET extra_float_digits = 0",
                    "RESET ALL",
                    "SET IntervalStyle = 'iso_8601'",
                    "SET bytea_output = 'escape'",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                    "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
                    "SET standard_conforming_strings = off",
                    "DISCARD ALL",
                ][self.x as usize % 11],
            )),
            Kind::Constraints => {
                out.add(["SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS ALL IMMEDIATE"][self.x as usize % 2]);
            }
            Kind::Temporary => {
                let temp = format!("CREATE TEMP TABLE IF NOT EXISTS mine AS SELECT n FROM t{t}");
                let use_ = [
                    "INSERT INTO mine VALUES (1)",
                    "UPDATE mine SET n = 2",
                    "DROP TABLE mine",
                    "INSERT INTO audit (what) SELECT n::text FROM mine",
                ][self.x as usize % 4];
                return vec![Step::Simple(temp), Step::Simple(use_.into())];
            }
            Kind::Explain => {
                out.add("EXPLAIN ANALYZE ");
                self.write_update(&mut out);
            }
            Kind::Notify => forget(out.add(["NOTIFY c, 'x'", "LISTEN c", "UNLISTEN *"][self.x as usize % 3])),
            Kind::CreateAs => {
                let order = if self.y.is_multiple_of(2) { "" } else { " ORDER BY n" };
                out.add(&format!("CREATE TABLE made_{} AS SELECT k, n FROM t{t}{order}", self.v));
            }
            Kind::AddColumn => {
                let default = ["DEFAULT 7", "", "DEFAULT now()", "DEFAULT random()"]
                    [self.x as usize % if switches.frozen { 4 } else { 2 }];
                let kind = if self.x % 4 == 2 { "timestamptz" } else { "float8" };
                out.add(&format!("ALTER TABLE t{t} ADD COLUMN IF NOT EXISTS x{} {kind} {default}", self.v % 3));
            }
            Kind::AlterType => {
                out.add(&format!("ALTER TABLE t{t} ALTER n TYPE {}", ["bigint", "int"][self.x as usize % 2]));
            }
            Kind::Index => forget(out.add(&format!("CREATE INDEX ON t{t} (n, k)"))),
            Kind::Setval => forget(out.add(&format!("SELECT setval('shared', {})", 3000 + u32::from(self.v)))),
            Kind::Several => {
                let a = Statement { kind: Kind::Update, via: 0, ..self.clone() }.steps(schema, switches);
                let b = Statement { kind: Kind::Insert, via: 0, t: self.u, view: false, ..self.clone() }
                    .steps(schema, switches);
                out.add(&format!("{}; {}", a[0].sql(), b[0].sql()));
                return vec![Step::Simple(out.sql)];
            }
        }
        vec![out.step(self.via)]
    }

    /// What does no harm to a table whose rows nobody can name.
    fn keyless(&self, schema: &Schema) -> Vec<Step> {
        let mut out = Out { sql: String::new(), values: Vec::new(), extended: self.via > 0, schema };
        match self.kind {
            Kind::InsertSelect | Kind::ConflictNothing | Kind::InsertDefaults => out.insert(self, 3),
            _ => out.insert(self, 1),
        }
        vec![out.step(self.via)]
    }

    fn write_update(&self, out: &mut Out<'_>) {
        out.update(self);
    }

    fn copy(&self, t: usize, table: &Table) -> Step {
        let key = table.needs_key() || self.y.is_multiple_of(2);
        let row = |i: u32| {
            let n = (u32::from(self.v) + i * 7) % 90;
            if key { format!("{}\t{n}\n", table.key_value(300 + u32::from(self.v) * 4 + i)) } else { format!("{n}\n") }
        };
        let data = (0..1 + u32::from(self.z) % 4).map(row).collect();
        Step::Copy { sql: format!("COPY t{t} ({}n) FROM STDIN", if key { "k, " } else { "" }), data }
    }
}

/// `expression, ` as a value of the table's key.
fn table_key(table: &Table, expression: &str) -> String {
    match table.key() {
        Key::Text => format!("'m' || ({expression}), "),
        _ => format!("{expression}, "),
    }
}

impl Out<'_> {
    fn step(self, via: u8) -> Step {
        if self.extended {
            Step::Extended { sql: self.sql, values: self.values, binary: via == 2 }
        } else {
            Step::Simple(self.sql)
        }
    }
}

/// For arms that give nothing.
fn forget(_: &mut Out<'_>) {}

/// Ingredients of which the README says that they are not protected yet.
#[derive(Clone, Copy, Default, Debug)]
pub struct Switches {
    /// UPDATE and DELETE of tables without a primary key and replica identity.
    pub keyless: bool,
    /// DDL that fills rows from a volatile default.
    pub frozen: bool,
    /// DDL in one transaction with writes: it goes by its text as a whole.
    pub ddl_in_blocks: bool,
    /// CREATE TABLE AS, whose query each node runs on what it has committed by then: its rows are locked by nobody.
    pub created_as: bool,
}

impl Work {
    pub fn client(&self, schema: &Schema, switches: Switches) -> Client {
        let mut steps = Vec::new();
        for t in &self.transactions {
            t.add(schema, switches, &mut steps);
        }
        Client { plain_role: self.plain_role, steps }
    }
}

impl Transaction {
    fn add(&self, schema: &Schema, switches: Switches, steps: &mut Vec<Step>) {
        let begin = match self.block {
            0 | 1 => None,
            2 | 3 => Some("BEGIN"),
            4 => Some("BEGIN ISOLATION LEVEL READ COMMITTED"),
            5 => Some("BEGIN ISOLATION LEVEL REPEATABLE READ"),
            6 => Some("BEGIN ISOLATION LEVEL SERIALIZABLE"),
            7 => Some("START TRANSACTION READ ONLY"),
            _ => Some("BEGIN READ WRITE"),
        };
        let end = if self.rolls_back { "ROLLBACK" } else { "COMMIT" };
        let drawn = self.statements.iter().filter(|s| {
            (begin.is_none() || switches.ddl_in_blocks || !s.kind.is_ddl())
                && (switches.created_as || s.kind != Kind::CreateAs)
        });
        let mut inner: Vec<Step> = drawn.flat_map(|s| s.steps(schema, switches)).collect();
        let Some(begin) = begin else { return steps.append(&mut inner) };
        if self.block == 2 && inner.iter().all(|s| matches!(s, Step::Simple(_))) {
            let texts: Vec<&str> = inner.iter().map(Step::sql).collect();
            steps.push(Step::Simple(format!("BEGIN; {}; {end}", texts.join("; "))));
            // An error in the middle leaves the block open.
            return steps.push(Step::Simple(end.into()));
        }
        steps.push(Step::Simple(begin.into()));
        steps.append(&mut inner);
        steps.push(Step::Simple(end.into()));
    }
}
