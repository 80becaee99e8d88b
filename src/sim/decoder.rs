//! The control plane's part in images, in a simulation: one slot on main, what it tells, and the steps made of that.
//!
//! Lines are test_decoding's as the simulated node writes them; they are read by the code that reads a real server's
//! ([`Images`]), and become steps by it ([`Builder`]). What is the simulation's own is when the slot is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::control::SimNode;
use super::node::Node;
use super::schedule::Random;
use crate::cluster::control::Request;
use crate::cluster::images::{Image, Images, Slots};
use crate::image::Refusal;
use crate::image::build::{Builder, Step, follow};
use crate::image::decode::Relation;
use crate::image::facts::{Column, Facts, Identity, Sequence, Table};

/// The only database.
const DATABASE: &str = "d";
/// How long who may not need the slot waits for one that is being made.
const MOMENT_US: i64 = 1_000_000;

/// The slot that is being made, or read.
#[derive(Debug)]
struct Live {
    node: usize,
    restarts: u32,
    ready: bool,
    images: Images,
}

/// Makes images.
pub struct SimDecoder {
    /// `None`: there are no images.
    slots: Option<Arc<Slots>>,
    ours: String,
    limit: usize,
    timeout: Duration,
    live: Option<Live>,
    /// Somebody needs a slot.
    wanted: bool,
    /// Images that are awaited; `None`: from a slot that is not there yet.
    awaited: BTreeMap<String, Option<oneshot::Receiver<Image>>>,
    /// Those that are here, or will never be.
    here: BTreeMap<String, Image>,
    /// In so many of a hundred questions the slot is lost.
    loses: usize,
    random: Random,
    /// Only differences of it matter: simulated time is added.
    base: Instant,
    /// How many slots were made, and lost, and images had.
    pub counts: [u64; 3],
}

impl SimDecoder {
    /// None yet. `slots`: `None` if there are to be no images.
    #[must_use]
    pub fn new(slots: Option<Arc<Slots>>, config: &crate::config::Config, mut random: Random) -> SimDecoder {
        let replication = &config.replication;
        SimDecoder {
            slots,
            ours: format!("pglockstep:{}:", config.cluster.name),
            limit: usize::try_from(replication.image_limit).unwrap_or(usize::MAX),
            timeout: replication.image_timeout,
            live: None,
            wanted: false,
            awaited: BTreeMap::new(),
            here: BTreeMap::new(),
            loses: [0, 0, 5, 20][random.below(4)],
            random,
            base: Instant::now(),
            counts: [0; 3],
        }
    }

    /// A question has come.
    pub fn asked(&mut self, request: &Request) {
        match request {
            Request::Slot { .. } => {}
            Request::Image { gid, .. } => drop(self.awaited.insert(gid.clone(), None)),
            _ => return,
        }
        self.wanted = true;
        if self.live.is_some() && self.random.percent(self.loses) {
            self.lose();
        }
    }

    /// How long is waited for a slot, or an image.
    #[must_use]
    pub fn patience(&self, moment: bool) -> i64 {
        let timeout = i64::try_from(self.timeout.as_micros()).unwrap_or(i64::MAX);
        if moment { timeout.min(MOMENT_US) } else { timeout }
    }

    /// A question need not wait any more.
    #[must_use]
    pub fn can_answer(&self, request: &Request) -> bool {
        match request {
            Request::Image { gid, .. } => self.here.contains_key(gid),
            _ => self.live.as_ref().map_or(!self.wanted, |l| l.ready),
        }
    }

    /// There is a slot, or why not.
    ///
    /// # Errors
    /// There is none.
    pub fn slot(&self) -> Result<(), String> {
        let ready = self.live.as_ref().is_some_and(|l| l.ready);
        if ready { Ok(()) } else { Err("no slot: it waits for all open transactions, or main cannot be asked".into()) }
    }

