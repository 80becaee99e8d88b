//! `pglockstep setup`: prepares the nodes, once, before the proxy runs on them.
//!
//! Makes the roles that the proxy logs in as, with one SCRAM verifier on all nodes, gives each node an id of its own,
//! and says which server settings must change. Every statement is shown before it runs. What is right already is left
//! alone, so that it can be run again at any time.
//!
//! Touches the nodes by SQL alone; never their files.

use crate::sandbox::client::describe;
use crate::wire::literal;
use std::error::Error;
use std::io::Write;
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};

mod settings;
mod verifier;

use settings::Needs;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long a connection attempt to a node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's major versions that pglockstep works with.
const MAJOR_VERSIONS: std::ops::RangeInclusive<u32> = 12..=18;
/// Key of the advisory lock that keeps two runs apart: the letters "pglockst".
const LOCK_KEY: i64 = i64::from_be_bytes(*b"pglockst");
/// The setting that holds a node's id.
pub const NODE_ID: &str = "pglockstep.node_id";

/// One node, as the configuration names it.
#[derive(Clone, Debug)]
pub struct SetupNode {
    pub id: u8,
    pub host: String,
    pub port: u16,
}

/// A role that the proxy logs in as. An empty password leaves the role's password as it is.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// What `setup` is to do. `main` fills it from the configuration and the command line.
#[derive(Clone, Debug)]
pub struct SetupArgs {
    pub nodes: Vec<SetupNode>,
    /// An existing superuser of all nodes, used by `setup` alone.
    pub superuser: String,
    pub superuser_password: String,
    /// The database to log in to (`auth_database`); it must exist on every node.
    pub database: String,
    /// `apply_user`: becomes a superuser.
    pub apply: Login,
    /// `auth_user`, if it is another one: may read pg_authid in `database`.
    pub auth: Option<Login>,
    /// `health_check_user`, if it is another one: may log in, and see when the server's processes were started.
    pub health_check: Option<Login>,
    /// How many clients the proxy takes (`num_init_children`).
    pub clients: u32,
    /// Show what would be done, and do nothing.
    pub dry_run: bool,
}

/// What a role must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Superuser,
    ReadPgAuthid,
    Monitor,
}

/// Runs `setup`, with its words on standard output.
pub fn run(args: SetupArgs) -> Result<()> {
    run_to(args, &mut std::io::stdout())
}

/// Runs `setup`, with its words on `out`.
pub fn run_to(args: SetupArgs, out: &mut dyn Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(setup(&args, out))
}

/// A node with an open connection.
struct Open<'a> {
    node: &'a SetupNode,
    client: Client,
}

async fn setup(args: &SetupArgs, out: &mut dyn Write) -> Result<()> {
    let mut nodes = Vec::with_capacity(args.nodes.len());
    for node in &args.nodes {
        nodes.push(open(args, node).await.map_err(|e| format!("node {} ({}:{}): {e}", node.id, node.host, node.port))?);
    }
    check_versions(&nodes).await?;
    let mut work = Work { dry_run: args.dry_run, statements: 0, out };
    let optional = |login: &Option<Login>, right| login.clone().map(|login| (login, right));
    let roles = [
        Some((args.apply.clone(), Right::Superuser)),
        optional(&args.auth, Right::ReadPgAuthid),
        optional(&args.health_check, Right::Monitor),
    ];
    for (login, right) in roles.into_iter().flatten() {
        let verifier = common_verifier(&nodes, &login).await?;
        for node in &nodes {
            role(&mut work, node, &login.user, verifier.as_deref(), right).await?;
        }
    }
    equal_verifiers(&mut work, &nodes).await?;
    for node in &nodes {
        node_id(&mut work, node).await?;
    }
    let statements = work.statements;
    match (statements, args.dry_run) {
        (0, _) => writeln!(out, "roles and node ids are as they should be")?,
        (n, true) => writeln!(out, "{n} statements shown, none of them run (--dry-run)")?,
        (n, false) => writeln!(out, "{n} statements run")?,
    }
    let needs = Needs { clients: args.clients };
    let mut report = settings::Report::default();
    for node in &nodes {
        report.add(node.node.id, settings::read(&node.client).await.map_err(|e| on(node, &e))?);
    }
    writeln!(out, "{}", report.to_text(&needs))?;
    Ok(())
}

