//! The sandbox's configuration file: its own keys, with those of `--config FILE` laid over them.
//!
//! Laid over: tables are merged key by key, every other value is replaced; of `[[node]]` the entries with the same `id`
//! are merged, but where a node is (backend_hostname, backend_port) stays the sandbox's affair.

use super::{Result, SandboxArgs};
use std::path::Path;
use toml::{Table, Value};

/// Clients that the proxy takes: each may need two connections on a node (setup's rule: 2 x clients + 20).
pub const CLIENTS: u32 = (super::servers::MAX_CONNECTIONS - 20) / 2;
/// The role of the appliers.
pub const APPLY_USER: &str = "pglockstep";

/// What the finished configuration says about what the sandbox must know itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// An address to connect to: a wildcard becomes the loopback address.
    pub host: String,
    pub port: u16,
    pub pcp_port: u16,
}

/// The sandbox's own keys.
pub fn own(args: &SandboxArgs, ports: &[u16], dir: &Path, data: &[String], apply_password: &str) -> Result<Table> {
    let (host, port) = split_listen(&args.listen)?;
    let text = |value: &str| Value::String(value.to_owned());
    let number = |value: usize| i64::try_from(value).map(Value::Integer).map_err(|_| format!("{value} is too large"));
    let mut shards = Table::from_iter([("io_driver".into(), text(args.io_driver.name()))]);
    if let Some(count) = args.shards {
        shards.insert("count".into(), number(count)?);
    }
    let nodes = ports.iter().zip(data).enumerate().map(|(id, (port, data))| {
        Ok(Value::Table(Table::from_iter([
            ("id".into(), number(id)?),
            ("backend_hostname".into(), text("127.0.0.1")),
            ("backend_port".into(), Value::Integer((*port).into())),
            ("backend_data_directory".into(), text(data)),
        ])))
    });
    let table = |pairs: Vec<(&str, Value)>| Value::Table(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let listen = vec![
        ("listen_addresses", Value::Array(vec![text(&host)])),
        ("port", Value::Integer(port.into())),
        ("pcp_port", Value::Integer(args.pcp_port.into())),
    ];
    let cluster = vec![
        ("backend_clustering_mode", text(args.mode.name())),
        ("work_dir", text(&dir.join("work").to_string_lossy())),
    ];
    let apply = vec![("apply_user", text(APPLY_USER)), ("apply_password", text(apply_password))];
    Ok(Table::from_iter([
        ("cluster".into(), table(cluster)),
        ("listen".into(), table(listen)),
        ("shards".into(), Value::Table(shards)),
        ("apply".into(), table(apply)),
        ("limits".into(), table(vec![("num_init_children", Value::Integer(CLIENTS.into()))])),
        ("node".into(), Value::Array(nodes.collect::<Result<_>>()?)),
    ]))
}

/// Lays the file at `path` over `own`.
pub fn lay_over(own: &mut Table, path: &Path) -> Result<()> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {name}: {e}"))?;
    let mut over: Table = text.parse().map_err(|e| format!("{name}: {e}"))?;
    // The file's own directory is where its relative paths start; the merged file lies elsewhere.
    if let Some(Value::String(passwd)) = over.get_mut("authentication").and_then(|t| t.get_mut("pool_passwd")) {
        let dir = std::path::absolute(path)?.parent().map(Path::to_path_buf).unwrap_or_default();
        if !passwd.is_empty() {
            *passwd = dir.join(&*passwd).to_string_lossy().into_owned();
        }
    }
    if let Some(nodes) = over.remove("node") {
        merge_nodes(own, nodes).map_err(|e| format!("{name}: {e}"))?;
    }
    merge(own, over);
    Ok(())
}

fn merge(own: &mut Table, over: Table) {
    for (key, value) in over {
        match (own.get_mut(&key), value) {
            (Some(Value::Table(mine)), Value::Table(theirs)) => merge(mine, theirs),
            (_, value) => {
                own.insert(key, value);
            }
        }
    }
}

fn merge_nodes(own: &mut Table, over: Value) -> Result<()> {
    let Some(Value::Array(mine)) = own.get_mut("node") else { return Ok(()) };
    let Value::Array(theirs) = over else { return Err("node must be written as [[node]]".into()) };
    for entry in theirs {
        let Value::Table(mut entry) = entry else { return Err("node must be written as [[node]]".into()) };
        let id = entry.get("id").cloned().ok_or("a [[node]] has no id")?;
        entry.remove("backend_hostname");
        entry.remove("backend_port");
        let found = mine.iter_mut().filter_map(Value::as_table_mut).find(|node| node.get("id") == Some(&id));
        merge(found.ok_or_else(|| format!("the sandbox has no node with id {id}"))?, entry);
    }
    Ok(())
}

/// Reads back what the sandbox must know.
pub fn effective(config: &Table) -> Result<Effective> {
    let get = |table: &str, key: &str| config.get(table).and_then(|t| t.get(key));
    let port = |key: &str| {
        let value = get("listen", key).and_then(Value::as_integer);
        value.and_then(|v| u16::try_from(v).ok()).ok_or_else(|| format!("listen.{key} must be a port number"))
    };
    let addresses = get("listen", "listen_addresses").and_then(Value::as_array);
    let first = addresses.and_then(|list| list.first()).and_then(Value::as_str);
    let host = match first.ok_or("listen.listen_addresses must be a list of addresses")? {
        "*" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        other => other.to_owned(),
    };
    Ok(Effective { host, port: port("port")?, pcp_port: port("pcp_port")? })
}

/// `HOST:PORT`, an IPv6 address in brackets; `PORT` alone is on the loopback address.
fn split_listen(listen: &str) -> Result<(String, u16)> {
    let (host, port) = listen.rsplit_once(':').unwrap_or(("127.0.0.1", listen));
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match port.parse() {
        Ok(port) if port > 0 && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(format!("--listen {listen}: must be HOST:PORT with a port from 1 to 65535").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let data = ["/d/node0".to_owned(), "/d/node1".to_owned()];
        own(&SandboxArgs::on_port(9999, 9898), &[5001, 5002], Path::new("/d"), &data, "secret").unwrap()
    }

    #[test]
    fn listen_takes_names_addresses_and_brackets() {
        assert_eq!(split_listen("localhost:1").unwrap(), ("localhost".into(), 1));
        assert_eq!(split_listen("[::1]:9999").unwrap(), ("::1".into(), 9999));
        assert_eq!(split_listen("9999").unwrap(), ("127.0.0.1".into(), 9999));
        for bad in ["", ":1", "host:", "host:0", "host:70000"] {
            assert!(split_listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_laid_over_key_by_key_and_nodes_by_id() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.toml");
        let text = "[listen]\nport = 7777\n[authentication]\npool_passwd = 'pw'\n\
                    [[node]]\nid = 1\nbackend_weight = 0.5\nbackend_port = 1\n";
        std::fs::write(&file, text).unwrap();
        let mut config = example();
        lay_over(&mut config, &file).unwrap();
        let effective = effective(&config).unwrap();
        assert_eq!(effective, Effective { host: "127.0.0.1".into(), port: 7777, pcp_port: 9898 });
        assert_eq!(config["node"][1]["backend_weight"].as_float(), Some(0.5));
        assert_eq!(config["node"][1]["backend_port"].as_integer(), Some(5002));
        let passwd = dir.path().join("pw");
        assert_eq!(config["authentication"]["pool_passwd"].as_str(), passwd.to_str());
    }
}