    /// What replicas do to have what this transaction of main has changed.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn image(&mut self, gid: &str, xid: u64, main: &SimNode) -> Result<Vec<Step>, Refusal> {
        self.awaited.remove(gid);
        let late = || Err(Refusal::Lost("the slot has not told of it".into()));
        let changes = self.here.remove(gid).unwrap_or_else(late)?;
        if !main.answers() {
            return Err(Refusal::Lost("main cannot be asked".into()));
        }
        let facts = facts(&main.node);
        let mut builder = Builder::new(&facts, "UTF8");
        for change in changes {
            builder.add(change)?;
        }
        let mut steps = builder.finish()?;
        let sequence = |(name, last)| Sequence { name: format!("public.{name}"), increment: 1, start: 1, last };
        steps.extend(main.node.drawn(xid).into_iter().map(sequence).map(|s| follow(&s)));
        self.counts[2] += 1;
        Ok(steps)
    }

    /// The slot is given up: whoever waits for what it was to tell hears so.
    fn lose(&mut self) {
        let Some(live) = &mut self.live else { return };
        live.images.lose();
        live.ready = false;
        // The node drops it with the connection.
        live.restarts = u32::MAX;
        self.counts[1] += 1;
        self.slots.iter().for_each(|s| s.of(DATABASE).set(false));
        let lost = || Err(Refusal::Lost("the slot is lost".into()));
        let awaited = std::mem::take(&mut self.awaited);
        self.here.extend(awaited.into_keys().map(|gid| (gid, lost())));
    }

    /// Reads what the slot tells; makes one if somebody needs one, and on another main when that has changed.
    pub fn read(&mut self, main: usize, now_us: i64, nodes: &mut [SimNode]) {
        if self.slots.is_none() {
            return;
        }
        if let Some(live) = &self.live {
            let n = &nodes[live.node];
            let stays = n.node.is_up() && n.restarts == live.restarts && n.node.has_slot();
            if !stays || live.node != main {
                self.wanted |= live.node != main;
                let on = live.node;
                if live.restarts != u32::MAX {
                    self.lose();
                }
                nodes[on].node.drop_slot();
                self.live = None;
            }
        }
        if self.live.is_none() && self.wanted {
            self.make(main, nodes);
        }
        self.wanted &= self.live.is_none();
        let Some(live) = &mut self.live else { return };
        let n = &mut nodes[live.node];
        if n.hung {
            return;
        }
        if !live.ready && n.node.slot_is_ready() {
            live.ready = true;
            self.slots.iter().for_each(|s| s.of(DATABASE).set(true));
        }
        let now = self.base + Duration::from_micros(now_us.unsigned_abs());
        while let Some(line) = n.node.slot_line() {
            // The node writes what test_decoding does.
            let read = live.images.line(&Bytes::from(line), now);
            debug_assert!(read.is_ok(), "{read:?}");
        }
        if live.ready {
            for (gid, from) in &mut self.awaited {
                from.get_or_insert_with(|| live.images.take(gid.as_bytes()));
            }
        }
        live.images.tidy(now, self.timeout);
        let arrived = |(gid, from): (&String, &mut Option<oneshot::Receiver<Image>>)| {
            Some((gid.clone(), from.as_mut()?.try_recv().ok()?))
        };
        let arrived: Vec<(String, Image)> = self.awaited.iter_mut().filter_map(arrived).collect();
        let gids: BTreeSet<&String> = arrived.iter().map(|(gid, _)| gid).collect();
        self.awaited.retain(|gid, _| !gids.contains(gid));
        self.here.extend(arrived);
    }

    fn make(&mut self, main: usize, nodes: &mut [SimNode]) {
        let n = &mut nodes[main];
        if n.hung {
            // The connection is waited for.
            return;
        }
        self.wanted = false;
        if !n.node.is_up() {
            return;
        }
        n.node.create_slot();
        self.counts[0] += 1;
        self.slots.iter().for_each(|s| s.of(DATABASE).making());
        let images = Images::new(self.ours.clone(), self.limit);
        self.live = Some(Live { node: main, restarts: n.restarts, ready: false, images });
    }
}

/// What main's catalogue says of its tables.
fn facts(node: &Node) -> Facts {
    let of = |t: super::node::decoding::TableInfo| {
        let relation = Relation { schema: Bytes::from_static(b"public"), name: Bytes::from(t.name) };
        let equal = Bytes::from_static(b"OPERATOR(pg_catalog.=)");
        let column = |(name, _, place): (String, u32, Option<usize>)| Column {
            name: Bytes::from(name),
            generated: false,
            always: false,
            key: place.map(|_| equal.clone()),
        };
        let columns: Vec<Column> = t.columns.into_iter().map(column).collect();
        let identity = if columns.iter().any(|c| c.key.is_some()) { Identity::Key } else { Identity::None };
        let table = Table { partitioned: false, unlogged: false, identity, full: false, problem: None, columns };
        (relation, Arc::new(table))
    };
    Facts(node.tables().into_iter().map(of).collect())
}
