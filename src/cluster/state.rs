//! The state file: status of every node and the epoch, over restarts.
//!
//! Replaced atomically: written beside, synced, renamed, the directory synced. A checksum tells a damaged file from a
//! whole one; a damaged one stops the start, since forgetting who was stale is how nodes come to differ.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::membership::NodeStatus;

/// Form of the file.
const VERSION: u32 = 1;

/// One node, as last known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// `host:port`.
    pub address: String,
    /// As last known.
    pub status: NodeStatus,
    /// Why it is not up; empty if it is.
    #[serde(default)]
    pub reason: String,
}

/// What outlives the process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Epoch of the newest membership.
    pub epoch: u64,
    /// Main of that membership.
    pub main: u8,
    /// By node id.
    pub nodes: Vec<NodeState>,
}

#[derive(Serialize, Deserialize)]
struct Checked {
    checksum: String,
    state: State,
}

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
    /// It is not what was written.
    #[error(
        "{}: the state file is damaged ({what}); it says which nodes are stale, so the proxy will not start without it. Compare the nodes, then remove the file if they are identical",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
}

impl State {
    /// For a cluster that has none yet.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> State {
        let node = |address| NodeState { address, status: NodeStatus::Up, reason: String::new() };
        State { version: VERSION, epoch: 0, main: 0, nodes: addresses.into_iter().map(node).collect() }
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join("pglockstep.state")
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read, or is damaged.
    pub fn load(dir: &Path) -> Result<Option<State>, StateError> {
        let path = State::path(dir);
        let text = match std::fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Io { path, error }),
        };
        let damaged = |what: String| StateError::Damaged { path: path.clone(), what };
        let checked: Checked = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if checked.checksum != checksum(&checked.state) {
            return Err(damaged("its checksum does not fit".into()));
        }
        if checked.state.version != VERSION {
            return Err(damaged(format!("version {} is not known here", checked.state.version)));
        }
        Ok(Some(checked.state))
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    /// The old file is still in force.
    pub fn save(&self, dir: &Path) -> Result<(), StateError> {
        let path = State::path(dir);
        let io = |error| StateError::Io { path: path.clone(), error };
        let checked = Checked { checksum: checksum(self), state: self.clone() };
        let text = serde_json::to_string_pretty(&checked).map_err(|e| io(e.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&path).map_err(|e| io(e.error))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(io)
    }
}

fn checksum(state: &State) -> String {
    let mut h = DefaultHasher::new();
    h.write(serde_json::to_string(state).unwrap_or_default().as_bytes());
    format!("{:016x}", h.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_node_is_stale_after_a_restart_and_a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(State::load(dir.path()).unwrap().is_none());
        let mut s = State::new(vec!["a:1".into(), "b:2".into()]);
        s.nodes[1].status = NodeStatus::Stale;
        s.epoch = 9;
        s.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), Some(s));
        let path = State::path(dir.path());
        let text = std::fs::read_to_string(&path).unwrap().replace("stale", "up");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(State::load(dir.path()), Err(StateError::Damaged { .. })));
    }
}
