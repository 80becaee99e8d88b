//! Are the nodes identical? Row counts and row hashes of every table, computed by each server.
//!
//! Reads only, with direct connections; the demo and the tests use it. Call it while nothing writes: each node is read
//! in a snapshot of its own.

use super::Result;
use super::client::{Client, Target};
use std::collections::BTreeMap;

/// What one node holds of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub rows: u64,
    /// Sum of 64 bits of every row's MD5: the same for the same rows in any order, duplicates counted.
    pub hash: String,
    /// MD5 of columns (names, types, defaults, NOT NULL), constraints and indexes.
    pub definition: String,
}

/// One table on all nodes; `None` where a node has no such table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Schema-qualified and quoted.
    pub name: String,
    pub nodes: Vec<Option<Content>>,
}

impl Table {
    /// Whether all nodes have this table with the same rows and the same definition.
    pub fn is_equal(&self) -> bool {
        self.nodes.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// The user tables of one database on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub tables: Vec<Table>,
}

impl Comparison {
    /// Whether every table is equal on all nodes.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(Table::is_equal)
    }

    /// An aligned table: one line per table and node, which fits a terminal.
    pub fn to_text(&self) -> String {
        self.to_text_from(0)
    }

    /// The same; the nodes that were compared have ids from `first` on.
    pub fn to_text_from(&self, first_id: usize) -> String {
        let mut text = comfy_table::Table::new();
        text.load_style(comfy_table::presets::ASCII_MARKDOWN);
        text.set_header(["table", "node", "rows", "hash", "equal"]);
        for table in &self.tables {
            for (id, content) in table.nodes.iter().enumerate() {
                let first = id == 0;
                let (rows, hash) = match content {
                    Some(content) => (content.rows.to_string(), content.hash.clone()),
                    None => ("(no table)".to_owned(), String::new()),
                };
                let (name, verdict) =
                    if first { (table.name.clone(), self.verdict(table)) } else { (String::new(), String::new()) };
                text.add_row([name, (first_id + id).to_string(), rows, hash, verdict]);
            }
        }
        for numbers in [1, 2] {
            text.column_mut(numbers).into_iter().for_each(|c| c.set_cell_alignment(comfy_table::CellAlignment::Right));
        }
        text.to_string()
    }

    fn verdict(&self, table: &Table) -> String {
        let same_rows = table.nodes.windows(2).all(|pair| match (&pair[0], &pair[1]) {
            (Some(a), Some(b)) => (a.rows, &a.hash) == (b.rows, &b.hash),
            (a, b) => a.is_none() && b.is_none(),
        });
        match (table.is_equal(), same_rows) {
            (true, _) => "yes".into(),
            (false, true) => "NO: definition".into(),
            (false, false) => "NO".into(),
        }
    }
}

/// Settings that decide how a value is written as text, the same on every node whatever its roles and databases say.
const TEXT_FORM: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET xmloption = 'content'; SET lc_monetary = 'C'; \
     SET search_path = pg_catalog; SET row_security = on; SET statement_timeout = 0";

/// Ordinary tables (leaves of partitioned ones included) and materialized views outside the system's schemas.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.oid::text, \
       CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'f' ELSE 't' END \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
     ORDER BY 1";

fn definition_query(oid: &str) -> String {
    format!(
        "SELECT md5(concat_ws('|', \
           (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
                     a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)), ',' ORDER BY a.attnum) \
              FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
             WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped), \
           (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ',' ORDER BY conname) \
              FROM pg_constraint WHERE conrelid = {oid}), \
           (SELECT string_agg(pg_get_indexdef(indexrelid) || indisvalid, ',' ORDER BY pg_get_indexdef(indexrelid)) \
              FROM pg_index WHERE indrelid = {oid})))"
    )
}

/// Compares the user tables of `database` on all `nodes` (direct connections as a superuser).
pub fn compare_nodes(nodes: &[Target], database: &str) -> Result<Comparison> {
    let mut tables: BTreeMap<String, Vec<Option<Content>>> = BTreeMap::new();
    for (id, node) in nodes.iter().enumerate() {
        let contents = contents(node, database).map_err(|e| format!("node {id}: {e}"))?;
        for (name, content) in contents {
            tables.entry(name).or_insert_with(|| vec![None; nodes.len()])[id] = Some(content);
        }
    }
    Ok(Comparison { tables: tables.into_iter().map(|(name, nodes)| Table { name, nodes }).collect() })
}

fn contents(node: &Target, database: &str) -> Result<Vec<(String, Content)>> {
    let client = Client::connect(node, database)?;
    client.rows(TEXT_FORM)?;
    client.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let mut contents = Vec::new();
    for row in client.rows(TABLES)? {
        let [Some(name), Some(oid), Some(populated)] = &row[..] else { return Err("a table without a name".into()) };
        let (rows, hash) = if populated == "t" { rows_and_hash(&client, name)? } else { (0, "not populated".into()) };
        let definition = client.value(&definition_query(oid))?;
        contents.push((name.clone(), Content { rows, hash, definition }));
    }
    client.rows("COMMIT")?;
    Ok(contents)
}

fn rows_and_hash(client: &Client, table: &str) -> Result<(u64, String)> {
    let row = client.rows(&format!(
        "SELECT count(*), coalesce(sum(('x' || substr(md5(t::text), 1, 16))::bit(64)::bigint::numeric), 0) \
           FROM ONLY {table} AS t"
    ))?;
    match row.first().map(Vec::as_slice) {
        Some([Some(rows), Some(hash)]) => Ok((rows.parse()?, hash.clone())),
        _ => Err(format!("no hash came for {table}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(hash: &str, definition: &str) -> Option<Content> {
        Some(Content { rows: 1, hash: hash.into(), definition: definition.into() })
    }

    fn table(name: &str, nodes: Vec<Option<Content>>) -> Table {
        Table { name: name.into(), nodes }
    }

    #[test]
    fn other_rows_other_columns_and_a_missing_table_are_differences() {
        let same = table("same", vec![content("1", "a"), content("1", "a")]);
        let rows = table("rows", vec![content("1", "a"), content("2", "a")]);
        let columns = table("columns", vec![content("1", "a"), content("1", "b")]);
        let missing = table("missing", vec![content("1", "a"), None]);
        assert!(same.is_equal());
        for different in [&rows, &columns, &missing] {
            assert!(!different.is_equal(), "{}", different.name);
        }
        let comparison = Comparison { tables: vec![same, rows, columns, missing] };
        assert!(!comparison.is_equal());
        let text = comparison.to_text();
        assert!(text.contains("NO: definition") && text.contains("(no table)"), "{text}");
    }
}
