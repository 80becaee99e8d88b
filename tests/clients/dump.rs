//! pg_dump and pg_restore, by several connections at once: through the proxy, and past it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::compare::Compared;
use super::psql::scratch;

/// Something of everything that a dump holds.
const SCHEMA: &str = include_str!("dump.sql");

/// A command of PostgreSQL's that takes a connection to this URL.
fn command(compared: &Compared, program: &str, url: &str, arguments: &[&str]) -> Command {
    let mut command = compared.sandbox.program(program);
    command.args(["-d", url]).args(arguments);
    command
}

fn run(compared: &Compared, program: &str, url: &str, arguments: &[&str]) -> String {
    let output = command(compared, program, url, arguments).output().unwrap();
    let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    assert!(complaint.is_empty(), "{program} {arguments:?}: {complaint}");
    compared.text(program, &output)
}

/// A database as text, whatever the order of its rows: a restore by several connections writes them as they come, and
/// each dump has a key of its own against psql's meta-commands.
fn as_text(compared: &Compared, url: &str) -> Vec<String> {
    let text = run(compared, "pg_dump", url, &[]);
    let mut parts: Vec<Vec<&str>> = vec![Vec::new()];
    let mut data = false;
    for line in text.lines().filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict")) {
        if !data && line.starts_with("COPY ") {
            parts.push(Vec::new());
        }
        parts.last_mut().unwrap().push(line);
        if data && line == "\\." {
            let rows = parts.last_mut().unwrap();
            rows[1..].sort_unstable();
            parts.push(Vec::new());
        }
        data = (data || line.starts_with("COPY ")) && line != "\\.";
    }
    parts.into_iter().flatten().map(str::to_owned).collect()
}

fn assert_same(what: &str, wanted: &[String], found: &[String]) {
    let (a, b): (BTreeSet<_>, BTreeSet<_>) = (wanted.iter().collect(), found.iter().collect());
    let missing: Vec<_> = a.difference(&b).take(10).collect();
    let more: Vec<_> = b.difference(&a).take(10).collect();
    assert!(wanted == found, "{what}: missing {missing:#?}\nin place of it {more:#?}");
}

/// Dumps a database through the proxy in every format, restores each through the proxy, and compares what every node
/// then holds with the source.
pub fn dump_and_restore(compared: &Compared) {
    let (_, source) = compared.databases("source");
    let directory = scratch(compared);
    let schema = directory.join("dump.sql");
    std::fs::write(&schema, SCHEMA).unwrap();
    run(
        compared,
        "psql",
        &source,
        &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", schema.to_str().unwrap()],
    );
    let on_node = |id: usize, database: &str| {
        let node = compared.sandbox.nodes()[id].clone();
        as_text(compared, &node.url(database))
    };
    let wanted = on_node(0, "source");
    assert!(wanted.len() > 1200, "the source is nearly empty");
    assert_same("the source on node 2", &wanted, &on_node(2, "source"));
    assert_same("a dump through the proxy", &wanted, &as_text(compared, &source));
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    // Exported snapshots are main's: all connections of a parallel dump must be there.
    run(compared, "pg_dump", &source, &["-Fd", "-j", "2", "-f", &path("directory")]);
    run(compared, "pg_dump", &source, &["-Fc", "-f", &path("custom")]);
    run(
        compared,
        "pg_dump",
        &source,
        &["--serializable-deferrable", "--inserts", "--rows-per-insert=50", "-f", &path("inserts")],
    );
    assert!(Path::new(&path("directory")).join("toc.dat").exists());
    for (name, program, arguments) in [
        ("restored_directory", "pg_restore", vec!["-j".to_owned(), "4".into(), "-Fd".into(), path("directory")]),
        ("restored_at_once", "pg_restore", vec!["--single-transaction".to_owned(), path("custom")]),
        (
            "restored_inserts",
            "psql",
            ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f"]
                .map(str::to_owned)
                .into_iter()
                .chain([path("inserts")])
                .collect(),
        ),
    ] {
        let (_, url) = compared.databases(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(compared, program, &url, &arguments);
        for id in 0..3 {
            assert_same(&format!("{name} on node {id}"), &wanted, &on_node(id, name));
        }
    }
}
