//! What must hold after a case, on all nodes.

use super::run::Failure;
use super::world::World;
use pglockstep::sandbox::client::Client;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Differing rows that are shown of a node.
const SHOWN: usize = 12;

/// A moment for backends that clients have just left.
const GRACE: Duration = Duration::from_secs(10);

const TABLES: &str =
    "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm')";

/// What tables are made of.
const COLUMNS: &str =
    "SELECT concat_ws(' ', c.relname, 'has', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid)) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped";

/// Serial and identity columns, as `table column sequence`.
const OWNED: &str = "SELECT c.relname, a.attname, s.oid::regclass::text FROM pg_depend d
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_class c ON c.oid = d.refobjid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
    WHERE d.deptype IN ('a', 'i') AND c.relnamespace = 'public'::regnamespace AND d.refclassid = 'pg_class'::regclass
    AND d.classid = 'pg_class'::regclass";

pub fn equal(world: &World) -> Result<(), Failure> {
    nothing_is_left(world)?;
    rows(world)?;
    sequences(world)
}

/// No transaction is open, none is prepared.
fn nothing_is_left(world: &World) -> Result<(), Failure> {
    let open = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        AND state <> 'idle'";
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    let end = Instant::now() + GRACE;
    loop {
        let left = world.nodes.iter().any(|n| n.value(open).unwrap() != "0" || n.value(prepared).unwrap() != "0");
        if !left {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Failure { kind: "left over".into(), text: world.activity() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All rows of all tables, and their columns, as lines.
fn rows(world: &World) -> Result<(), Failure> {
    let all: Vec<BTreeMap<String, u64>> = world.on_all(lines);
    if all.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    let mut text = String::new();
    for (node, mine) in all.iter().enumerate() {
        let odd = mine.iter().filter(|(line, count)| all.iter().any(|other| other.get(*line) != Some(count)));
        for (line, count) in odd.take(SHOWN) {
            let _ = writeln!(text, "node {node}: {count} * {line}");
        }
    }
    Err(Failure { kind: "nodes differ".into(), text })
}

/// Each with how often it is there.
fn lines(node: &Client) -> BTreeMap<String, u64> {
    let names = node.rows(TABLES).unwrap();
    let names: Vec<String> = names.into_iter().filter_map(|mut r| r.pop().flatten()).collect();
    let mut sql = COLUMNS.to_owned();
    for name in names {
        let _ = write!(sql, " UNION ALL SELECT '{name} ' || t::text FROM ONLY {name} t");
    }
    let mut lines = BTreeMap::new();
    for line in node.rows(&sql).unwrap().into_iter().filter_map(|mut r| r.pop().flatten()) {
        *lines.entry(line).or_default() += 1;
    }
    lines
}

/// Where main's sequence is beyond the rows that came from it, so is each node's: whoever becomes main gives out no number
/// twice. What statements write into such columns themselves is 2000 and more.
fn sequences(world: &World) -> Result<(), Failure> {
    for row in world.nodes[0].rows(OWNED).unwrap() {
        let [Some(table), Some(column), Some(sequence)] = &row[..] else { continue };
        // Keys are written by statements too.
        if column == "k" {
            continue;
        }
        let sql = format!(
            "SELECT coalesce(max({column}) FILTER (WHERE {column} < 2000), 0) <= (SELECT last_value FROM {sequence}) FROM {table}"
        );
        if world.nodes[0].value(&sql).unwrap() != "t" {
            continue;
        }
        for (n, node) in world.nodes.iter().enumerate() {
            if node.value(&sql).unwrap() != "t" {
                let text = format!("{sequence} of node {n} is behind {table}.{column}");
                return Err(Failure { kind: "sequence".into(), text });
            }
        }
    }
    Ok(())
}
