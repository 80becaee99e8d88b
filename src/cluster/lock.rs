//! One proxy per work directory: a lock that the kernel gives back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held while the proxy runs.
#[derive(Debug)]
pub struct WorkDirLock {
    _file: File,
}

/// Why the work directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another proxy has it.
    #[error(
        "another pglockstep (pid {pid}) uses work_dir {}: two proxies in front of the same nodes would let them differ; stop it first, or give this one another configuration",
        dir.display()
    )]
    Held { pid: String, dir: PathBuf },
    /// The file cannot be made or written.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: std::io::Error },
}

impl WorkDirLock {
    /// The process that holds the directory; `None`: nobody does.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<u32> {
        let mut file = File::open(dir.join("pglockstep.lock")).ok()?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).ok()?;
        pid.trim().parse().ok()
    }

    /// Takes the lock and writes this process's id into the file.
    ///
    /// # Errors
    /// [`LockError::Held`] names the other process.
    pub fn take(dir: &Path) -> Result<WorkDirLock, LockError> {
        let path = dir.join("pglockstep.lock");
        let io = |error| LockError::Io { path: path.clone(), error };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        if let Err(e) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(io(e.into()));
            }
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            let pid = if pid.is_empty() { "unknown".to_owned() } else { pid.to_owned() };
            return Err(LockError::Held { pid, dir: dir.to_owned() });
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(WorkDirLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_proxy_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = WorkDirLock::take(dir.path()).unwrap();
        let e = WorkDirLock::take(dir.path()).unwrap_err().to_string();
        assert!(e.contains(&format!("pid {}", std::process::id())), "{e}");
        assert_eq!(WorkDirLock::holder(dir.path()), Some(std::process::id()));
        drop(held);
        assert_eq!(WorkDirLock::holder(dir.path()), None);
        assert!(WorkDirLock::take(dir.path()).is_ok());
    }
}
