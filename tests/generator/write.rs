//! Parts of statements as text: values, conditions, INSERT and UPDATE.

use super::schema::{KINDS, Key, Schema, Table};
use super::script::Step;
use super::statement::Statement;

/// A statement being written: its text, and the values of its parameters if it has any.
pub struct Out<'a> {
    pub sql: String,
    pub values: Vec<String>,
    pub extended: bool,
    pub schema: &'a Schema,
}

impl Out<'_> {
    pub fn add(&mut self, text: &str) -> &mut Self {
        self.sql.push_str(text);
        self
    }

    /// A literal, or a parameter.
    pub fn value(&mut self, text: &str) -> &mut Self {
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
    pub fn number(&mut self, s: &Statement, u: usize) {
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
    pub fn further(&mut self, table: &Table, column: usize, choice: u8) {
        let (_, _, literal, volatile) = KINDS[table.columns[column] as usize];
        match choice % 4 {
            0 => self.value(literal),
            1 => self.add(volatile),
            2 => self.add("DEFAULT"),
            _ => self.add("NULL"),
        };
    }

    /// WHERE, from the row of number v on.
    pub fn condition(&mut self, table: &Table, name: &str, u: usize, how: u8, v: u8) {
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

    pub fn returning(&mut self, s: &Statement) {
        if s.returning {
            self.add(if s.z % 2 == 0 { " RETURNING k, n" } else { " RETURNING *" });
        }
    }

    /// INSERT INTO ... VALUES, up to its end.
    pub fn insert(&mut self, s: &Statement, rows: u8) {
        let (u, _) = self.schema.table(s.u);
        let (_, table) = self.schema.table(s.t);
        let target = self.schema.target(s.t, s.view);
        let table = table.clone();
        let gives_key = table.needs_key() || s.y % 3 == 0;
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

    pub fn update(&mut self, s: &Statement) {
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

impl Out<'_> {
    /// As a step of a client.
    pub fn step(self, via: u8) -> Step {
        if self.extended {
            Step::Extended { sql: self.sql, values: self.values, binary: via == 2 }
        } else {
            Step::Simple(self.sql)
        }
    }
}

/// For arms that give nothing.
pub fn forget(_: &mut Out<'_>) {}

/// `expression, ` as a value of the table's key.
pub fn table_key(table: &Table, expression: &str) -> String {
    match table.key() {
        Key::Text => format!("'m' || ({expression}), "),
        _ => format!("{expression}, "),
    }
}
