//! Random schemas and transactions, by clients at once, through the proxy: afterwards all nodes hold the same.
//!
//! Everything that could make another thing of a statement on each node is an ingredient (`generator/schema.rs`,
//! `generator/statement.rs`); the nodes differ in what no user can see (`generator/world.rs`). With
//! `unsafe_statements = "refuse"` whatever is accepted must come out equal, in both modes, with images and without.
//! Answers must be PostgreSQL's or documented refusals, no statement may hang, and no node may be taken out.
//!
//! A failure is made smaller and printed as a script of SQL (`generator/script.rs`), with its seed. Scripts of bugs that
//! were found stand in `generator/cases` and are played first.
//!
//! - `GENERATOR_SEEDS=0..10000` runs these seeds, however long it takes (a short run otherwise);
//! - `GENERATOR_MINUTES=60` runs random seeds for so long, and goes on after failures;
//! - `GENERATOR_SCRIPT=file` plays one script, `GENERATOR_TIMES=20` so often;
//! - `GENERATOR_KEEP=directory` writes smallest scripts there.

mod support;

mod generator {
    pub mod compare;
    pub mod kind;
    pub mod run;
    pub mod schema;
    pub mod script;
    pub mod statement;
    pub mod transaction;
    pub mod world;
    pub mod write;
}

use generator::run::{Answers, Failure, run};
use generator::schema::{Schema, schema};
use generator::script::{Script, Setting};
use generator::transaction::{Switches, Work, work};
use generator::world::World;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use support::cases::{Played, folder, keep, played};

/// Time for random cases in a short run.
const SHORT: Duration = Duration::from_secs(40);
/// Seeds of a short run, if they fit into that time.
const SHORT_SEEDS: std::ops::Range<u64> = 0..400;
/// Cases in a row with one configuration of the proxy: another one takes a restart.
const RUN: u64 = 6;
/// Time for making one failure smaller.
const SHRINKING: Duration = Duration::from_secs(240);
/// A failure may depend on who comes first: so often a smaller case is tried before it counts as good.
const TRIES: u32 = 3;

type Case = (Vec<Work>, Schema);

fn script(case: &Case, world: Setting) -> Script {
    let (work, schema) = case;
    let clients = work.iter().map(|w| w.client(schema, Switches::default())).collect();
    Script { world, setup: schema.setup(), clients }
}

fn setting(seed: u64) -> Setting {
    let n = seed / RUN;
    Setting { snapshot_isolation: n % 2 == 1, images: n / 2 % 2 == 1 }
}

/// Runs a seed. A failure is told with its smallest script.
fn examine(world: &mut World, seed: u64, answers: &mut Answers) -> Option<(String, String)> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut tree = (work(), schema()).new_tree(&mut runner).unwrap();
    let setting = setting(seed);
    let first = run(world, &script(&tree.current(), setting), answers)?;
    println!("seed {seed}: {}\n{}", first.kind, first.text);
    let (mut smallest, mut last) = (tree.current(), first);
    let end = Instant::now() + SHRINKING;
    while Instant::now() < end {
        let Some(found) = (0..TRIES).find_map(|_| again(world, &script(&tree.current(), setting), &last)) else {
            if !tree.complicate() {
                break;
            }
            continue;
        };
        (smallest, last) = (tree.current(), found);
        if !tree.simplify() {
            break;
        }
    }
    let remark = format!("seed {seed}: {}\n{}", last.kind, last.text);
    let text: String = remark.lines().map(|l| format!("-- {l}\n")).collect();
    Some((last.kind, text + &script(&smallest, setting).text()))
}

/// The same failure once more.
fn again(world: &mut World, script: &Script, first: &Failure) -> Option<Failure> {
    run(world, script, &mut Answers::new()).filter(|f| f.kind == first.kind)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|v| v.parse().expect("a number"))
}

/// What is played, and for how long.
fn what() -> Played {
    let kept = folder("generator/cases");
    let mut what = played(&kept, "GENERATOR_SCRIPT", "GENERATOR_SEEDS", SHORT_SEEDS, SHORT);
    if let Some(minutes) = number("GENERATOR_MINUTES") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        (what.seeds, what.limit) = (now * 1_000_000..u64::MAX, Duration::from_secs(60 * minutes));
    }
    what
}

#[test]
fn whatever_clients_do_at_once_all_nodes_hold_the_same() {
    let mut world = World::start();
    let mut answers = Answers::new();
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    let Played { files, seeds, limit } = what();
    for file in files {
        let script = Script::read(&std::fs::read_to_string(&file).unwrap());
        for _ in 0..number("GENERATOR_TIMES").unwrap_or(3) {
            if let Some(f) = run(&mut world, &script, &mut answers) {
                failures.insert(file.display().to_string(), format!("{}: {}\n{}", file.display(), f.kind, f.text));
                break;
            }
        }
    }
    let (started, mut count) = (Instant::now(), 0);
    for seed in seeds {
        if started.elapsed() > limit {
            break;
        }
        count += 1;
        if let Some((kind, text)) = examine(&mut world, seed, &mut answers) {
            println!("{text}\n");
            if let Ok(directory) = std::env::var("GENERATOR_KEEP") {
                keep(Path::new(&directory), seed, "sql", &text);
            }
            failures.entry(kind).or_insert(text);
        }
    }
    for ((word, code), n) in &answers {
        println!("{n:8} {code:5} {word}");
    }
    println!("{count} random cases in {:?}", started.elapsed());
    let all: Vec<String> = failures.into_values().collect();
    assert!(all.is_empty(), "{} kinds of failures:\n{}", all.len(), all.join("\n"));
}
