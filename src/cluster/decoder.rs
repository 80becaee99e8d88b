//! Reading main's WAL for images: one temporary two-phase slot of `test_decoding` per database that needs one.
//!
//! A slot must be there before a transaction that it is to tell of begins to write, and its making waits for all that are
//! writing (hazard 65): so it is made when a catalogue shows the need, in the background, at a promotion, and by the first
//! session that asks. It is read all the time, and given up when nobody has asked for an image for [`IDLE`], or when it
//! keeps back more WAL than `image_wal_limit`. A slot that is lost is made anew by the next session that asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::control::Plane;
use super::images::{Image, Images, Slot};
use super::nodes::{Connection, connect};
use super::walsender::{Decoded, WalSender};
use crate::image::Refusal;
use crate::image::build::{Builder, DECODER_OPTIONS, Step, follow, unsupported};
use crate::image::decode::{Change, Relation};
use crate::image::facts::{Facts, Table, prepare_written, read_tables, read_written, tables_query, written_query};
use crate::sequencer::NodeId;
use crate::wire::literal;

/// A slot of which nobody has wanted anything for so long is given up.
const IDLE: Duration = Duration::from_secs(600);
/// How often the server is told what has been read, and the slot is looked at.
const TICK: Duration = Duration::from_secs(2);

/// How long a transaction waits for a slot that it may not need.
const MOMENT: Duration = Duration::from_secs(1);

/// How long a slot may take to be gone, and how often it is looked for.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// What a database must have for a slot to be made before anybody asks: triggers of users, rules, row security, or
/// functions that may write.
const NEED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE NOT tgisinternal) \
    OR EXISTS (SELECT FROM pg_catalog.pg_rewrite WHERE ev_class >= 16384 AND ev_type <> '1') \
    OR EXISTS (SELECT FROM pg_catalog.pg_class WHERE relrowsecurity) \
    OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     WHERE p.oid >= 16384 AND p.provolatile = 'v' AND l.lanname NOT IN ('c', 'internal'))";

/// How far a decoder is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    Making,
    Ready,
    Lost(String),
}

/// What is known of tables, by OID, as of this version of the catalogue.
#[derive(Default)]
struct Known {
    version: u64,
    tables: HashMap<u32, (Relation, Arc<Table>)>,
}

