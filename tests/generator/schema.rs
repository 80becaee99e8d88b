//! Random schemas: what tables are made of, as numbers that become SQL. Zero is the simplest choice everywhere, so that a
//! failure shrinks to plain tables.

use proptest::collection::vec;
use proptest::prelude::*;

/// Types and defaults of further columns: type, default (empty: none), a literal, something of another value each time.
pub const KINDS: &[(&str, &str, &str, &str)] = &[
    ("int", "", "7", "(random() * 1000)::int"),
    ("text", "'x'", "it''s", "md5(random()::text)"),
    ("timestamptz", "now()", "2020-02-29 12:00+02", "clock_timestamp()"),
    ("float8", "random()", "0.1", "random()"),
    ("uuid", "gen_random_uuid()", "00000000-0000-4000-8000-000000000001", "gen_random_uuid()"),
    ("timestamptz", "clock_timestamp()", "now", "statement_timestamp()"),
    ("bigserial", "", "900000", "nextval('shared')"),
    ("date", "CURRENT_DATE", "today", "clock_timestamp()::date"),
    ("timestamp", "localtimestamp", "2020-02-29 12:00", "clock_timestamp()"),
    ("numeric(12,4)", "random() * 100", "1.50", "random()"),
    ("text", "clock_timestamp()::text", "", "clock_timestamp()::text"),
    ("jsonb", "jsonb_build_object('r', random())", "{\"a\": 1}", "jsonb_build_array(random())"),
    ("int[]", "'{1,2}'", "{3,NULL}", "ARRAY[(random() * 9)::int]"),
    ("mood", "'ok'", "sad", "(ARRAY['sad','ok']::mood[])[1 + (random() * 0.9)::int]"),
    ("lucky", "", "5", "(random() * 100)::int"),
    ("int", "nextval('shared')", "8", "nextval('shared')"),
    ("text", "stamp()", "s", "stamp()"),
    ("timestamptz[]", "ARRAY[now()]", "{now}", "ARRAY[clock_timestamp()]"),
    ("time", "localtime", "12:00", "clock_timestamp()::time"),
    ("bytea", "decode(md5(random()::text), 'hex')", "\\x00ff", "decode(md5(random()::text), 'hex')"),
    ("char(5)", "'ab'", "a", "left(random()::text, 4)"),
    ("interval", "'1 day'", "24:00", "clock_timestamp() - '2020-01-01'"),
    ("mood[]", "'{sad}'", "{ok,sad}", "ARRAY['ok'::mood]"),
    ("pair", "ROW(1, 'a')::pair", "(2,\"b,c\")", "ROW((random() * 9)::int, 'r')::pair"),
    ("int4range", "", "[1,5)", "int4range(1, 2 + (random() * 9)::int)"),
    ("oid", "", "77", "(random() * 1000)::int::oid"),
    ("regclass", "", "audit", "'audit'::regclass"),
];

/// What is set up before any table.
const PRELUDE: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN lucky AS int DEFAULT (random() * 100)::int CHECK (value >= 0); CREATE SEQUENCE shared START 2000;
CREATE FUNCTION stamp() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 's' || clock_timestamp() $$;
CREATE TABLE audit (id serial PRIMARY KEY, at timestamptz DEFAULT now(), what text, r float8 DEFAULT random());
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'";

/// Functions that triggers call.
const TRIGGERS: &str =
    "CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (tg_op);
RETURN coalesce(new, old); END $$;
CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + (random() * 3)::int; RETURN NEW; END $$;
CREATE FUNCTION skipped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF random() < 0.3 THEN RETURN NULL; END IF;
RETURN coalesce(new, old); END $$;
CREATE FUNCTION sent_on() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES ('sent ' || NEW.n); RETURN NULL; END $$";

/// How a table's rows are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    Int,
    Serial,
    Always,
    ByDefault,
    Bigint,
    Uuid,
    Text,
    /// (k, n).
    Composite,
    Full,
    None,
}

