//! Read proofs against a real server: its catalogue, through the queries that the control plane runs.

mod proof_cases;

use pglockstep::sandbox::SandboxArgs;
use pglockstep::sandbox::client::Client;
use pglockstep::sandbox::process::{Interrupt, free_ports};
use pglockstep::sandbox::running::Sandbox;
use pglockstep::sql::class::classify;
use pglockstep::sql::proof::{Catalogue, Effect, effect};
use proof_cases::{MAIN_ONLY, READS, STATEMENTS, TABLES, UNKNOWN, VALUES};

/// A server with the database that the cases are about; dropping it stops it.
struct Database {
    client: Client,
    sandbox: Sandbox,
}

impl Database {
    fn start() -> Database {
        let ports = free_ports(2).unwrap();
        let args = SandboxArgs { nodes: Some(1), ..SandboxArgs::on_port(ports[0], ports[1]) };
        let sandbox = Sandbox::start_servers(&args, &Interrupt::default()).unwrap();
        let client = Client::connect(&sandbox.summary().direct()[0], "postgres").unwrap();
        if let Err(e) = client.rows(include_str!("proof_cases/schema.sql")) {
            panic!("{}", e.to_string().lines().next().unwrap_or_default());
        }
        Database { client, sandbox }
    }

    /// What a read-only transaction and an ordinary one have against a statement that is proved.
    fn objection(&self, sql: &str) -> Option<String> {
        let sql = sql.replace("$1", "1");
        self.client.rows("BEGIN READ ONLY").unwrap();
        let refused = self.client.rows(&sql).err().map(|e| e.to_string()).filter(|e| e.contains("25006"));
        self.client.rows("COMMIT; CLOSE ALL; BEGIN").unwrap();
        let failed = self.client.rows(&sql).is_err();
        let id = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
        let wrote = !failed && self.client.value(id).unwrap() == "t";
        self.client.rows("COMMIT; CLOSE ALL").unwrap();
        refused.or(wrote.then(|| "it has a transaction id".to_owned()))
    }

    /// Rows and sequences, as far as the cases could change them.
    fn state(&self) -> Vec<Vec<Option<String>>> {
        let sql = "SELECT 'accounts', count(*), sum(hashtext(t::text)) FROM accounts t UNION ALL \
             SELECT 'log', count(*), 0 FROM log UNION ALL \
             SELECT 'numbers', last_value, is_called::int FROM numbers UNION ALL \
             SELECT 'objects', count(*), 0 FROM pg_class UNION ALL \
             SELECT 'large', count(*), 0 FROM pg_largeobject_metadata";
        self.client.rows(sql).unwrap()
    }
}

fn load(client: &Client) -> Catalogue {
    let rows: Vec<_> = Catalogue::QUERIES.iter().map(|sql| client.rows(sql).unwrap()).collect();
    let read = ["Listed_As_Read".to_owned(), "other.listed_by_schema".to_owned()];
    Catalogue::from_rows(1, &rows, &read, &["listed_as_write".to_owned()]).unwrap()
}

fn judge(sql: &str, catalogue: &Catalogue) -> Effect {
    effect(sql, true, &classify(sql, true), catalogue)
}

/// COPY leaves the client's simple protocol; its queries stand in the lists by themselves.
fn is_runnable(sql: &str) -> bool {
    !sql.starts_with("COPY")
}

#[test]
fn verdicts_are_right_and_what_is_proved_changes_nothing() {
    let database = Database::start();
    let catalogue = load(&database.client);
    let groups = [(Effect::Read, READS), (Effect::MainOnly, MAIN_ONLY), (Effect::Unknown, UNKNOWN)];
    let wrong: Vec<String> = groups
        .iter()
        .flat_map(|(expected, statements)| statements.iter().map(move |sql| (*expected, *sql)))
        .map(|(expected, sql)| (expected, judge(sql, &catalogue), sql))
        .filter(|(expected, found, _)| expected != found)
        .map(|(expected, found, sql)| format!("{found:?}, not {expected:?}: {sql}"))
        .collect();
    assert!(wrong.is_empty(), "{} wrong verdicts:\n{}", wrong.len(), wrong.join("\n"));

    let before = database.state();
    for sql in READS.iter().filter(|sql| is_runnable(sql)) {
        assert_eq!(database.objection(sql), None, "{sql}");
    }
    for sql in READS.iter().chain(MAIN_ONLY).filter(|sql| is_runnable(sql)) {
        // Every case is a statement that PostgreSQL takes; a foreign table without a handler is the exception.
        let failed = database.client.rows(&format!("BEGIN; {}; COMMIT; CLOSE ALL", sql.replace("$1", "1")));
        let complaint = failed.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(complaint.is_empty() || complaint.contains("foreign-data wrapper"), "{complaint}");
        database.client.rows("ROLLBACK").unwrap();
    }
    assert_eq!(database.state(), before);
    // The checks themselves: they see what an unproved statement does.
    assert!(database.objection("SELECT noted_total(id) FROM accounts").unwrap().contains("25006"));
    assert_ne!(database.state(), before);

    random_statements_that_are_proved_are_reads(&database, &catalogue);
    a_hostile_search_path_changes_neither_the_queries_nor_their_answers(&database);
    no_built_in_operator_is_volatile(&database);
}

