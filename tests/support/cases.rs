//! What a test with random cases plays: those that are kept in files, then seeds.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is played.
pub struct Played {
    /// Files, in order.
    pub files: Vec<PathBuf>,
    /// Random cases behind them.
    pub seeds: Range<u64>,
    /// Time for these.
    pub limit: Duration,
}

/// Folder below `tests` in which cases are kept.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The kept cases and a short run; the one file that the variable `one` names; or all kept ones and the seeds that the
/// variable `range` gives (`FROM..TO`), however long these take.
pub fn played(kept: &Path, one: &str, range: &str, short: Range<u64>, time: Duration) -> Played {
    if let Ok(file) = std::env::var(one) {
        return Played { files: vec![file.into()], seeds: 0..0, limit: time };
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(kept).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let (seeds, limit) = match std::env::var(range) {
        Ok(text) => {
            let (from, to) = text.split_once("..").unwrap_or_else(|| panic!("{range} is FROM..TO"));
            (from.parse().unwrap()..to.parse().unwrap(), Duration::MAX)
        }
        Err(_) => (short, time),
    };
    Played { files, seeds, limit }
}

/// Writes a case that failed, under a name that no other has.
pub fn keep(directory: &Path, seed: u64, ending: &str, text: &str) {
    let names = (1..).map(|n| match n {
        1 => format!("seed-{seed}.{ending}"),
        n => format!("seed-{seed}-{n}.{ending}"),
    });
    let file = names.map(|name| directory.join(name)).find(|f| !f.exists()).unwrap();
    if let Err(e) = std::fs::write(&file, text) {
        println!("{} cannot be written: {e}", file.display());
    }
}
