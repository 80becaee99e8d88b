//! Clients that run statements, alone and eight at once.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::{Client, NoTls};

use super::Sandbox;

/// A connection through the proxy, as the superuser.
pub async fn connect(sandbox: &Sandbox) -> Client {
    let (client, connection) = tokio_postgres::connect(&sandbox.url("postgres"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Conflicts are the clients' own affair in blocks; nothing else may go wrong.
pub fn is_conflict(e: &tokio_postgres::Error) -> bool {
    e.code().is_some_and(|c| matches!(c.code(), "40001" | "40P01"))
}

/// A statement with a number in place of its parameter.
pub fn with_number(statement: &str, n: u64) -> String {
    statement.replace("$1::int", &n.to_string()).replace("$1", &n.to_string())
}

/// Eight clients at once run 40 texts each: `text(client, i)`. Their errors must be `expected`; something must be done.
pub fn eight_clients(
    sandbox: &Sandbox,
    text: impl Fn(usize, usize) -> String + Sync,
    expected: impl Fn(&tokio_postgres::Error) -> bool + Sync,
) {
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..8usize {
            let (text, expected, done) = (&text, &expected, &done);
            scope.spawn(move || {
                run(async {
                    let c = connect(sandbox).await;
                    for i in 0..40usize {
                        let text = text(client, i);
                        match c.batch_execute(&text).await {
                            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                            Err(e) if expected(&e) => drop(c.batch_execute("ROLLBACK").await),
                            Err(e) => panic!("{text}: {e:?}"),
                        }
                    }
                });
            });
        }
    });
    assert!(done.load(Ordering::Relaxed) > 100, "hardly anything was done");
}