async fn open<'a>(args: &SetupArgs, node: &'a SetupNode) -> Result<Open<'a>> {
    let mut config = Config::new();
    config.host(&node.host).port(node.port).user(&args.superuser).dbname(&args.database);
    config.application_name("pglockstep setup").connect_timeout(CONNECT_TIMEOUT);
    if !args.superuser_password.is_empty() {
        config.password(&args.superuser_password);
    }
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls)).await;
    let (client, connection) =
        attempt.map_err(|_| format!("no answer within {CONNECT_TIMEOUT:?}"))?.map_err(|e| advise(&e, args))?;
    tokio::spawn(connection);
    let row = client
        .query_one(
            "SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery(), \
                    pg_try_advisory_lock($1)",
            &[&LOCK_KEY],
        )
        .await
        .map_err(|e| describe(&e))?;
    if !row.get::<_, bool>(0) {
        return Err(format!("{} is not a superuser there", args.superuser).into());
    }
    if row.get(1) {
        return Err("the server is a standby (pg_is_in_recovery); nodes must be independent servers".into());
    }
    if !row.get::<_, bool>(2) {
        return Err("another `pglockstep setup` works there, or two nodes of the configuration are one server".into());
    }
    Ok(Open { node, client })
}

/// Why the superuser cannot log in, and what would help.
fn advise(error: &tokio_postgres::Error, args: &SetupArgs) -> String {
    let text = describe(error);
    let refused = error.code().is_some_and(|code| code.code().starts_with("28"));
    if args.superuser_password.is_empty() && (refused || text.contains("password missing")) {
        return format!(
            "{text}: the server asks for the password of \"{}\"; give it in the environment variable that \
             --superuser-password-env names (PGPASSWORD unless told otherwise)",
            args.superuser
        );
    }
    if refused {
        return format!("{text}; --superuser and --superuser-password-env name the role and its password");
    }
    text
}

async fn check_versions(nodes: &[Open<'_>]) -> Result<()> {
    let mut versions = Vec::new();
    for node in nodes {
        let number = value(node, "SELECT current_setting('server_version_num')").await?;
        versions.push((node.node.id, number.parse::<u32>()? / 10_000));
    }
    let list = versions.iter().map(|(id, major)| format!("node {id}: {major}")).collect::<Vec<_>>().join(", ");
    if versions.iter().any(|(_, major)| !MAJOR_VERSIONS.contains(major)) {
        let (oldest, newest) = (MAJOR_VERSIONS.start(), MAJOR_VERSIONS.end());
        return Err(format!("PostgreSQL {oldest} to {newest} is supported; the nodes have {list}").into());
    }
    if versions.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        return Err(format!("all nodes must have one major version of PostgreSQL; they have {list}").into());
    }
    Ok(())
}

/// Shows statements, and runs them unless this is a dry run.
struct Work<'a> {
    dry_run: bool,
    statements: usize,
    out: &'a mut dyn Write,
}

impl Work<'_> {
    /// `shown` is `sql` without its secrets.
    async fn run(&mut self, node: &Open<'_>, sql: &str, shown: &str) -> Result<()> {
        writeln!(self.out, "node {}: {shown};", node.node.id)?;
        self.statements += 1;
        if !self.dry_run {
            node.client.batch_execute(sql).await.map_err(|e| on(node, &e))?;
        }
        Ok(())
    }
}

/// The verifier for `login` on all nodes: one that a node has and that fits the password, else a new one. It is made
/// here and not by the servers, so that all have the same: an applier's SCRAM keys then fit every node, and the password
/// itself never travels. `None` for an empty password.
async fn common_verifier(nodes: &[Open<'_>], login: &Login) -> Result<Option<String>> {
    if login.password.is_empty() {
        return Ok(None);
    }
    for node in nodes {
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let row = node.client.query_opt(sql, &[&login.user]).await.map_err(|e| on(node, &e))?;
        let stored = row.and_then(|row| row.get::<_, Option<String>>(0));
        if let Some(stored) = stored.filter(|stored| verifier::fits(stored, &login.password)) {
            return Ok(Some(stored));
        }
    }
    verifier::make(&login.password).map(Some)
}

/// Gives every other node's roles the verifiers that the first node has. Roles that were made on each server by itself
/// have a salt of their own there, and the keys that a client's proof reveals would open main alone.
async fn equal_verifiers(work: &mut Work<'_>, nodes: &[Open<'_>]) -> Result<()> {
    let Some((first, others)) = nodes.split_first() else { return Ok(()) };
    let sql = "SELECT rolname::text, rolpassword FROM pg_authid WHERE rolcanlogin AND rolpassword LIKE 'SCRAM-%'";
    let wanted = first.client.query(sql, &[]).await.map_err(|e| on(first, &e))?;
    for node in others {
        for row in &wanted {
            let (user, verifier): (String, String) = (row.get(0), row.get(1));
            let sql = "SELECT 1 FROM pg_authid WHERE rolname = $1 AND rolpassword IS DISTINCT FROM $2";
            let differs = node.client.query_opt(sql, &[&user, &verifier]).await.map_err(|e| on(node, &e))?.is_some();
            if differs {
                let head = format!("ALTER ROLE {} PASSWORD", identifier(&user));
                let shown = format!("{head} 'SCRAM-SHA-256$...' /* as on node {} */", first.node.id);
                work.run(node, &format!("{head} {}", literal(&verifier)), &shown).await?;
            }
        }
    }
    Ok(())
}