const KEYS: &[Key] = &[
    Key::Int,
    Key::Serial,
    Key::Always,
    Key::ByDefault,
    Key::Bigint,
    Key::Uuid,
    Key::Text,
    Key::Composite,
    Key::Full,
    Key::None,
];

/// One table: `t0`, `t1`, ...
#[derive(Clone, Debug)]
pub struct Table {
    key: u8,
    pub columns: Vec<u8>,
    /// 0: an ordinary table; 1: partitioned by ranges of n, 2: with a partition whose columns stand in another order.
    pub partitioned: u8,
    /// 0: n is free; 1: unique; 2: unique, deferrable; 3: unique, initially deferred.
    unique: u8,
    /// 0: none; a foreign key to the table this many further down, with an action.
    parent: u8,
    action: u8,
    /// Bits: BEFORE ROW, AFTER ROW, AFTER STATEMENT, rule, row security, BEFORE ROW that skips, view, INSTEAD OF,
    /// generated column, CHECK, expression index, BEFORE INSERT that sends rows elsewhere.
    extras: u16,
}

/// A schema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub tables: Vec<Table>,
}

/// Extras are rare, so that half of the tables are plain.
fn extras() -> impl Strategy<Value = u16> {
    prop_oneof![5 => Just(0u16), 4 => (0u8..12).prop_map(|bit| 1 << bit), 2 => any::<u16>().prop_map(|x| x & 0x0fff),
        2 => any::<u16>().prop_map(|x| x & 0x0700)]
}

fn table() -> impl Strategy<Value = Table> {
    let few = |most: u8| prop_oneof![3 => Just(0u8), 1 => 1..=most];
    (0..KEYS.len() as u8, vec(0..KINDS.len() as u8, 0..4), few(2), few(3), few(2), 0u8..5, extras()).prop_map(
        |(key, columns, partitioned, unique, parent, action, extras)| Table {
            key,
            columns,
            partitioned,
            unique,
            parent,
            action,
            extras,
        },
    )
}

pub fn schema() -> impl Strategy<Value = Schema> {
    vec(table(), 1..4).prop_map(|tables| Schema { tables })
}

impl Table {
    /// Partitions need their column in the key.
    pub fn key(&self) -> Key {
        match KEYS[self.key as usize] {
            Key::None => Key::None,
            Key::Full if self.partitioned == 0 => Key::Full,
            _ if self.partitioned > 0 => Key::Composite,
            key => key,
        }
    }

    pub fn has(&self, bit: u32) -> bool {
        self.extras & (1 << bit) != 0
    }

    /// Another table's foreign key can point here.
    fn is_parent(&self) -> bool {
        matches!(self.key(), Key::Int | Key::Serial | Key::Always | Key::ByDefault | Key::Bigint)
    }

    /// k must be given.
    pub fn needs_key(&self) -> bool {
        matches!(self.key(), Key::Int | Key::Bigint | Key::Text | Key::Composite | Key::Full | Key::None)
    }

    pub fn key_is_number(&self) -> bool {
        !matches!(self.key(), Key::Uuid | Key::Text)
    }

    /// A value of k.
    pub fn key_value(&self, i: u32) -> String {
        match self.key() {
            Key::Uuid => format!("00000000-0000-4000-8000-{i:012}"),
            Key::Text => format!("k{i}"),
            _ => i.to_string(),
        }
    }

    fn key_of(&self, number: &str) -> String {
        match self.key() {
            Key::Uuid => format!("('00000000-0000-4000-8000-' || lpad(({number})::text, 12, '0'))::uuid"),
            Key::Text => format!("'k' || ({number})"),
            _ => number.to_owned(),
        }
    }
}

impl Schema {
    /// The table that `i` means.
    pub fn table(&self, i: u8) -> (usize, &Table) {
        let i = i as usize % self.tables.len();
        (i, &self.tables[i])
    }

