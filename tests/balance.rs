//! Reads are spread: over sessions, or over statements with `statement_level_load_balance`.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};

use support::{Options, Sandbox};

/// Reads so many times that each of three nodes is chosen once, as good as certainly.
fn read_often(input: &mut ChildStdin, lines: &mut BufReader<ChildStdout>) {
    for _ in 0..60 {
        writeln!(input, "SELECT count(*) FROM t;").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "0\n");
    }
}

#[test]
fn each_statement_chooses_a_node_and_one_that_has_refused_once_is_chosen_again() {
    let config = "[load_balance]\nstatement_level_load_balance = true\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    sandbox.psql_ok(&[
        "-q",
        "-c",
        "CREATE TABLE t (a int PRIMARY KEY); CREATE ROLE app LOGIN PASSWORD 'secret'; GRANT SELECT ON t TO app",
    ]);
    let readers = || -> Vec<String> {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spread'";
        (1..3).map(|n| sandbox.connect_node(n, "postgres").value(count).unwrap()).collect()
    };
    // Past the proxy, so that only this node refuses.
    let on_node_2 = |sql: &str| drop(sandbox.connect_node(2, "postgres").rows(sql).unwrap());
    on_node_2("ALTER ROLE app NOLOGIN");
    let mut command = sandbox.program("psql");
    command.args(["-X", "-q", "-A", "-t"]).env("PGUSER", "app").env("PGPASSWORD", "secret").env("PGAPPNAME", "spread");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    read_often(&mut input, &mut lines);
    assert_eq!(readers(), ["1", "0"], "node 1 serves, node 2 refuses the role");
    on_node_2("ALTER ROLE app LOGIN");
    read_often(&mut input, &mut lines);
    assert_eq!(readers(), ["1", "1"]);
    drop(input);
    assert!(child.wait().unwrap().success());
    sandbox.assert_nothing_in_transaction();
}