async fn role(work: &mut Work<'_>, node: &Open<'_>, user: &str, verifier: Option<&str>, right: Right) -> Result<()> {
    let sql = "SELECT rolsuper, rolcanlogin, rolpassword FROM pg_authid WHERE rolname = $1";
    let row = node.client.query_opt(sql, &[&user]).await.map_err(|e| on(node, &e))?;
    let (exists, is_super, can_login, password) = match &row {
        Some(row) => (true, row.get(0), row.get(1), row.get::<_, Option<String>>(2)),
        None => (false, false, false, None),
    };
    let mut options = Vec::new();
    if right == Right::Superuser && !is_super {
        options.push("SUPERUSER");
    }
    if !can_login {
        options.push("LOGIN");
    }
    let new_password = verifier.filter(|verifier| password.as_deref() != Some(*verifier));
    if !options.is_empty() || new_password.is_some() {
        let verb = if exists { "ALTER" } else { "CREATE" };
        let head = format!("{verb} ROLE {} {}", identifier(user), options.join(" ")).trim_end().to_owned();
        let with = |secret: &str| new_password.map_or(head.clone(), |_| format!("{head} PASSWORD {}", literal(secret)));
        work.run(node, &with(new_password.unwrap_or("")), &with("SCRAM-SHA-256$...")).await?;
    }
    if right == Right::ReadPgAuthid {
        let sql = format!(
            "SELECT coalesce((SELECT has_table_privilege(oid, 'pg_catalog.pg_authid', 'SELECT') \
                                FROM pg_roles WHERE rolname = {}), false)::text",
            literal(user)
        );
        if value(node, &sql).await? != "true" {
            let grant = format!("GRANT SELECT ON pg_catalog.pg_authid TO {}", identifier(user));
            work.run(node, &grant, &grant).await?;
        }
    }
    if right == Right::Monitor {
        // A crash restart is seen by the start time of the checkpointer, which others may not read.
        let name = literal(user);
        let sql = format!(
            "SELECT coalesce((SELECT pg_has_role(oid, 'pg_monitor', 'USAGE') FROM pg_roles WHERE rolname = {name}), false)::text"
        );
        if value(node, &sql).await? != "true" {
            let grant = format!("GRANT pg_monitor TO {}", identifier(user));
            work.run(node, &grant, &grant).await?;
        }
    }
    Ok(())
}

/// Gives the node its id as a server setting. The system identifier cannot serve: a node that came from a base backup
/// has its source's. The setting is in postgresql.auto.conf, which a base backup copies too: whoever recovers a node
/// must run this again there, and a wrong id shows that it has not been done. A catalogue entry (ALTER DATABASE, ALTER
/// ROLE) would be worse, as a running node could not be given its id before its databases are open for writing.
///
/// Up to PostgreSQL 16, ALTER SYSTEM takes an unknown setting only if the session has it as a placeholder: hence SET.
async fn node_id(work: &mut Work<'_>, node: &Open<'_>) -> Result<()> {
    let wanted = node.node.id.to_string();
    let current = value(node, &format!("SELECT coalesce(current_setting('{NODE_ID}', true), '')")).await?;
    if current == wanted {
        return Ok(());
    }
    for sql in [
        format!("SET {NODE_ID} = '{wanted}'"),
        format!("ALTER SYSTEM SET {NODE_ID} = '{wanted}'"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        work.run(node, &sql, &sql).await?;
    }
    Ok(())
}

async fn value(node: &Open<'_>, sql: &str) -> Result<String> {
    let row = node.client.query_one(sql, &[]).await.map_err(|e| on(node, &e))?;
    Ok(row.try_get(0)?)
}

fn on(node: &Open<'_>, error: &tokio_postgres::Error) -> Box<dyn Error + Send + Sync> {
    format!("node {} ({}:{}): {}", node.node.id, node.node.host, node.node.port, describe(error)).into()
}

/// `name` as a quoted SQL identifier.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted_so_that_they_cannot_end_early() {
        assert_eq!(identifier("we\"ird"), "\"we\"\"ird\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("back\\'slash"), "E'back\\\\''slash'");
    }
}
