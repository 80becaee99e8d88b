//! The sandbox without its proxy: clusters, setup and comparison against real servers.

use pglockstep::admin::setup;
use pglockstep::sandbox::SandboxArgs;
use pglockstep::sandbox::client::{Client, Target};
use pglockstep::sandbox::compare::compare_nodes;
use pglockstep::sandbox::process::{Interrupt, free_ports};
use pglockstep::sandbox::running::{Sandbox, Summary};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn args(nodes: usize) -> SandboxArgs {
    let ports = free_ports(2).unwrap();
    SandboxArgs { nodes: Some(nodes), ..SandboxArgs::on_port(ports[0], ports[1]) }
}

fn start(args: &SandboxArgs) -> Sandbox {
    Sandbox::start_servers(args, &Interrupt::default()).unwrap()
}

fn on_all(nodes: &[Target], sql: &str) -> Vec<String> {
    nodes.iter().map(|node| Client::connect(node, "postgres").unwrap().value(sql).unwrap()).collect()
}

/// A directory that an unprivileged account may pass through.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn servers_are_prepared_alike_and_nothing_is_left_behind() {
    let mut sandbox = start(&args(2));
    let summary = sandbox.summary().clone();
    let nodes = summary.direct();
    assert_eq!(on_all(&nodes, "SHOW wal_level"), ["logical", "logical"]);
    assert_eq!(on_all(&nodes, "SHOW fsync"), ["on", "on"]);
    assert_eq!(on_all(&nodes, "SHOW pglockstep.node_id"), ["0", "1"]);
    let verifiers = on_all(&nodes, "SELECT rolpassword FROM pg_authid WHERE rolname = 'pglockstep' AND rolsuper");
    assert!(verifiers[0].starts_with("SCRAM-SHA-256$"));
    assert_eq!(verifiers[0], verifiers[1]);
    let wrong = Target { password: "wrong".into(), ..nodes[0].clone() };
    assert!(Client::connect(&wrong, "postgres").err().unwrap().to_string().contains("28P01"));

    let data = summary.nodes[0].data_directory.clone();
    sandbox.stop();
    drop(sandbox);
    assert!(!data.parent().unwrap().exists());
    assert!(summary.nodes.iter().all(|node| node.pid != 0 && !is_alive(node.pid)));
}

#[test]
fn comparison_sees_one_changed_row_and_nothing_else() {
    let sandbox = start(&args(2));
    let nodes = sandbox.summary().direct();
    for (node, order) in nodes.iter().zip(["ASC", "DESC"]) {
        let client = Client::connect(node, "postgres").unwrap();
        client.rows("CREATE TABLE \"odd name\" (id int PRIMARY KEY, v text); CREATE TABLE keyless (a float8)").unwrap();
        let fill = "INSERT INTO \"odd name\" SELECT n, 'v' || n FROM generate_series(1, 1000) n ORDER BY n";
        client.rows(&format!("{fill} {order}; INSERT INTO keyless VALUES (0.1), (0.1), (NULL)")).unwrap();
    }
    let comparison = compare_nodes(&nodes, "postgres").unwrap();
    assert!(comparison.is_equal(), "{}", comparison.to_text());
    assert_eq!(comparison.tables.len(), 2);

    let odd = Client::connect(&nodes[1], "postgres").unwrap();
    odd.rows("UPDATE \"odd name\" SET v = 'other' WHERE id = 7").unwrap();
    let comparison = compare_nodes(&nodes, "postgres").unwrap();
    let different: Vec<&str> = comparison.tables.iter().filter(|t| !t.is_equal()).map(|t| t.name.as_str()).collect();
    assert_eq!(different, ["public.\"odd name\""]);
}

#[test]
fn a_directory_keeps_its_servers_and_data_for_the_next_start() {
    let dir = directory();
    let mut args = SandboxArgs { dir: Some(dir.path().join("kept")), ..args(2) };
    let first = start(&args);
    let summary = first.summary().clone();
    assert_eq!(Summary::read(args.dir.as_ref().unwrap()).unwrap(), summary);
    Client::connect(&summary.direct()[1], "postgres").unwrap().rows("CREATE TABLE kept (a int)").unwrap();
    let second = Sandbox::start_servers(&args, &Interrupt::default()).err().unwrap();
    assert!(second.to_string().contains("another sandbox runs in"), "{second}");
    drop(first);

    args.nodes = Some(3);
    let refused = Sandbox::start_servers(&args, &Interrupt::default()).err().unwrap();
    assert!(refused.to_string().contains("made with 2 nodes"), "{refused}");
    args.nodes = None;
    let again = start(&args);
    assert_eq!(again.summary().password, summary.password);
    assert_eq!(on_all(&again.summary().direct()[1..], "SELECT count(*) FROM kept"), ["0"]);
    let setup_log = std::fs::read_to_string(args.dir.unwrap().join("setup.log")).unwrap();
    assert!(setup_log.contains("as they should be"), "{setup_log}");
}

#[test]
fn a_dry_run_of_setup_shows_statements_and_changes_nothing() {
    let sandbox = start(&args(1));
    let node = &sandbox.summary().direct()[0];
    let login = |user: &str| setup::Login { user: user.into(), password: "secret".into() };
    let args = setup::SetupArgs {
        nodes: vec![setup::SetupNode { id: 0, host: node.host.clone(), port: node.port }],
        superuser: node.user.clone(),
        superuser_password: node.password.clone(),
        database: "postgres".into(),
        apply: login("applier"),
        auth: Some(login("auth\"or")),
        health_check: Some(login("nurse")),
        clients: 500,
        dry_run: true,
    };
    let shown = |args: &setup::SetupArgs| {
        let mut out = Vec::new();
        setup::run_to(args.clone(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname IN ('applier', 'auth\"or', 'nurse')";
    let text = shown(&args);
    assert!(text.contains("CREATE ROLE \"applier\" SUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$...';"), "{text}");
    assert!(text.contains("GRANT SELECT ON pg_catalog.pg_authid TO \"auth\"\"or\";"), "{text}");
    assert!(text.contains("at least 1020") && text.contains("restart"), "{text}");
    assert_eq!(on_all(std::slice::from_ref(node), roles), ["0"]);

    let args = setup::SetupArgs { dry_run: false, ..args };
    assert_eq!(shown(&args).matches("ROLE").count(), 3);
    assert_eq!(on_all(std::slice::from_ref(node), roles), ["3"]);
    assert!(shown(&args).contains("roles and node ids are as they should be"));
    for user in ["applier", "auth\"or", "nurse"] {
        let target = Target { user: user.into(), password: "secret".into(), ..node.clone() };
        Client::connect(&target, "postgres").unwrap();
    }
    let twice = setup::SetupArgs { nodes: [args.nodes.clone(), args.nodes.clone()].concat(), ..args };
    assert!(setup::run_to(twice, &mut Vec::new()).unwrap_err().to_string().contains("one server"));
}

#[test]
fn what_is_too_much_or_taken_is_refused_before_anything_is_made() {
    let refuse = |args: SandboxArgs, why: &str| {
        let error = Sandbox::start_servers(&args, &Interrupt::default()).err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    };
    refuse(SandboxArgs { nodes: Some(17), ..args(3) }, "--nodes 17");
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    refuse(SandboxArgs { listen: taken, ..args(3) }, "choose another --listen");
    let dir = directory();
    std::fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    refuse(SandboxArgs { dir: Some(dir.path().into()), ..args(3) }, "something else than a sandbox");
}
