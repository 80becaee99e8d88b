//! Clients of many kinds, each at its everyday work, once with a plain PostgreSQL server and once with the proxy in front
//! of three nodes: what it prints must be the same, word for word, and afterwards the nodes hold the same.
//!
//! The plain server is node 2, asked directly, with a database of its own. So OIDs differ between the nodes, as they do
//! in any cluster after a while: nothing may rest on them.
//!
//! What differs by design, and is left out by the clients' scripts with a word: the pid that a client is given for
//! cancelling (the proxy's own; `pg_backend_pid()` is main's and works), and the proxy's statements among
//! `pg_prepared_statements`, whose names begin with `_pgls`. What fails in the scripts makes its keys itself: a failed
//! statement moves main's sequences only (README, "what is not protected yet").

mod support;

mod clients {
    pub mod compare;
    pub mod dump;
    pub mod psql;
    pub mod sqlx;
    pub mod tokio_postgres;
}

use clients::compare::{Compared, node, python};
use clients::{dump, psql, sqlx, tokio_postgres};

#[test]
fn python_clients_see_what_they_see_without_the_proxy() {
    let compared = Compared::start();
    compared.program("psycopg", &mut || python("psycopg_async.py"));
    compared.program("asyncpg", &mut || python("asyncpg_app.py"));
    compared.program("sqlalchemy", &mut || python("sqlalchemy_app.py"));
    compared.finish();
}

#[test]
fn node_postgres_and_rust_clients_see_what_they_see_without_the_proxy() {
    let compared = Compared::start();
    compared.program("node_pg", &mut || node("node_pg.js"));
    compared.client("tokio_postgres", &mut tokio_postgres::run);
    compared.client("sqlx", &mut sqlx::run);
    compared.finish();
}

#[test]
fn psql_and_pgbench_see_what_they_see_without_the_proxy() {
    let compared = Compared::start();
    psql::everyday(&compared);
    psql::large_objects(&compared);
    psql::pipelines_of_pgbench(&compared);
    compared.finish();
}

#[test]
fn a_dump_through_the_proxy_is_the_servers_and_is_restored_on_every_node() {
    let compared = Compared::start();
    dump::dump_and_restore(&compared);
    compared.finish();
}
