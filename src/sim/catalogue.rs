//! What main would answer to the catalogue's queries.

use super::node::Node;
use super::workload::SCHEMA;
use crate::cluster::control::Rows;

fn row(cells: &[&str]) -> Vec<Option<String>> {
    cells.iter().map(|c| Some((*c).to_owned())).collect()
}

fn builtins() -> Rows {
    vec![
        row(&["f", "count sum max min int4pl int4mi int8pl lower length"]),
        row(&["o", "= <> < <= > >= ~~ !~~ ~~* !~~* ~ !~ + - * / ||"]),
        row(&["r", "pg_class"]),
        row(&["t", "int4 int8 text bool integer bigint numeric"]),
    ]
}

/// Plain tables of built-in types, one deferrable constraint. `keyed`: it tells of their columns and keys, too, without which
/// no statement is proved to name its rows. (No role may read them all: nothing goes by its rows here.)
#[must_use]
pub fn catalogue(tables: &[&str], keyed: bool) -> Vec<Rows> {
    let oid = |i: usize| (20_000 + i).to_string();
    let relations = tables.iter().enumerate().map(|(i, t)| row(&[&oid(i), t, "r", "f", "20 23 25"]));
    let (mut plain, mut columns) = (Vec::new(), Vec::new());
    for (i, table) in tables.iter().enumerate().filter(|_| keyed) {
        plain.push(row(&[&oid(i), "public", table, "t", "", "", "", "f", "f", "f", "", "t", "f"]));
        for (name, place) in columns_of(table) {
            let place = place.map(|p| p.to_string()).unwrap_or_default();
            columns.push(row(&[&oid(i), &name, "20", "f", "", &place, "f", "f", "", "", "", "", "f", "f", "f"]));
        }
    }
    vec![builtins(), vec![], vec![], relations.collect(), vec![], vec![], vec![], vec![row(&["t"])], plain, columns]
}

/// A table's columns, in order, and their places in its primary key.
fn columns_of(table: &str) -> Vec<(String, Option<usize>)> {
    let start = format!("CREATE TABLE {table} (");
    let parts = SCHEMA.iter().find_map(|sql| sql.strip_prefix(&start)?.strip_suffix(')')).unwrap_or_default();
    let (parts, key) = parts.split_once(", PRIMARY KEY (").unwrap_or((parts, ""));
    let key: Vec<&str> = key.trim_end_matches(')').split(", ").collect();
    let column = |part: &str| {
        let name = part.split(' ').next().unwrap_or_default();
        let place = key.iter().position(|k| *k == name).map(|p| p + 1);
        (name.to_owned(), place.or(part.contains("PRIMARY KEY").then_some(1)))
    };
    parts.split(", ").map(column).collect()
}

/// OID of nextval(regclass) (pg_proc.dat).
const NEXTVAL: &str = "1574";

/// The node's tables, with what is needed to tell how each write reaches the replicas.
#[must_use]
pub fn whole(node: &Node) -> Vec<Rows> {
    let role = "postgres";
    let (mut relations, mut tables, mut columns) = (Vec::new(), Vec::new(), Vec::new());
    for t in node.tables() {
        let oid = t.oid.to_string();
        relations.push(row(&[&oid, &t.name, "r", "f", "20 23 25"]));
        let (plain, obstacles) = if t.fires { ("f", "t audits") } else { ("t", "") };
        tables.push(row(&[&oid, "public", &t.name, plain, role, role, role, "f", "f", "f", obstacles, "t", "f"]));
        for (name, ty, place) in &t.columns {
            let place = place.map_or(String::new(), |p| p.to_string());
            let serial = t.name == "audit" && name == "id";
            let default =
                if serial { ["t", "f", NEXTVAL, "public.audit_id", "1", "1"] } else { ["f", "", "", "", "", ""] };
            let [has, anew, calls, sequence, increment, start] = default;
            let ty = ty.to_string();
            columns.push(row(&[
                &oid, name, &ty, "f", "", &place, has, anew, calls, sequence, increment, start, "f", "f", "f",
            ]));
        }
    }
    let functions = vec![row(&[NEXTVAL, "pg_catalog", "nextval", "v", "t", "2205", "20", ""])];
    let deferrable = vec![row(&["t"])];
    vec![builtins(), functions, vec![], relations, vec![], vec![], vec![], deferrable, tables, columns]
}
