//! SIGHUP: the file is read again, what changed is told key by key, and a bad file changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::run::read_pool_passwd;
use crate::auth::PoolPasswd;
use crate::config::reference::Change;
use crate::config::{self, Changed, Config};

/// What takes the running configuration's place in every shard.
#[derive(Debug)]
pub struct Reloaded {
    /// The configuration.
    pub config: Arc<Config>,
    /// The pool_passwd file, read again.
    pub pool_passwd: Option<PoolPasswd>,
}

/// Reads the file again. `None`: something is wrong with it, which the log says, and everything stays as it is.
#[must_use]
pub fn reread(path: &Path, running: &Config) -> Option<Reloaded> {
    match read(path, running) {
        Ok((reloaded, changed)) => {
            changed.iter().for_each(tell);
            tracing::info!(file = %path.display(), changed = changed.len(), "configuration reloaded");
            Some(reloaded)
        }
        Err(error) => {
            tracing::error!(error, "configuration not reloaded: nothing has changed");
            None
        }
    }
}

fn read(path: &Path, running: &Config) -> Result<(Reloaded, Vec<Changed>), String> {
    let read = config::load(path).map_err(|e| e.to_string())?;
    read.refuse_unbuilt().map_err(|e| e.to_string())?;
    let (config, changed) = config::reload(running, &read);
    let pool_passwd = read_pool_passwd(&config).map_err(|e| e.to_string())?;
    Ok((Reloaded { config: Arc::new(config), pool_passwd }, changed))
}

fn tell(c: &Changed) {
    let (key, old, new) = (&c.key, &c.old, &c.new);
    match c.change {
        Change::Reload => tracing::info!(key, old, new, "changed"),
        Change::Restart => tracing::warn!(key, old, new, "not changed: it takes a restart"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[cluster]\nbackend_clustering_mode = \"native_replication\"\nwork_dir = \"/w\"\n\
        [[node]]\nid = 0\nbackend_hostname = \"a\"\n[limits]\n";

    #[test]
    fn a_bad_file_changes_nothing_and_a_good_one_what_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let running = Config::parse(&format!("{FILE}client_idle_limit = \"1min\"\n"), &path).unwrap();
        for bad in
            ["client_idle_limit = 1y\n", "client_idel_limit = 1\n", "[[node]]\nid = 7\nbackend_hostname = \"b\"\n"]
        {
            std::fs::write(&path, format!("{FILE}{bad}")).unwrap();
            assert!(reread(&path, &running).is_none(), "{bad}");
        }
        std::fs::write(&path, format!("{FILE}client_idle_limit = \"2min\"\nnum_init_children = 7\n")).unwrap();
        let limits = &reread(&path, &running).unwrap().config.limits;
        assert_eq!(limits.client_idle_limit.as_secs(), 120);
        assert_eq!(limits.num_init_children, running.limits.num_init_children);
    }
}