/// One database's decoder.
pub(super) struct Decoder {
    main: NodeId,
    slot: Slot,
    state: watch::Sender<State>,
    images: Mutex<Images>,
    /// To ask main what the tables are; there when it is ready.
    asks: tokio::sync::OnceCell<(Connection, String)>,
    facts: Mutex<Known>,
    wanted: Mutex<Instant>,
    stop: tokio::sync::Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that is done under these locks can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plane {
    /// A slot for this database, made if there is none.
    fn decoder(self: &Arc<Self>, database: &str) -> Arc<Decoder> {
        let main = self.membership.load().main;
        let mut all = lock(&self.decoders);
        if let Some(d) = all.get(database) {
            if d.main == main && !matches!(*d.state.borrow(), State::Lost(_)) {
                return d.clone();
            }
            d.stop.notify_one();
        }
        let ours = format!("pglockstep:{}:", self.config.cluster);
        let limit = usize::try_from(self.live().image_limit).unwrap_or(usize::MAX);
        let made = Arc::new(Decoder {
            main,
            slot: self.config.slots.of(database),
            state: watch::Sender::new(State::Making),
            images: Mutex::new(Images::new(ours, limit)),
            asks: tokio::sync::OnceCell::new(),
            facts: Mutex::default(),
            wanted: Mutex::new(Instant::now()),
            stop: tokio::sync::Notify::new(),
        });
        made.slot.making();
        all.insert(database.to_owned(), made.clone());
        tokio::task::spawn_local(self.clone().decode(database.to_owned(), made.clone()));
        made
    }

    /// Waits for the database's slot, within `image_timeout`; `moment`: within [`MOMENT`] if that is less.
    pub(super) async fn await_decoder(self: &Arc<Self>, database: &str, moment: bool) -> Result<(), String> {
        if !self.config.can_image {
            return Err("the servers are not set up for images".into());
        }
        let timeout = self.live().image_timeout;
        self.ready_decoder(database, if moment { timeout.min(MOMENT) } else { timeout }).await.map(drop)
    }

    async fn ready_decoder(self: &Arc<Self>, database: &str, timeout: Duration) -> Result<Arc<Decoder>, String> {
        let decoder = self.decoder(database);
        let mut state = decoder.state.subscribe();
        let settled = tokio::time::timeout(timeout, state.wait_for(|s| *s != State::Making)).await;
        let settled = match settled {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => State::Lost("it has ended".into()),
            Err(_) => {
                State::Lost(format!("no slot within {timeout:?} (image_timeout): it waits for all open transactions"))
            }
        };
        match settled {
            State::Lost(why) => Err(why),
            State::Making | State::Ready => Ok(decoder),
        }
    }

    /// What replicas do to have what the prepared transaction has changed. `version`: of the catalogue, as known when it
    /// was prepared.
    pub(super) async fn image(
        self: &Arc<Self>,
        database: &str,
        gid: &str,
        xid: u64,
        version: u64,
    ) -> Result<Vec<Step>, Refusal> {
        let timeout = self.live().image_timeout;
        let decoder = self.ready_decoder(database, timeout).await.map_err(Refusal::Lost)?;
        *lock(&decoder.wanted) = Instant::now();
        let comes = lock(&decoder.images).take(gid.as_bytes());
        let image: Image = match tokio::time::timeout(timeout, comes).await {
            Ok(Ok(image)) => image,
            Ok(Err(_)) => return Err(Refusal::Lost("the slot is lost".into())),
            Err(_) => {
                return Err(Refusal::Lost(format!("the slot has not told of it within {timeout:?} (image_timeout)")));
            }
        };
        let changes = image?;
        // Main gives ids out modulo 2^32, and its locks name them like that.
        let xid = u32::try_from(xid & u64::from(u32::MAX)).unwrap_or_default();
        decoder.steps(changes, xid, version).await
    }

    /// The database is about to be dropped or copied: nobody may be connected to it.
    pub(super) fn forget_decoder(&self, database: &str) {
        if let Some(d) = lock(&self.decoders).remove(database) {
            d.slot.set(false);
            d.stop.notify_one();
        }
    }

    /// Gives the slots of these databases up, and waits until main has none of them.
    pub(super) async fn drop_slots(&self, databases: &[String]) -> Result<(), String> {
        let begun = Instant::now();
        let main = self.kept(self.membership.load().main).await?;
        for database in databases {
            self.forget_decoder(database);
            let sql = format!(
                "SELECT 1 FROM pg_catalog.pg_replication_slots WHERE temporary AND database = {} AND slot_name LIKE 'pglockstep%'",
                literal(database)
            );
            while main.value(&sql).await?.is_some() {
                if begun.elapsed() > GONE_WITHIN {
                    return Err("a slot stays".into());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Another node is main: what was read of the old one is no more, and the new one needs slots where that had them.
    pub(super) fn renew_decoders(self: &Arc<Self>) {
        let databases: Vec<String> = lock(&self.decoders).keys().cloned().collect();
        for d in databases {
            self.decoder(&d);
        }
    }

    /// Makes the slot beforehand if the database's catalogue shows that it will be needed.
    pub(super) async fn foresee_decoder(self: &Arc<Self>, database: &str, main: &Connection) {
        // The client may have operators of any name elsewhere.
        let safe = main.rows("SET search_path = ''").await.is_ok();
        if safe && self.config.can_image && main.value(NEED).await.is_ok_and(|v| v.as_deref() == Some("t")) {
            self.decoder(database);
        }
    }

    async fn decode(self: Arc<Self>, database: String, decoder: Arc<Decoder>) {
        let ended = tokio::select! {
            ended = self.read_slot(&database, &decoder) => ended,
            () = decoder.stop.notified() => Ok("it is not wanted any more"),
        };
        // A newer one may have taken its place, and be ready.
        let newest = lock(&self.decoders).get(&database).is_none_or(|d| Arc::ptr_eq(d, &decoder));
        if newest {
            decoder.slot.set(false);
        }
        let why = match ended {
            Ok(why) => {
                tracing::info!(database, why, "image slot given up");
                why.to_owned()
            }
            Err(error) => {
                tracing::warn!(database, error, "image slot lost");
                error
            }
        };
        decoder.state.send_replace(State::Lost(why));
        lock(&decoder.images).lose();
        let mut all = lock(&self.decoders);
        if all.get(&database).is_some_and(|d| Arc::ptr_eq(d, &decoder)) {
            all.remove(&database);
        }
    }

    /// Ends when the slot is lost, or not worth keeping.
    async fn read_slot(&self, database: &str, decoder: &Decoder) -> Result<&'static str, String> {
        let begun = Instant::now();
        let timeout = self.live().connect_timeout;
        let address = self.config.nodes.get(usize::from(decoder.main.0)).ok_or("no such node")?;
        let asks = connect(address, &self.config.apply, database, timeout).await?;
        // What follows runs as apply_user, and the client may have operators of any name elsewhere.
        asks.rows("SET search_path = ''; SET plan_cache_mode = force_generic_plan").await?;
        asks.rows(&prepare_written()).await?;
        let encoding = asks.value("SHOW server_encoding").await?.unwrap_or_default();
        let mut sender = WalSender::connect(address, &self.config.apply, database, DECODER_OPTIONS, timeout).await?;
        let name = format!("pglockstep_{}_{}_{}", self.membership.load().epoch, std::process::id(), number());
        sender.create_slot(&name).await?;
        sender.start(&name).await?;
        // It was made a moment ago, and by nobody else.
        let _ = decoder.asks.set((asks, encoding));
        decoder.slot.set(true);
        decoder.state.send_replace(State::Ready);
        tracing::info!(database, took = ?begun.elapsed(), "image slot made");
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                decoded = sender.next() => match decoded? {
                    Decoded::Line(text) => drop(lock(&decoder.images).line(&text, Instant::now())?),
                    Decoded::KeepAlive { reply: true } => sender.confirm().await?,
                    Decoded::KeepAlive { reply: false } => {}
                },
                _ = tick.tick() => {
                    sender.confirm().await?;
                    let live = self.live();
                    lock(&decoder.images).tidy(Instant::now(), live.image_timeout);
                    if lock(&decoder.wanted).elapsed() > IDLE {
                        return Ok("nobody has wanted an image for a long time");
                    }
                    self.watch_slot(decoder, &name, live.image_wal_limit).await?;
                }
            }
        }
    }

    /// A slot that keeps back too much WAL is worse than none.
    async fn watch_slot(&self, decoder: &Decoder, name: &str, limit: u64) -> Result<(), String> {
        let Some((asks, _)) = decoder.asks.get() else { return Ok(()) };
        let sql = format!(
            "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint \
             FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}'"
        );
        let kept: u64 = asks.value(&sql).await?.and_then(|v| v.parse().ok()).unwrap_or(0);
        if kept > limit {
            return Err(format!("it keeps back {kept} bytes of WAL, more than image_wal_limit"));
        }
        Ok(())
    }
}

impl Decoder {
    async fn steps(&self, changes: Vec<Change>, xid: u32, version: u64) -> Result<Vec<Step>, Refusal> {
        let Some((asks, encoding)) = self.asks.get() else { return Err(Refusal::Lost("the slot is lost".into())) };
        let rows = asks.rows(&written_query(xid)).await.map_err(Refusal::Lost)?;
        let written = read_written(&rows).map_err(Refusal::Lost)?;
        if written.large_objects {
            let what = "it has changed large objects, which main's WAL does not tell".to_owned();
            return Err(Refusal::Unsupported { what, hint: "Change large objects in a transaction of their own." });
        }
        let missing: Vec<u32> = {
            let mut facts = lock(&self.facts);
            // The transaction holds its tables locked: what was read under a version is right for all who know of no
            // newer one, and whoever changes a table raises the version before others can lock it.
            if facts.version < version {
                *facts = Known { version, tables: HashMap::new() };
            }
            written.tables.iter().copied().filter(|t| !facts.tables.contains_key(t)).collect()
        };
        // One at a time, so that an OID and its rows stay together.
        for oid in missing {
            let rows = asks.rows(&tables_query(&[oid])).await.map_err(Refusal::Lost)?;
            let mut found = read_tables(&rows).map_err(Refusal::Lost)?;
            let mut facts = lock(&self.facts);
            if let Some((relation, table)) = found.pop().filter(|_| facts.version <= version) {
                facts.tables.insert(oid, (relation, Arc::new(table)));
            }
        }
        let known = {
            let facts = lock(&self.facts);
            let known = written.tables.iter().filter_map(|t| facts.tables.get(t).cloned());
            Facts(known.collect())
        };
        // Rows of an unlogged table are simply not told.
        for (relation, table) in &known.0 {
            if let Some(problem) = table.problem.filter(|_| table.unlogged) {
                return Err(unsupported(relation, problem));
            }
        }
        let mut builder = Builder::new(&known, encoding);
        for change in changes {
            builder.add(change)?;
        }
        let mut steps = builder.finish()?;
        steps.extend(written.sequences.iter().map(follow));
        Ok(steps)
    }
}

/// Tells slots of one process apart: one that is lost may still be there for a moment.
fn number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
