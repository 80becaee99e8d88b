//! Isolation levels: which one a transaction runs at, what SHOW says about it, and that it is the truth.

use super::cluster::{Cluster, Mode, PROTOCOLS, Protocol, Session};

const SHOW: &str = "SHOW transaction_isolation";
const RR: &str = "repeatable read";
const RC: &str = "read committed";

/// The level of a transaction that was begun with these words; that its statements show what this level shows; and that
/// SHOW agrees with current_setting().
async fn level(cluster: &Cluster, session: &Session, begin: &str) -> String {
    let other = cluster.session(Protocol::Simple).await;
    let read = "SELECT sum(v)::text FROM register";
    session.all(&[begin]).await;
    let before = session.value(read).await.unwrap();
    other.all(&["UPDATE register SET v = v + 1"]).await;
    let after = session.value(read).await.unwrap();
    let shown = session.value(SHOW).await.unwrap();
    // That function would need main, where a READ ONLY transaction may not be.
    if !begin.contains("READ ONLY") {
        let setting = session.value("SELECT current_setting('transaction_isolation')").await.unwrap();
        assert_eq!(shown, setting, "{begin}");
    }
    session.all(&["COMMIT"]).await;
    let sees_others = shown == RC || shown == "read uncommitted";
    assert_eq!(before != after, sees_others, "{begin}: {shown}, and reads {before}, then {after}");
    shown
}

/// The level of a single statement, of a block, and of a READ ONLY block, which must be the same.
async fn default_level(cluster: &Cluster, session: &Session) -> String {
    let single = session.value(SHOW).await.unwrap();
    for begin in ["BEGIN", "START TRANSACTION READ WRITE", "BEGIN READ ONLY"] {
        assert_eq!(level(cluster, session, begin).await, single, "{begin}");
    }
    single
}

/// Where nothing is stated.
pub async fn nothing_stated(cluster: &Cluster, mode: Mode) {
    let expected = if mode == Mode::NativeReplication { RC } else { RR };
    for protocol in PROTOCOLS {
        let session = cluster.session(protocol).await;
        assert_eq!(default_level(cluster, &session).await, expected, "{protocol:?}");
    }
    // Two queries in one string are one transaction.
    let session = cluster.session(Protocol::Simple).await;
    let rows = session.rows(&format!("SELECT 1; {SHOW}")).await.unwrap();
    assert_eq!(rows, [["1"], [expected]]);
}

/// What a transaction says of itself counts.
pub async fn stated(cluster: &Cluster, protocol: Protocol) {
    let session = cluster.session(protocol).await;
    for wanted in ["read uncommitted", RC, RR, "serializable"] {
        for begin in [
            format!("BEGIN ISOLATION LEVEL {wanted}"),
            format!("START TRANSACTION ISOLATION LEVEL {wanted}, READ WRITE"),
            format!("BEGIN TRANSACTION READ ONLY, ISOLATION LEVEL {wanted}"),
        ] {
            assert_eq!(level(cluster, &session, &begin).await, wanted, "{begin}, {protocol:?}");
        }
        session.all(&["BEGIN", &format!("SET TRANSACTION ISOLATION LEVEL {wanted}")]).await;
        assert_eq!(session.value(SHOW).await.unwrap(), wanted);
        session.all(&["COMMIT", &format!("BEGIN ISOLATION LEVEL {wanted}"), "COMMIT AND CHAIN"]).await;
        assert_eq!(session.value(SHOW).await.unwrap(), wanted, "after AND CHAIN");
        let set = format!("SET TRANSACTION ISOLATION LEVEL {wanted}");
        session.all(&["COMMIT", "BEGIN", &set, "ROLLBACK AND CHAIN"]).await;
        assert_eq!(session.value(SHOW).await.unwrap(), wanted, "after SET TRANSACTION and AND CHAIN");
        session.all(&["ROLLBACK"]).await;
        assert_eq!(session.value(SHOW).await.unwrap(), RR, "after {wanted}");
    }
}

