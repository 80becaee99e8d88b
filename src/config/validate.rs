//! What keys mean together: judged after each of them is known to be allowed by itself. Touches nothing.

use super::error::ConfigError;
use super::model::{ClientAuth, CommitInProcedure, Config, NODES_MAX};
use std::collections::BTreeMap;
use std::time::Duration;

/// Refuses a configuration whose keys contradict each other. Nodes are still in the file's order.
pub fn validate(config: &Config) -> Result<(), ConfigError> {
    node_ids(config)?;
    node_addresses(config)?;
    weights(config)?;
    listen(config)?;
    shards(config)?;
    function_lists(config)
}

fn node_ids(config: &Config) -> Result<(), ConfigError> {
    let count = config.nodes.len();
    if count == 0 || count > NODES_MAX {
        return Err(config.source.error("node", format!("{count} nodes; allowed: 1 to {NODES_MAX} tables [[node]]")));
    }
    let mut seen = [false; NODES_MAX];
    for (index, node) in config.nodes.iter().enumerate() {
        let (key, id) = (format!("node[{index}].id"), node.id);
        match seen.get_mut(usize::from(id)) {
            Some(taken) if *taken => {
                return Err(config
                    .source
                    .error(&key, format!("{id} is another node's id already; allowed: each id once")));
            }
            Some(taken) if usize::from(id) < count => *taken = true,
            _ => {
                let problem = format!("{id} leaves a gap; allowed: 0 to {} for {count} nodes, each once", count - 1);
                return Err(config.source.error(&key, problem));
            }
        }
    }
    Ok(())
}

fn node_addresses(config: &Config) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for (index, node) in config.nodes.iter().enumerate() {
        let address = (node.backend_hostname.to_lowercase(), node.backend_port);
        if let Some(other) = seen.insert(address, node.id) {
            let problem = format!(
                "{}:{} is node {other}'s address already; allowed: one node per server",
                node.backend_hostname, node.backend_port
            );
            return Err(config.source.error(&format!("node[{index}].backend_hostname"), problem));
        }
    }
    Ok(())
}

fn weights(config: &Config) -> Result<(), ConfigError> {
    if config.load_balance.load_balance_mode && config.nodes.iter().all(|node| node.backend_weight == 0.0) {
        let problem = "0 on every node, so that no node may answer reads; \
            allowed: more than 0 on at least one node, or load_balance_mode = false";
        return Err(config.source.error("node[0].backend_weight", problem));
    }
    Ok(())
}

fn listen(config: &Config) -> Result<(), ConfigError> {
    let listen = &config.listen;
    if listen.listen_addresses.is_empty() && listen.unix_socket_directories.is_empty() {
        let problem = "an empty list, and no unix_socket_directories: nobody could connect; allowed: one of them empty";
        return Err(config.source.error("listen.listen_addresses", problem));
    }
    if listen.port == listen.pcp_port {
        let problem = format!("{} is listen.port already; allowed: another port", listen.pcp_port);
        return Err(config.source.error("listen.pcp_port", problem));
    }
    Ok(())
}

fn shards(config: &Config) -> Result<(), ConfigError> {
    let buffers = config.shards.receive_buffers;
    if !buffers.is_power_of_two() {
        let problem =
            format!("{buffers} is not allowed here; allowed: a power of two (the kernel's buffer ring wants one)");
        return Err(config.source.error("shards.receive_buffers", problem));
    }
    Ok(())
}

fn function_lists(config: &Config) -> Result<(), ConfigError> {
    let own = &config.load_balance;
    if !own.read_only_function_list.is_empty() && !own.write_function_list.is_empty() {
        let problem = "not together with read_only_function_list; allowed: one of the two lists";
        return Err(config.source.error("load_balance.write_function_list", problem));
    }
    let lists = [
        ("load_balance.read_only_function_list", &own.read_only_function_list),
        ("load_balance.write_function_list", &own.write_function_list),
    ];
    for (key, list) in lists {
        if let Some(name) = list.iter().find(|name| !is_function_name(name)) {
            let problem =
                format!("{name:?} is not allowed here; allowed: name or schema.name, no patterns, no arguments");
            return Err(config.source.error(key, problem));
        }
    }
    Ok(())
}

/// `name` or `schema.name`, of the characters that PostgreSQL takes unquoted.
fn is_function_name(text: &str) -> bool {
    let word = |part: &str| {
        part.chars()
            .enumerate()
            .all(|(at, c)| c.is_alphabetic() || c == '_' || (at > 0 && (c.is_numeric() || c == '$')))
            && !part.is_empty()
    };
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() <= 2 && parts.into_iter().all(word)
}

impl Config {
    /// Refuses by name what parses but is not built yet. `run` calls it; `check` shows it as a warning.
    pub fn refuse_unbuilt(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, value: &str, instead: &str| {
            Err(self.source.error(key, format!("{value:?} is not built yet; allowed for now: {instead}")))
        };
        if self.replication.commit_in_procedure == CommitInProcedure::Drain {
            return refuse("replication.commit_in_procedure", "drain", "\"refuse\"");
        }
        Ok(())
    }

    /// What is allowed and still worth a word, each a whole sentence that names its key.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.nodes.len() == 1 {
            warnings.push("node: there is one node only, so that nothing is replicated.".to_string());
        }
        if self.authentication.client_auth == ClientAuth::Trust {
            warnings.push("authentication.client_auth: \"trust\" lets everyone in as any user.".to_string());
        }
        if self.apply.apply_password.is_empty() {
            warnings.push("apply.apply_password: empty; the nodes must let apply_user in without one.".to_string());
        }
        if self.health_check.health_check_period == Duration::ZERO {
            warnings
                .push("health_check.health_check_period: 0, so that only a client notices a dead node.".to_string());
        }
        warnings
    }
}
