//! Logging in: every way in which clients prove themselves, against every way in which nodes ask.

mod support;

use pglockstep::auth::ScramVerifier;
use pglockstep::sandbox::client::Target;
use pglockstep::sandbox::process::Signal;
use pglockstep::wire::error::ErrorFields;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::raw::{Raw, V3_0, startup};
use support::{Options, Sandbox};

/// The password of every role here.
const PASSWORD: &str = "s3cret: with \\ and 'quotes'";

fn start() -> Sandbox {
    // Another role than the appliers' reads the secrets, and it can do no more than that.
    // Each client logs in on main anew: with a pool, the nodes would ask the first of its kind only.
    let config = "[authentication]\nauth_user = 'reader of secrets'\nauth_password = 'its own'\n\
                  [pool]\nconnection_cache = false\n";
    let sandbox = Sandbox::start(Options { config: config.into(), ..Options::default() });
    let verifier = ScramVerifier::from_password(PASSWORD, b"sixteen bytes...", 4096).to_shadow();
    let md5 = |user: &str| pglockstep::auth::md5_hash(PASSWORD, user);
    for id in 0..3 {
        let sql = format!(
            "CREATE ROLE with_scram LOGIN PASSWORD '{verifier}'; CREATE ROLE with_md5 LOGIN PASSWORD '{}';
             CREATE ROLE without LOGIN; CREATE ROLE barred NOLOGIN PASSWORD '{verifier}';
             CREATE ROLE expired LOGIN PASSWORD '{verifier}' VALID UNTIL '2020-01-01';
             CREATE ROLE valid LOGIN PASSWORD '{verifier}' VALID UNTIL '2120-01-01'",
            md5("with_md5")
        );
        sandbox.connect_node(id, "postgres").rows(&sql).unwrap();
    }
    sandbox.psql_ok(&["-qc", "CREATE TABLE t (who text)", "-c", "GRANT ALL ON t TO public"]);
    sandbox
}

