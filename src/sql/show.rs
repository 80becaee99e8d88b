//! `SHOW` of what the proxy knows: Pgpool-II's `SHOW POOL_NODES`, and `SHOW pglockstep.nodes`.
//!
//! PostgreSQL fails such a statement when it is parsed, since it looks at once for the parameter of that name
//! (GetPGVariableResultDesc in guc.c). So in the extended protocol a server gets a stand-in, a SELECT of no rows with the
//! same columns; the proxy answers when it is executed.

use super::lexer::{Kind, Token, folded};

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shown {
    /// `SHOW POOL_NODES`, with Pgpool-II's columns.
    PoolNodes,
    /// `SHOW pglockstep.nodes`.
    Nodes,
}

impl Shown {
    /// Names of the columns. All are of type text.
    #[must_use]
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Shown::PoolNodes => &[
                "node_id",
                "hostname",
                "port",
                "status",
                "pg_status",
                "lb_weight",
                "role",
                "pg_role",
                "select_cnt",
                "load_balance_node",
                "replication_delay",
                "replication_state",
                "replication_sync_state",
                "last_status_change",
            ],
            Shown::Nodes => &[
                "node_id",
                "address",
                "status",
                "role",
                "epoch",
                "watermark",
                "answers",
                "select_cnt",
                "last_change",
                "reason",
            ],
        }
    }

    /// What a server may parse and describe in its place: as many columns of these names, no row, no parameter.
    #[must_use]
    pub fn stand_in(self) -> String {
        let columns: Vec<String> = self.columns().iter().map(|c| format!("''::pg_catalog.text AS {c}")).collect();
        format!("SELECT {} WHERE false", columns.join(", "))
    }
}

/// What the statement shows, if that is the proxy's affair. Names are as any identifier: `show Pool_Nodes`.
#[must_use]
pub(super) fn shown(sql: &str, tokens: &[Token]) -> Option<Shown> {
    let name = |at: usize| {
        let t = tokens.get(at)?;
        matches!(t.kind, Kind::Word | Kind::Quoted).then(|| folded(t, sql)).flatten()
    };
    let ends = |at: usize| tokens[at..].iter().all(|t| t.is_char(b';'));
    if !tokens.first()?.is(sql, "show") {
        return None;
    }
    match name(1)?.as_str() {
        "pool_nodes" if ends(2) => Some(Shown::PoolNodes),
        "pglockstep" if tokens.get(2)?.is_char(b'.') && name(3)? == "nodes" && ends(4) => Some(Shown::Nodes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::{Class, classify};
    use super::*;

    #[test]
    fn only_the_whole_statement_is_taken() {
        for (sql, shown) in [
            ("SHOW POOL_NODES", Shown::PoolNodes),
            ("show pool_nodes;", Shown::PoolNodes),
            ("/* x */ show \"pool_nodes\" ; -- y", Shown::PoolNodes),
            ("Show pglockstep.Nodes", Shown::Nodes),
        ] {
            assert_eq!(classify(sql, true), Class::ShowProxy(shown), "{sql}");
        }
        for sql in
            ["SHOW \"POOL_NODES\"", "SHOW pool_nodes x", "SHOW pglockstep.snapshot", "SHOW all", "SHOW pglockstep"]
        {
            assert_eq!(classify(sql, true), Class::Show, "{sql}");
        }
        assert_eq!(Shown::PoolNodes.columns().len(), 14);
        assert!(Shown::Nodes.stand_in().starts_with("SELECT ''::pg_catalog.text AS node_id, "));
    }
}