    /// A relation to write: the table, or its view if it has one and `view`.
    pub fn target(&self, i: u8, view: bool) -> String {
        let (i, table) = self.table(i);
        if view && table.has(6) { format!("v{i}") } else { format!("t{i}") }
    }

    /// Statements that make it: tables, their rows, and then what would act on these.
    pub fn setup(&self) -> Vec<String> {
        let (mut tables, mut rows, mut acts) = (PRELUDE.to_owned(), Vec::new(), TRIGGERS.to_owned());
        for (i, table) in self.tables.iter().enumerate() {
            tables.push_str(&self.create(i, table));
            let (mut columns, mut values) = ("n".to_owned(), "g".to_owned());
            if table.needs_key() {
                columns.push_str(", k");
                values.push_str(&format!(", {}", table.key_of("g")));
            }
            // Nobody knows what a user's function does: without images that is refused.
            for (c, _) in table.columns.iter().enumerate().filter(|(_, kind)| KINDS[**kind as usize].1 == "stamp()") {
                columns.push_str(&format!(", c{c}"));
                values.push_str(", 'first'");
            }
            rows.push(format!("INSERT INTO t{i} ({columns}) SELECT {values} FROM generate_series(1, 12) g"));
            acts.push_str(&self.acts(i, table));
        }
        let t0 = &self.tables[0];
        let (key, value) = if t0.needs_key() {
            ("k, ", format!("{}, ", t0.key_of("(random() * 100000)::int")))
        } else {
            ("", String::new())
        };
        acts.push_str(&format!(
            ";\nCREATE FUNCTION place(m int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO t0 ({key}n) SELECT {value}100 + (random() * 100000)::int FROM generate_series(1, m); RETURN m; END $$;
CREATE FUNCTION looks(m int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN m; END $$;
CREATE FUNCTION peeks(m int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t0 WHERE n < m';
CREATE PROCEDURE settle(m int) LANGUAGE plpgsql AS $$ BEGIN UPDATE t0 SET n = n + (random() * 10)::int WHERE n % 3 = m % 3; END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"
        ));
        let mut setup = vec![tables];
        setup.extend(rows);
        setup.push(acts);
        setup
    }

    fn create(&self, i: usize, table: &Table) -> String {
        let (kind, key) = match table.key() {
            Key::Int => ("int", "PRIMARY KEY (k)"),
            Key::Serial => ("serial", "PRIMARY KEY (k)"),
            Key::Always => ("int GENERATED ALWAYS AS IDENTITY", "PRIMARY KEY (k)"),
            Key::ByDefault => ("int GENERATED BY DEFAULT AS IDENTITY", "PRIMARY KEY (k)"),
            Key::Bigint => ("bigint", "PRIMARY KEY (k)"),
            Key::Uuid => ("uuid DEFAULT gen_random_uuid()", "PRIMARY KEY (k)"),
            Key::Text => ("text", "PRIMARY KEY (k)"),
            Key::Composite => ("int", "PRIMARY KEY (k, n)"),
            Key::Full | Key::None => ("int", ""),
        };
        let mut parts = vec![format!("k {kind}"), "n int".to_owned()];
        for (c, kind) in table.columns.iter().enumerate() {
            let (kind, default, ..) = KINDS[*kind as usize];
            let default = if default.is_empty() { String::new() } else { format!(" DEFAULT {default}") };
            parts.push(format!("c{c} {kind}{default}"));
        }
        if table.has(8) {
            parts.push("g int GENERATED ALWAYS AS (n * 2) STORED".into());
        }
        if table.has(9) {
            parts.push("CHECK (n < 1000000)".into());
        }
        if !key.is_empty() {
            parts.push(key.into());
        }
        match table.unique {
            _ if table.partitioned > 0 => {}
            0 => {}
            1 => parts.push("UNIQUE (n)".into()),
            2 => parts.push("UNIQUE (n) DEFERRABLE".into()),
            _ => parts.push("UNIQUE (n) DEFERRABLE INITIALLY DEFERRED".into()),
        }
        if let Some((j, _)) = self.parent(i, table) {
            parts.push(format!("p int REFERENCES t{j}{}", action(table.action)));
        }
        let mut sql = format!(";\nCREATE TABLE t{i} ({})", parts.join(", "));
        if table.partitioned > 0 {
            sql.push_str(&format!(
                " PARTITION BY RANGE (n);
CREATE TABLE t{i}_a PARTITION OF t{i} FOR VALUES FROM (MINVALUE) TO (6);
CREATE TABLE t{i}_b PARTITION OF t{i} FOR VALUES FROM (6) TO (MAXVALUE)"
            ));
        }
        if table.partitioned == 2 {
            sql.push_str(&format!(
                ";\nALTER TABLE t{i} DETACH PARTITION t{i}_b; ALTER TABLE t{i}_b ADD COLUMN junk int;
ALTER TABLE t{i}_b DROP COLUMN junk; ALTER TABLE t{i} ATTACH PARTITION t{i}_b FOR VALUES FROM (6) TO (MAXVALUE)"
            ));
        }
        if table.has(10) {
            sql.push_str(&format!(";\nCREATE INDEX ON t{i} (twice(n))"));
        }
        if table.key() == Key::Full {
            sql.push_str(&format!(";\nALTER TABLE t{i} REPLICA IDENTITY FULL"));
        }
        sql
    }

    /// The table that a foreign key points to.
    fn parent(&self, i: usize, table: &Table) -> Option<(usize, &Table)> {
        let back = table.parent as usize;
        let j = if back == 0 { None } else { i.checked_sub(back) }?;
        self.tables[j].is_parent().then(|| (j, &self.tables[j]))
    }

    fn acts(&self, i: usize, table: &Table) -> String {
        let mut sql = String::new();
        let mut add = |bit: u32, text: String| {
            if table.has(bit) {
                sql.push_str(&format!(";\n{text}"));
            }
        };
        let trigger = |name: &str, when: &str, each: &str, function: &str| {
            format!("CREATE TRIGGER {name} {when} ON t{i} FOR EACH {each} EXECUTE FUNCTION {function}()")
        };
        add(0, trigger("a_touch", "BEFORE INSERT OR UPDATE", "ROW", "touched"));
        add(1, trigger("b_audit", "AFTER INSERT OR UPDATE OR DELETE", "ROW", "audited"));
        add(2, trigger("c_told", "AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE", "STATEMENT", "audited"));
        add(
            3,
            format!("CREATE RULE r AS ON INSERT TO t{i} DO ALSO INSERT INTO audit (what) VALUES ('rule ' || NEW.n)"),
        );
        add(
            4,
            format!(
                "ALTER TABLE t{i} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t{i} USING (n < 50) WITH CHECK (n < 90)"
            ),
        );
        add(5, trigger("d_skip", "BEFORE UPDATE OR DELETE", "ROW", "skipped"));
        add(6, format!("CREATE VIEW v{i} AS SELECT k, n FROM t{i} WHERE n < 60"));
        if table.has(6) {
            let k = if table.needs_key() { ("k, ", "NEW.k, ") } else { ("", "") };
            add(
                7,
                format!(
                    "CREATE FUNCTION instead_{i}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
INSERT INTO t{i} ({}n) VALUES ({}NEW.n + (random() * 3)::int); RETURN NEW; END $$;
CREATE TRIGGER i INSTEAD OF INSERT ON v{i} FOR EACH ROW EXECUTE FUNCTION instead_{i}()",
                    k.0, k.1
                ),
            );
        }
        add(11, trigger("e_elsewhere", "BEFORE INSERT", "ROW", "sent_on"));
        sql
    }
}

fn action(action: u8) -> &'static str {
    match action {
        0 => "",
        1 => " ON DELETE CASCADE ON UPDATE CASCADE",
        2 => " ON DELETE SET NULL",
        3 => " ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
        _ => " ON DELETE SET DEFAULT ON UPDATE SET NULL",
    }
}
