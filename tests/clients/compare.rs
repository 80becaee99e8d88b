//! One client, two servers: what it prints with either, side by side.

use std::path::PathBuf;
use std::process::{Command, Output};

use pglockstep::sandbox::client::{Client, Target};

use crate::support::{Options, Sandbox};

/// For everything that one client does, in seconds.
const PATIENCE: &str = "100";
/// The clients' role: no superuser, but the owner of its databases.
const ROLE: &str = "app";

/// A sandbox of three nodes, one of which also serves alone.
pub struct Compared {
    pub sandbox: Sandbox,
    /// Databases through the proxy that clients have worked in.
    databases: std::cell::RefCell<Vec<String>>,
}

impl Compared {
    /// Starts the nodes and makes the clients' role.
    pub fn start() -> Compared {
        // No reads on main, where the kernel's choice of a shard, and chance, would decide what is tested.
        let config = "[[node]]\nid = 0\nbackend_weight = 0.0\n".to_owned();
        let sandbox = Sandbox::start(Options { config, ..Options::default() });
        sandbox.psql_ok(&["-q", "-c", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE}'")]);
        Compared { sandbox, databases: Default::default() }
    }

    /// The node that also serves alone, as the superuser.
    pub fn alone(&self) -> Target {
        self.sandbox.nodes()[2].clone()
    }

    /// Makes a database of this name on all nodes, and another that only the server alone has; URLs of the latter and
    /// of the former through the proxy.
    pub fn databases(&self, name: &str) -> (String, String) {
        let create = |database: &str| format!("CREATE DATABASE {database} OWNER {ROLE}");
        let direct = format!("{name}_alone");
        Client::connect(&self.alone(), "postgres").unwrap().rows(&create(&direct)).unwrap();
        self.sandbox.connect("postgres").rows(&create(name)).unwrap();
        self.databases.borrow_mut().push(name.to_owned());
        let as_role = |t: Target| Target { user: ROLE.into(), password: ROLE.into(), ..t };
        (as_role(self.alone()).url(&direct), as_role(self.sandbox.summary.proxy()).url(name))
    }

    /// Runs a client with either server and compares what it says.
    pub fn client(&self, name: &str, run: &mut dyn FnMut(&str) -> String) {
        let (direct, proxied) = self.databases(name);
        let started = std::time::Instant::now();
        let direct = run(&direct);
        let between = started.elapsed();
        let proxied = run(&proxied);
        println!("{name}: {between:.1?} with a server alone, {:.1?} through the proxy", started.elapsed() - between);
        self.assert_same(name, &direct, &proxied);
    }

    /// The same for a program that takes the URL as its last argument, and prints.
    pub fn program(&self, name: &str, make: &mut dyn FnMut() -> Command) {
        self.client(name, &mut |url| {
            let output = make().arg(url).output().unwrap();
            self.text(name, &output)
        });
    }

    /// What a program printed; it must have succeeded.
    pub fn text(&self, name: &str, output: &Output) -> String {
        let (seen, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name}: {complaint}\n{seen}\n{}", self.sandbox.log());
        seen.into_owned()
    }

    /// Fails at the first line that differs.
    pub fn assert_same(&self, name: &str, direct: &str, proxied: &str) {
        assert!(direct.lines().count() > 5, "{name} has hardly done anything: {direct}");
        for (direct, proxied) in direct.lines().zip(proxied.lines()) {
            assert_eq!(direct, proxied, "{name}: a server alone, and the proxy\n{}", self.sandbox.log());
        }
        assert_eq!(direct.lines().count(), proxied.lines().count(), "{name}");
    }

    /// The nodes hold the same, all of them are there, and nothing is left open.
    pub fn finish(self) {
        for database in self.databases.borrow().iter() {
            self.sandbox.assert_nodes_equal(database);
        }
        self.sandbox.assert_nothing_in_transaction();
        assert!(!self.sandbox.whole_log().contains("node is out"), "{}", self.sandbox.log());
    }
}

/// Where `make deps` puts what Debian does not have.
fn installed() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients")
}

/// A script of `tests/clients`.
fn script(interpreter: Option<PathBuf>, arguments: &[&str], name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg(PATIENCE).arg(interpreter.unwrap_or_else(|| "node".into())).args(arguments);
    command.arg(format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR")));
    command
}

/// In the virtual environment that `make deps` has made.
pub fn python(name: &str) -> Command {
    let python = installed().join("python/bin/python");
    assert!(python.exists(), "{} is missing: run make deps", python.display());
    let mut command = script(Some(python), &["-B"], name);
    command.env("PYTHONIOENCODING", "utf-8");
    command
}

/// With the packages that `make deps` has installed.
pub fn node(name: &str) -> Command {
    let modules = installed().join("node/node_modules");
    assert!(modules.join("pg").exists(), "{} lacks pg: run make deps", modules.display());
    let mut command = script(None, &[], name);
    command.env("NODE_PATH", modules);
    command
}