/// What a session says of its transactions counts until it is taken back. Not for prepared statements, which DISCARD
/// ALL takes away.
pub async fn set_by_the_session(cluster: &Cluster, protocol: Protocol) {
    let session = cluster.session(protocol).await;
    let ways = [
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET default_transaction_isolation = 'read committed'",
        "SET SESSION default_transaction_isolation TO 'read committed'",
    ];
    let back = [
        "RESET default_transaction_isolation",
        "SET default_transaction_isolation TO DEFAULT",
        "DISCARD ALL",
        "RESET ALL",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    ];
    for (i, back) in back.into_iter().enumerate() {
        let way = ways[i % ways.len()];
        session.all(&[way]).await;
        assert_eq!(default_level(cluster, &session).await, RC, "{way}, {protocol:?}");
        session.all(&[back]).await;
        assert_eq!(default_level(cluster, &session).await, RR, "{back}, {protocol:?}");
    }
    let session = cluster.session(protocol).await;
    session.all(&["BEGIN", "SET default_transaction_isolation = 'serializable'", "ROLLBACK"]).await;
    assert_eq!(default_level(cluster, &session).await, RR, "a setting that was rolled back");
    session.all(&["BEGIN", "SET default_transaction_isolation = 'serializable'", "COMMIT"]).await;
    assert_eq!(default_level(cluster, &session).await, "serializable", "a setting that was committed");
}

/// What the administrator, or the client's start-up packet, says of a session's transactions counts, for this session
/// and not for the next one that gets its backends.
pub async fn set_from_outside(cluster: &Cluster, protocol: Protocol) {
    let admin = cluster.session(Protocol::Simple).await;
    let password = &cluster.sandbox.summary.password;
    let fresh = admin.value("SELECT count(*)::text FROM pg_roles WHERE rolname = 'committed'").await.unwrap() == "0";
    if fresh {
        admin
            .all(&[
                &format!("CREATE ROLE plain SUPERUSER LOGIN PASSWORD '{password}'"),
                &format!("CREATE ROLE committed SUPERUSER LOGIN PASSWORD '{password}'"),
                "ALTER ROLE committed SET default_transaction_isolation = 'read committed'",
                "CREATE DATABASE strict",
                "ALTER DATABASE strict SET default_transaction_isolation = 'serializable'",
            ])
            .await;
    }
    let target = cluster.sandbox.summary.proxy();
    let url = |user: &str, database: &str, options: &str| {
        let (host, port, password) = (&target.host, target.port, &target.password);
        format!("postgresql://{user}:{password}@{host}:{port}/{database}{options}")
    };
    let options = "?options=-c%20default_transaction_isolation%3D";
    for (url, wanted) in [
        (url("plain", "postgres", ""), RR),
        (url("committed", "postgres", ""), RC),
        (url("plain", "postgres", &format!("{options}serializable")), "serializable"),
        (url("plain", "postgres", &format!("{options}read%5C%20committed")), RC),
        (url("committed", "postgres", &format!("{options}repeatable%5C%20read")), RR),
        (url("plain", "postgres", ""), RR),
    ] {
        let session = Session::connect(&url, protocol).await;
        assert_eq!(default_level(cluster, &session).await, wanted, "{url}");
        // Back to what the session began with, and not to what the mode says.
        session.all(&["SET default_transaction_isolation = 'read uncommitted'"]).await;
        session.all(&["RESET default_transaction_isolation"]).await;
        assert_eq!(default_level(cluster, &session).await, wanted, "{url} after RESET");
    }
    let strict = Session::connect(&url("plain", "strict", ""), protocol).await;
    assert_eq!(strict.value(SHOW).await.unwrap(), "serializable");
    strict.all(&["BEGIN"]).await;
    assert_eq!(strict.value(SHOW).await.unwrap(), "serializable");
    strict.all(&["COMMIT"]).await;
}

/// Backends outlive their clients; what a client has said about levels does not.
pub async fn forgotten_with_the_client(cluster: &Cluster, protocol: Protocol) {
    for _ in 0..3 {
        let session = cluster.session(protocol).await;
        assert_eq!(default_level(cluster, &session).await, RR, "a new client, {protocol:?}");
        session.all(&["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"]).await;
        assert_eq!(default_level(cluster, &session).await, "serializable");
        // It leaves in the middle of a transaction, too.
        session.all(&["BEGIN ISOLATION LEVEL READ COMMITTED", "UPDATE register SET v = v + 1"]).await;
        drop(session);
    }
    let session = cluster.session(protocol).await;
    assert_eq!(default_level(cluster, &session).await, RR);
}