/// Statements put together from pieces, most of them harmless: what is judged a read must be one.
fn random_statements_that_are_proved_are_reads(database: &Database, catalogue: &Catalogue) {
    let mut random = Random(20);
    let (mut reads, before) = (0, database.state());
    for _ in 0..1500 {
        let sql = random.statement();
        if judge(&sql, catalogue) == Effect::Read {
            reads += 1;
            assert_eq!(database.objection(&sql), None, "{sql}");
        }
    }
    assert_eq!(database.state(), before);
    assert!((150..1350).contains(&reads), "{reads} of 1500 are reads: the pieces test nothing");
}

/// The owner of a database may set its search_path, and the queries run as a superuser.
fn a_hostile_search_path_changes_neither_the_queries_nor_their_answers(database: &Database) {
    let sql = "CREATE SCHEMA hostile; \
        CREATE FUNCTION hostile.fail(a oid, b oid) RETURNS bool LANGUAGE plpgsql \
          AS 'BEGIN RAISE EXCEPTION ''hijacked''; END'; \
        CREATE OPERATOR hostile.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hostile.fail); \
        CREATE OPERATOR hostile.>= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hostile.fail); \
        CREATE FUNCTION hostile.concat_ws(a text, VARIADIC b oid[]) RETURNS text LANGUAGE plpgsql \
          AS 'BEGIN RAISE EXCEPTION ''hijacked''; END'; \
        CREATE TABLE hostile.pg_class (oid oid); CREATE DOMAIN hostile.oid AS int; \
        ALTER DATABASE postgres SET search_path = hostile, pg_catalog";
    database.client.rows(sql).unwrap();
    let client = Client::connect(&database.sandbox.summary().direct()[0], "postgres").unwrap();
    assert!(client.rows("SELECT 1::pg_catalog.oid = 2::pg_catalog.oid").unwrap_err().to_string().contains("hijacked"));
    let catalogue = load(&client);
    // Its `=` is volatile, and may stand behind any IN or JOIN: nothing is proved any more.
    assert_eq!(judge("SELECT 1", &catalogue), Effect::Unknown);
    client.rows("DROP OPERATOR hostile.= (pg_catalog.oid, pg_catalog.oid)").unwrap();
    assert_eq!(judge("SELECT 1", &load(&client)), Effect::Unknown);
    client.rows("DROP OPERATOR hostile.>= (pg_catalog.oid, pg_catalog.oid)").unwrap();
    assert_eq!(judge("SELECT 1", &load(&client)), Effect::Read);
    client.rows("ALTER DATABASE postgres RESET search_path").unwrap();
}

/// The catalogue takes all built-in operators for reads without looking.
fn no_built_in_operator_is_volatile(database: &Database) {
    let sql = "SELECT o.oprname, p.proname FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode \
               WHERE o.oid < 16384 AND p.provolatile = 'v'";
    assert_eq!(database.client.rows(sql).unwrap(), Vec::<Vec<Option<String>>>::new());
}

/// A small generator of statements; the same ones in every run.
struct Random(u64);

impl Random {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[usize::try_from(self.0 >> 33).unwrap() % from.len()]
    }

    fn value(&mut self) -> String {
        let value = self.pick(VALUES);
        if value.contains('@') { value.replace('@', self.pick(VALUES)) } else { value.to_owned() }
    }

    fn statement(&mut self) -> String {
        let (a, b, c) = (self.value(), self.value(), self.value());
        let table = self.pick(TABLES);
        self.pick(STATEMENTS).replace("{a}", &a).replace("{b}", &b).replace("{c}", &c).replace("{t}", table)
    }
}
