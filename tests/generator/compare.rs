//! What must hold after a case, on all nodes.

use super::run::Failure;
use super::world::{DATABASE, World};
use pglockstep::sandbox::client::Client;
use pglockstep::sandbox::compare::compare_nodes;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Differing rows that are shown of a table.
const SHOWN: usize = 12;

/// A moment for backends that clients have just left.
const GRACE: Duration = Duration::from_secs(10);

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

fn rows(world: &World) -> Result<(), Failure> {
    let comparison = compare_nodes(&world.sandbox.nodes(), DATABASE).unwrap();
    if comparison.is_equal() {
        return Ok(());
    }
    let mut text = comparison.to_text();
    text.push('\n');
    for table in comparison.tables.iter().filter(|t| !t.is_equal()) {
        let all: Vec<Vec<String>> = world.nodes.iter().map(|n| rows_of(n, &table.name)).collect();
        for (node, mine) in all.iter().enumerate() {
            let odd = mine.iter().filter(|row| all.iter().any(|other| !other.contains(row)));
            for row in odd.take(SHOWN) {
                let _ = writeln!(text, "{} on node {node}: {row}", table.name);
            }
        }
    }
    Err(Failure { kind: "nodes differ".into(), text })
}

fn rows_of(node: &Client, table: &str) -> Vec<String> {
    let rows =
        node.rows(&format!("SET TimeZone = 'UTC'; SELECT t::text FROM ONLY {table} t ORDER BY 1")).unwrap_or_default();
    rows.into_iter().filter_map(|mut r| r.pop().flatten()).collect()
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
