//! A random statement over a schema: a kind and a few numbers that mean something only together with the schema, so that
//! both shrink each by itself.

use super::kind::{KINDS_DRAWN, Kind};
use super::schema::{Key, Schema, Table};
use super::script::Step;
use super::transaction::Switches;
use super::write::{Out, forget, table_key};
use proptest::prelude::*;

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    pub kind: Kind,
    /// Two tables.
    pub t: u8,
    pub u: u8,
    /// What the kind makes of them.
    pub x: u8,
    pub y: u8,
    pub z: u8,
    /// Number of a row or a value.
    pub v: u8,
    /// 0: simple; 1: extended, in text; 2: in binary.
    via: u8,
    pub returning: bool,
    pub view: bool,
}

pub fn statement() -> impl Strategy<Value = Statement> {
    let kind = proptest::strategy::Union::new_weighted(
        KINDS_DRAWN.iter().map(|(weight, kind)| (*weight, Just(*kind).boxed())).collect(),
    );
    let small = || prop_oneof![2 => Just(0u8), 3 => 0u8..14];
    let flag = |chance: f64| proptest::bool::weighted(chance);
    (kind, 0u8..3, 0u8..3, small(), small(), small(), 0u8..16, 0u8..3, flag(0.3), flag(0.2)).prop_map(
        |(kind, t, u, x, y, z, v, via, returning, view)| Statement { kind, t, u, x, y, z, v, via, returning, view },
    )
}

impl Statement {
    /// As steps of a client.
    pub fn steps(&self, schema: &Schema, switches: Switches) -> Vec<Step> {
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
                if self.y % 4 == 0 {
                    out.add(" ON CONFLICT DO NOTHING");
                }
                out.returning(self);
            }
            Kind::ConflictNothing => {
                out.insert(self, 1 + self.z / 4 % 3);
                out.add(if self.y % 2 == 0 { " ON CONFLICT DO NOTHING" } else { " ON CONFLICT (k) DO NOTHING" });
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
                if self.v % 3 == 0 {
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
                        if self.x % 2 == 0 { " CASCADE" } else { "" },
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
                let order = if self.y % 2 == 0 { "" } else { " ORDER BY n" };
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
        let key = table.needs_key() || self.y % 2 == 0;
        let row = |i: u32| {
            let n = (u32::from(self.v) + i * 7) % 90;
            if key { format!("{}\t{n}\n", table.key_value(300 + u32::from(self.v) * 4 + i)) } else { format!("{n}\n") }
        };
        let data = (0..1 + u32::from(self.z) % 4).map(row).collect();
        Step::Copy { sql: format!("COPY t{t} ({}n) FROM STDIN", if key { "k, " } else { "" }), data }
    }
}
