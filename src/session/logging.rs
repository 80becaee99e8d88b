//! log_connections and log_disconnections, worded as PostgreSQL words them.

use std::fmt;

use super::Session;
use super::io::Cx;
use crate::shard::driver::Peer;

/// A client's address: `host=127.0.0.1 port=5555`, or `host=[local]` on a Unix socket.
pub(super) struct Host(pub(super) Peer);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Tcp(a) => write!(f, "host={} port={}", a.ip(), a.port()),
            Peer::Unix => f.write_str("host=[local]"),
        }
    }
}

/// A name that a client chose: control characters are escaped, so that it cannot forge log lines.
pub(super) struct Name<'a>(pub(super) &'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}

impl Session {
    /// The client is let in.
    pub(super) fn log_start(&self, cx: &Cx<'_>) {
        if !cx.env.config.logging.log_connections {
            return;
        }
        let application = self.startup.iter().find(|(n, v)| n == "application_name" && !v.is_empty());
        let application = application.map_or_else(String::new, |(_, v)| format!(" application_name={}", Name(v)));
        tracing::info!(
            "connection authorized: user={} database={}{application}",
            Name(&self.user),
            Name(&self.database)
        );
    }

    /// The session ends. As in PostgreSQL, only those count that were let in.
    pub(super) fn log_end(&self, cx: &Cx<'_>) {
        if !self.admitted || !cx.env.config.logging.log_disconnections {
            return;
        }
        let ms = cx.io.now().since(self.accepted).as_millis();
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        tracing::info!(
            "disconnection: session time: {h}:{m:02}:{s:02}.{:03} user={} database={} {}",
            ms % 1000,
            Name(&self.user),
            Name(&self.database),
            Host(self.peer)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_begin_a_log_line_of_its_own() {
        assert_eq!(Name("me\n2026 ERROR \u{1b}[31mhacked").to_string(), "me\\n2026 ERROR \\u{1b}[31mhacked");
        assert_eq!(Name("Größe").to_string(), "Größe");
    }

    #[test]
    fn addresses_are_written_as_postgresql_writes_them() {
        assert_eq!(Host(Peer::Tcp("[::1]:70".parse().unwrap())).to_string(), "host=::1 port=70");
        assert_eq!(Host(Peer::Unix).to_string(), "host=[local]");
    }
}
