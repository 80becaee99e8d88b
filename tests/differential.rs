//! The proxy against a plain PostgreSQL: random sequences of protocol messages, answered message for message the same.
//!
//! A case is sent to a server alone and through the proxy to three nodes; the replies must be equal apart from the
//! short list in `differential/normal.rs` and the refusals in `differential/run.rs`, and afterwards every node must hold
//! what the server holds. A case that fails is made smaller and kept in `differential/cases`, which is replayed first.
//!
//! - `DIFFERENTIAL_SEEDS=0..10000` runs that many cases, however long it takes (a short run otherwise);
//! - `DIFFERENTIAL_CASE=file` runs one file;
//! - `DIFFERENTIAL_TOPICS=all` includes what is switched off (`differential/topics.rs`);
//! - `DIFFERENTIAL_KEEP=directory` keeps failures elsewhere.

mod support;

mod differential {
    pub mod case;
    pub mod connection;
    pub mod generate;
    pub mod message;
    pub mod normal;
    pub mod owed;
    pub mod run;
    pub mod shrink;
    pub mod sql;
    pub mod topics;
    pub mod world;
}

use differential::case::Case;
use differential::connection::PATIENCE;
use differential::generate;
use differential::run::{Difference, run};
use differential::shrink::shrink;
use differential::world::World;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::cases::{Played, folder, keep, played};

/// Time for random cases in a short run.
const SHORT: Duration = Duration::from_secs(20);
/// Seeds of a short run, if they fit into that time.
const SHORT_SEEDS: std::ops::Range<u64> = 0..140;
/// A reply that is late by this much counts as missing while a failure is made smaller.
const SHRINKING_PATIENCE: Duration = Duration::from_secs(3);

/// A world that is started anew when a case has broken it.
struct Runner {
    world: Option<World>,
}

impl Runner {
    fn run(&mut self, case: &Case, patience: Duration) -> Option<Difference> {
        let found = run(self.world.get_or_insert_with(World::start), case, patience);
        if found.as_ref().is_some_and(|d| d.broken) {
            self.world = None;
        }
        found
    }

    /// Runs a case; a failure is made smaller and told.
    fn examine(&mut self, name: &str, case: &Case) -> Option<(String, String)> {
        let first = self.run(case, PATIENCE)?;
        let smallest = shrink(case, |c| self.run(c, SHRINKING_PATIENCE).is_some_and(|d| d.kind == first.kind));
        let last = self.run(&smallest, PATIENCE).unwrap_or(first);
        let text = format!(
            "# {name}\n{}\n{}",
            last.text.lines().map(|l| format!("# {l}\n")).collect::<String>(),
            smallest.text()
        );
        Some((last.kind, text))
    }
}

#[test]
fn every_sequence_of_messages_is_answered_as_a_server_alone_answers_it() {
    let mut runner = Runner { world: None };
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    let kept = folder("differential/cases");
    let Played { files, seeds, limit } = played(&kept, "DIFFERENTIAL_CASE", "DIFFERENTIAL_SEEDS", SHORT_SEEDS, SHORT);
    for file in files {
        let case = Case::read(&std::fs::read_to_string(&file).unwrap()).unwrap();
        if let Some(d) = runner.run(&case, PATIENCE) {
            failures.insert(file.display().to_string(), format!("{}\n{}{}", file.display(), d.text, case.text()));
        }
    }
    let (started, mut count) = (Instant::now(), 0);
    for seed in seeds {
        if started.elapsed() > limit {
            break;
        }
        count += 1;
        if let Some((kind, text)) = runner.examine(&format!("seed {seed}"), &generate::case(seed)) {
            println!("{text}\n");
            if !failures.contains_key(&kind) {
                // It is tried in every run from now on.
                let directory = std::env::var("DIFFERENTIAL_KEEP").map_or_else(|_| kept.clone(), PathBuf::from);
                keep(&directory, seed, "case", &text);
            }
            failures.entry(kind).or_insert(text);
        }
    }
    println!("{count} random cases in {:?}", started.elapsed());
    let all: Vec<String> = failures.into_values().collect();
    assert!(all.is_empty(), "{} kinds of differences:\n{}", all.len(), all.join("\n"));
    if let Some(world) = runner.world {
        world.sandbox.assert_nothing_in_transaction();
    }
}