/// How the nodes are to ask everybody but the proxy's own roles, and the superuser, whom they trust here, so that the
/// harness gets in however clients are asked.
fn nodes_ask(sandbox: &Sandbox, method: &str) {
    let rules = format!(
        "host all postgres 127.0.0.1/32 trust
host all pglockstep,\"reader of secrets\" 127.0.0.1/32 scram-sha-256
\
         host all all 127.0.0.1/32 {method}
"
    );
    let wanted = match method {
        "trust" => 0,
        "password" => 3,
        "md5" => 5,
        _ => 10,
    };
    for (node, target) in sandbox.summary.nodes.iter().zip(sandbox.nodes()) {
        std::fs::write(node.data_directory.join("pg_hba.conf"), &rules).unwrap();
        sandbox.connect_node(node.id.into(), "postgres").rows("SELECT pg_reload_conf()").unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while asked_for(&target, "with_md5") != Some(wanted) {
            assert!(Instant::now() < end, "node {} does not ask for {method}", node.id);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The code of the authentication request that `user` gets.
fn asked_for(target: &Target, user: &str) -> Option<u32> {
    let mut raw = Raw::open(target);
    raw.write(&startup(&[("user", user), ("database", "postgres")], V3_0));
    match raw.message() {
        Some((b'R', body)) => Some(u32::from_be_bytes(body[..4].try_into().unwrap())),
        _ => None,
    }
}

/// Restarts the proxy with these keys in its [authentication] table.
fn clients_are_asked(sandbox: &mut Sandbox, keys: &[(&str, &str)]) {
    let path = sandbox.dir().join("pglockstep.toml");
    let mut config: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let table = config["authentication"].as_table_mut().unwrap();
    table.remove("pool_passwd");
    for (key, value) in keys {
        let value = value.parse::<i64>().map_or_else(|_| (*value).into(), toml::Value::Integer);
        table.insert((*key).into(), value);
    }
    std::fs::write(&path, config.to_string()).unwrap();
    sandbox.restart_proxy(Signal::TERM);
}

/// Logs in and writes a row, which must reach every node by appliers that log in as the same role.
fn works(sandbox: &Sandbox, user: &str) {
    let mut raw = try_login(sandbox, user, PASSWORD).unwrap_or_else(|e| panic!("{user}: {e:?}\n{}", sandbox.log()));
    raw.run("BEGIN; DELETE FROM t; INSERT INTO t VALUES (current_user); COMMIT");
    assert_eq!(sandbox.on_nodes("postgres", "SELECT string_agg(who, ',') FROM t"), [user; 3]);
}

fn try_login(sandbox: &Sandbox, user: &str, password: &str) -> Result<Raw, ErrorFields> {
    let target = Target { user: user.into(), password: password.into(), ..sandbox.summary.proxy() };
    let (raw, end) = Raw::try_login(&target, "postgres");
    end.map(|()| raw)
}

fn refused(sandbox: &Sandbox, user: &str, password: &str) -> (String, String) {
    match try_login(sandbox, user, password) {
        Ok(_) => panic!("{user} is let in\n{}", sandbox.log()),
        Err(e) => (e.sqlstate, e.message),
    }
}

fn wrong_password(user: &str) -> (String, String) {
    ("28P01".into(), format!("password authentication failed for user \"{user}\""))
}

#[test]
fn every_method_towards_clients_meets_every_method_of_the_nodes() {
    let mut sandbox = start();

    // SCRAM: the keys that the client reveals log in wherever the same verifier is stored.
    for method in ["scram-sha-256", "md5", "trust"] {
        nodes_ask(&sandbox, method);
        works(&sandbox, "with_scram");
        assert_eq!(refused(&sandbox, "with_scram", "wrong"), wrong_password("with_scram"));
    }
    nodes_ask(&sandbox, "password");
    let (code, words) = refused(&sandbox, "with_scram", PASSWORD);
    assert_eq!(code, "28000");
    assert!(words.contains("for its password, but only its SCRAM keys are known"), "{words}");
    assert_eq!(asked_for(&sandbox.summary.proxy(), "with_scram"), Some(10));

    // Who may not come in, and what they are told: the same for all who have no right password.
    nodes_ask(&sandbox, "scram-sha-256");
    for user in ["with_md5", "without", "expired", "nobody"] {
        assert_eq!(refused(&sandbox, user, PASSWORD), wrong_password(user));
    }
    sandbox.wait_for_log("has an expired password");
    let not_permitted = ("28000".to_owned(), "role \"barred\" is not permitted to log in".to_owned());
    assert_eq!(refused(&sandbox, "barred", PASSWORD), not_permitted);
    assert_eq!(refused(&sandbox, "barred", "wrong"), wrong_password("barred"));
    works(&sandbox, "valid");

    clients_are_asked(&mut sandbox, &[("client_auth", "md5")]);
    assert_eq!(asked_for(&sandbox.summary.proxy(), "with_md5"), Some(5));
    for method in ["md5", "trust"] {
        nodes_ask(&sandbox, method);
        works(&sandbox, "with_md5");
        works(&sandbox, "with_scram"); // asked for SCRAM, as PostgreSQL does
        assert_eq!(refused(&sandbox, "with_md5", "wrong"), wrong_password("with_md5"));
    }
    nodes_ask(&sandbox, "password");
    let (code, words) = refused(&sandbox, "with_md5", PASSWORD);
    assert_eq!(code, "28000");
    assert!(words.contains("only the md5 hash of its password is known"), "{words}");

    clients_are_asked(&mut sandbox, &[("client_auth", "password")]);
    assert_eq!(asked_for(&sandbox.summary.proxy(), "with_md5"), Some(3));
    for method in ["password", "md5", "scram-sha-256", "trust"] {
        nodes_ask(&sandbox, method);
        works(&sandbox, "with_scram");
        assert_eq!(refused(&sandbox, "with_scram", "wrong"), wrong_password("with_scram"));
        if method != "scram-sha-256" {
            works(&sandbox, "with_md5");
        }
    }
    for user in ["without", "expired", "nobody"] {
        assert_eq!(refused(&sandbox, user, PASSWORD), wrong_password(user));
    }
    // The proxy computes no more rounds than it is allowed to.
    let costly = ScramVerifier::from_password(PASSWORD, b"sixteen bytes...", 5000).to_shadow();
    for id in 0..3 {
        let sql = format!("CREATE ROLE costly LOGIN PASSWORD '{costly}'");
        sandbox.connect_node(id, "postgres").rows(&sql).unwrap();
    }
    works(&sandbox, "costly");
    clients_are_asked(&mut sandbox, &[("scram_max_iterations", "4096")]);
    assert_eq!(refused(&sandbox, "costly", PASSWORD), wrong_password("costly"));
    sandbox.wait_for_log("The SCRAM secret has over 4096 iterations");
    works(&sandbox, "with_scram");

    clients_are_asked(&mut sandbox, &[("client_auth", "trust")]);
    nodes_ask(&sandbox, "trust");
    works(&sandbox, "with_scram");
    works(&sandbox, "without");
    assert_eq!(refused(&sandbox, "nobody", ""), ("28000".into(), "role \"nobody\" does not exist".into()));
    assert_eq!(refused(&sandbox, "barred", ""), not_permitted);
    nodes_ask(&sandbox, "scram-sha-256");
    let (code, words) = refused(&sandbox, "with_scram", PASSWORD);
    assert_eq!(code, "28000");
    assert!(words.contains("nothing is known that would prove it"), "{words}");
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn roles_made_through_the_proxy_log_in_on_every_node() {
    let sandbox = Sandbox::start(Options::default());
    let mut admin = Raw::login(&sandbox.summary.proxy(), "postgres");
    admin.run("CREATE TABLE t (who text); GRANT ALL ON t TO public");
    let quoted = PASSWORD.replace('\'', "''");
    let verifiers = |user: &str| {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'");
        sandbox.on_nodes("postgres", &sql)
    };
    admin.run(&format!("CREATE ROLE made LOGIN PASSWORD '{quoted}'"));
    admin
        .run(&format!("BEGIN; CREATE USER made_too WITH ENCRYPTED PASSWORD '{quoted}' VALID UNTIL 'infinity'; COMMIT"));
    admin.run("CREATE ROLE changed LOGIN PASSWORD 'another'");
    admin.run(&format!("ALTER ROLE changed PASSWORD '{quoted}'"));
    admin.run("CREATE ROLE rolled_back LOGIN; BEGIN; DROP ROLE rolled_back; ROLLBACK");
    for user in ["made", "made_too", "changed"] {
        works(&sandbox, user);
        let stored = verifiers(user);
        assert!(stored[0].starts_with("SCRAM-SHA-256$"), "{stored:?}");
        assert_eq!(stored, vec![stored[0].clone(); 3]);
        assert_eq!(refused(&sandbox, user, "wrong"), wrong_password(user));
    }
    admin
        .run("ALTER ROLE made NOLOGIN; ALTER ROLE made_too VALID UNTIL '2020-01-01'; ALTER ROLE changed PASSWORD NULL");
    assert_eq!(refused(&sandbox, "made", PASSWORD).0, "28000");
    assert_eq!(refused(&sandbox, "made_too", PASSWORD), wrong_password("made_too"));
    assert_eq!(refused(&sandbox, "changed", PASSWORD), wrong_password("changed"));
    assert!(!sandbox.whole_log().contains(PASSWORD));
    sandbox.assert_no_node_lost();
}

#[test]
fn pool_passwd_is_read_instead_of_the_catalogue_in_all_its_forms() {
    let mut sandbox = start();
    let verifier = ScramVerifier::from_password(PASSWORD, b"sixteen bytes...", 4096).to_shadow();
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    let write = |sandbox: &Sandbox, entries: &str| {
        let path = sandbox.dir().join("pool_passwd");
        std::fs::write(&path, entries).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };

    // In plain, the proxy can log in to nodes whatever they ask, and whatever its clients were asked.
    write(&sandbox, &format!("with_scram:TEXT{escaped}\nwith_md5:{escaped}\nold:AESabcdef==\n"));
    for client_auth in ["scram-sha-256", "md5", "password", "trust"] {
        clients_are_asked(&mut sandbox, &[("client_auth", client_auth), ("pool_passwd", "pool_passwd")]);
        for method in ["scram-sha-256", "md5", "password"] {
            nodes_ask(&sandbox, method);
            works(&sandbox, "with_scram");
            if method != "scram-sha-256" {
                works(&sandbox, "with_md5");
            }
        }
    }
    // Who is not in the file is looked up as without it; an entry that cannot be used bars its user alone.
    clients_are_asked(&mut sandbox, &[("client_auth", "scram-sha-256"), ("pool_passwd", "pool_passwd")]);
    nodes_ask(&sandbox, "scram-sha-256");
    works(&sandbox, "valid");
    assert_eq!(refused(&sandbox, "with_scram", "wrong"), wrong_password("with_scram"));
    assert_eq!(refused(&sandbox, "old", PASSWORD).0, "28000");

    write(&sandbox, &format!("with_scram:{verifier}\n"));
    clients_are_asked(&mut sandbox, &[("client_auth", "scram-sha-256"), ("pool_passwd", "pool_passwd")]);
    works(&sandbox, "with_scram");
    clients_are_asked(&mut sandbox, &[("client_auth", "password"), ("pool_passwd", "pool_passwd")]);
    works(&sandbox, "with_scram");
    assert_eq!(refused(&sandbox, "with_scram", "wrong"), wrong_password("with_scram"));

    write(&sandbox, &format!("with_md5:{}\n", pglockstep::auth::md5_hash(PASSWORD, "with_md5")));
    clients_are_asked(&mut sandbox, &[("client_auth", "md5"), ("pool_passwd", "pool_passwd")]);
    nodes_ask(&sandbox, "md5");
    works(&sandbox, "with_md5");
    assert_eq!(refused(&sandbox, "with_md5", "wrong"), wrong_password("with_md5"));
    sandbox.assert_nothing_in_transaction();
}

#[test]
fn local_clients_come_in_by_the_unix_socket() {
    let sockets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(sockets.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let dir = sockets.path().to_str().unwrap().to_owned();
    let config = format!("[listen]\nunix_socket_directories = ['{dir}']\n[logging]\nlog_connections = true\n");
    let mut sandbox = Sandbox::start(Options { nodes: 2, config, ..Options::default() });
    let over_socket = |sandbox: &Sandbox, password: &str| {
        let mut psql = sandbox.program("psql");
        psql.env("PGHOST", &dir).env("PGPASSWORD", password).args(["-XAtc", "SELECT 'local'"]).output().unwrap()
    };
    let path = sockets.path().join(format!(".s.PGSQL.{}", sandbox.summary.port));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    assert_eq!(over_socket(&sandbox, &sandbox.summary.password).stdout, b"local\n");
    assert!(!over_socket(&sandbox, "wrong").status.success());
    assert!(sandbox.whole_log().contains("connection received: host=[local]"));

    // A socket that a killed proxy has left is no obstacle; one that is in use is.
    sandbox.restart_proxy(Signal::KILL);
    assert_eq!(over_socket(&sandbox, &sandbox.summary.password).stdout, b"local\n");
    let text = std::fs::read_to_string(sandbox.dir().join("pglockstep.toml")).unwrap();
    let text = text.replace("/work\"", "/work2\"").replace("\"127.0.0.1\"]", "\"127.0.0.2\"]");
    std::fs::write(sandbox.dir().join("other.toml"), text).unwrap();
    let (status, words) = sandbox.run_by_hand(&sandbox.dir().join("other.toml"));
    assert_eq!(status, Some(1), "{words}");
    assert!(words.contains("another process listens on") && words.contains(path.to_str().unwrap()), "{words}");

    sandbox.stop_proxy(Signal::TERM);
    assert!(!path.exists(), "the socket is removed at the end");
}
