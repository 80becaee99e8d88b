//! A case as SQL: what is set up, and what each client sends. As text it is what a person plays, and what is kept.
//!
//! Lines that begin with `--- ` say what the lines behind them are; to psql they are comments.

use std::fmt::Write as _;

/// A case.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Script {
    /// The proxy's configuration: `backend_clustering_mode`, and `images`.
    pub world: Setting,
    /// Statements of a superuser, through the proxy, one after the other. All must succeed.
    pub setup: Vec<String>,
    /// Clients that run at the same time.
    pub clients: Vec<Client>,
}

/// How the proxy is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Setting {
    /// `snapshot_isolation`, not `native_replication`.
    pub snapshot_isolation: bool,
    pub images: bool,
}

impl Setting {
    pub fn mode(self) -> &'static str {
        if self.snapshot_isolation { "snapshot_isolation" } else { "native_replication" }
    }
}

/// One client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Client {
    /// Not the superuser.
    pub plain_role: bool,
    pub steps: Vec<Step>,
}

/// What a client sends and waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A simple query.
    Simple(String),
    /// Parse, Describe, Bind, Execute with these values, in binary where that is known.
    Extended { sql: String, values: Vec<String>, binary: bool },
    /// COPY FROM STDIN.
    Copy { sql: String, data: String },
}

impl Step {
    pub fn sql(&self) -> &str {
        match self {
            Step::Simple(sql) | Step::Extended { sql, .. } | Step::Copy { sql, .. } => sql,
        }
    }
}

impl Script {
    /// As text.
    pub fn text(&self) -> String {
        let mut out = format!("--- world {} images = {}\n", self.world.mode(), self.world.images);
        for sql in &self.setup {
            let _ = write!(out, "--- setup\n{sql};\n");
        }
        for client in &self.clients {
            let _ = writeln!(out, "--- client {}", if client.plain_role { "app" } else { "postgres" });
            for step in &client.steps {
                let _ = match step {
                    Step::Simple(sql) => write!(out, "--- simple\n{sql};\n"),
                    Step::Extended { sql, values, binary } => {
                        let how = if *binary { "binary" } else { "text" };
                        write!(out, "--- {how} {}\n{sql};\n", serde_json::to_string(values).unwrap())
                    }
                    Step::Copy { sql, data } => {
                        write!(out, "--- copy {}\n{sql};\n", serde_json::to_string(data).unwrap())
                    }
                };
            }
        }
        out
    }

    /// Reads it back. Lines in front of the first marker are a remark.
    pub fn read(text: &str) -> Script {
        let mut script = Script::default();
        let mut parts = text.split("\n--- ");
        let first = parts.next().unwrap_or_default();
        let first = first.strip_prefix("--- ");
        for part in first.into_iter().chain(parts) {
            let (head, sql) = part.split_once('\n').unwrap_or((part, ""));
            let sql = sql.trim_end().strip_suffix(';').unwrap_or(sql).to_owned();
            let (word, rest) = head.split_once(' ').unwrap_or((head, ""));
            let step = match word {
                "world" => {
                    let snapshot_isolation = rest.starts_with("snapshot_isolation");
                    script.world = Setting { snapshot_isolation, images: rest.ends_with("true") };
                    continue;
                }
                "setup" => {
                    script.setup.push(sql);
                    continue;
                }
                "client" => {
                    script.clients.push(Client { plain_role: rest == "app", steps: Vec::new() });
                    continue;
                }
                "simple" => Step::Simple(sql),
                "text" | "binary" => {
                    Step::Extended { sql, values: serde_json::from_str(rest).unwrap(), binary: word == "binary" }
                }
                "copy" => Step::Copy { sql, data: serde_json::from_str(rest).unwrap() },
                other => panic!("{other:?} is no part of a script"),
            };
            script.clients.last_mut().expect("a step belongs to a client").steps.push(step);
        }
        script
    }
}
