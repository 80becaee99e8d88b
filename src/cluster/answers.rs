//! The questions of the shards, and their answers.

use std::sync::Arc;
use std::time::Duration;

use super::control::{Plane, Reply, Request, ShardMessage, Standing, Ticket};
use super::nodes::{Connection, INCARNATION, backend_gone, blocks, connect, role};
use super::nodes::{RoleRow, Rows};
use crate::sequencer::NodeId;
use crate::session::io::{Fate, Probe};
use crate::wire::literal;

/// Between two tries to end what is prepared.
const RESOLVE_AGAIN: Duration = Duration::from_millis(200);

impl Plane {
    pub(super) async fn answer(self: Arc<Self>, ticket: Ticket, request: Request) {
        let reply = match request {
            // These wait for probes and for shards, and open no connection each.
            Request::Stands { node } => Reply::Stands(self.settle(node).await),
            Request::Detach { node, reason } => Reply::Detached(self.detach(node, &reason).await),
            Request::Slot { database, moment } => Reply::Slot(self.await_decoder(&database, moment).await),
            Request::NoSlot { databases } => Reply::Slot(self.drop_slots(&databases).await),
            Request::Image { database, gid, xid, version } => {
                Reply::Image(self.image(&database, &gid, xid, version).await)
            }
            Request::Resolve { node, pid, database, gid, commit } => {
                self.resolve(node, pid, &database, &gid, commit).await;
                Reply::Terminated
            }
            request => self.ask(request).await,
        };
        self.tell(ticket.shard, ShardMessage::Reply { token: ticket.token, reply }).await;
    }

    pub(super) async fn ask(self: &Arc<Self>, request: Request) -> Reply {
        let Ok(_permit) = self.permits.acquire().await else { return Reply::Terminated };
        match request {
            Request::Role { user } => Reply::Role(self.role(&user).await),
            Request::Catalogue { database } => {
                let rows = self.catalogue(&database).await;
                Reply::Catalogue { database, rows }
            }
            Request::BackendGone { node, pid } => {
                let gone = async { backend_gone(&*self.kept(node).await?, pid).await };
                Reply::BackendGone(gone.await.unwrap_or(false))
            }
            Request::Blocks { node, pid } => {
                let blocks = async { blocks(&*self.kept(node).await?, pid).await };
                Reply::Blocks(blocks.await.unwrap_or(false))
            }
            Request::Probe { node, pid } => Reply::Probe(self.probe_backend(node, pid).await),
            Request::Prepared { database, gid, commit } => {
                Reply::Prepared(self.prepared(&database, &gid, commit).await)
            }
            Request::TerminateBackend { node, pid } => {
                if let Ok(c) = self.kept(node).await {
                    let _ = c.value(&format!("SELECT pg_terminate_backend({pid})")).await;
                }
                Reply::Terminated
            }
            Request::XactStatus { node, database, xid } => {
                Reply::XactStatus(self.status(node, &database, xid).await.unwrap_or_else(|error| {
                    tracing::warn!(%node, xid, error, "a transaction's fate could not be asked");
                    None
                }))
            }
            // Answered above.
            Request::Detach { .. }
            | Request::Stands { .. }
            | Request::Slot { .. }
            | Request::NoSlot { .. }
            | Request::Image { .. }
            | Request::Resolve { .. } => Reply::Terminated,
        }
    }

    /// What became of a transaction. A node that has restarted gives ids out again: its word proves nothing (hazard 38).
    pub(super) async fn status(&self, node: NodeId, database: &str, xid: u64) -> Result<Option<String>, String> {
        let before = self.first_incarnation(node).await;
        let c = self.connect_to(node, database).await?;
        let rows = c.rows(&format!("SELECT txid_status({xid}), ({INCARNATION})::text")).await?;
        let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
        let (status, now) = (row.next().flatten(), row.next().flatten());
        if now.is_none() || now != before {
            return Err("the node has restarted".into());
        }
        Ok(status)
    }

    async fn connect_to(&self, node: NodeId, database: &str) -> Result<Connection, String> {
        let address = self.config.nodes.get(usize::from(node.0)).ok_or("no such node")?;
        connect(address, &self.config.apply, database, self.live().connect_timeout).await
    }

    /// A connection to the node that is kept open: for questions that come often.
    pub(super) async fn kept(&self, node: NodeId) -> Result<Arc<Connection>, String> {
        let slot = self.kept.get(usize::from(node.0)).ok_or("no such node")?;
        let mut slot = slot.lock().await;
        if let Some(c) = slot.as_ref().filter(|c| !c.client.is_closed()) {
            return Ok(c.clone());
        }
        let c = Arc::new(self.connect_to(node, &self.config.auth_database).await?);
        *slot = Some(c.clone());
        Ok(c)
    }

    /// Asks on a new connection: an old one of a server that is stopping still answers (hazard 39).
    async fn probe_backend(&self, node: NodeId, pid: u32) -> Probe {
        let limit = self.live().health_check_timeout;
        let limit = if limit.is_zero() { self.live().connect_timeout } else { limit };
        let asked = tokio::time::timeout(limit, async {
            let c = self.connect_to(node, &self.config.auth_database).await?;
            let sql = format!("SELECT coalesce(wait_event_type, '') FROM pg_stat_activity WHERE pid = {pid}");
            c.value(&sql).await
        });
        match asked.await {
            Ok(Ok(Some(wait))) if wait == "Lock" => Probe::WaitsForLock,
            Ok(Ok(Some(_))) => Probe::Works,
            Ok(Ok(None)) => Probe::Gone,
            Ok(Err(e)) => Probe::Unreachable(e),
            Err(_) => Probe::Unreachable(format!("no answer within {limit:?}")),
        }
    }

    /// Ends what main has prepared under this name, if there is such a thing.
    pub(super) async fn prepared(&self, database: &str, gid: &str, commit: bool) -> Fate {
        let main = self.membership.load().main;
        let ended = async {
            let c = self.connect_to(main, database).await?;
            let gid = literal(gid);
            if c.value(&format!("SELECT 1 FROM pg_prepared_xacts WHERE gid = {gid}")).await?.is_none() {
                return Ok(Fate::Nothing);
            }
            let (how, fate) = if commit { ("COMMIT", Fate::Committed) } else { ("ROLLBACK", Fate::Aborted) };
            c.rows(&format!("{how} PREPARED {gid}")).await?;
            Ok::<_, String>(fate)
        };
        ended.await.unwrap_or_else(|error| {
            tracing::error!(%error, gid, "a prepared transaction on main could not be ended");
            Fate::Unknown
        })
    }

    /// Rolls back, or commits, what a lost session has prepared, or what its backend may still prepare: tried until it is done, or the
    /// node is main no more (then it is stale, and what it has prepared is rolled back at the next start).
    async fn resolve(&self, node: NodeId, pid: u32, database: &str, gid: &str, commit: bool) {
        while self.membership.load().main == node {
            let gone = async { backend_gone(&*self.kept(node).await?, pid).await };
            if gone.await.unwrap_or(false) && self.prepared(database, gid, commit).await != Fate::Unknown {
                return;
            }
            tokio::time::sleep(RESOLVE_AGAIN).await;
        }
    }

    pub(super) async fn role(self: &Arc<Self>, user: &str) -> Result<Option<RoleRow>, String> {
        let mut failed = String::new();
        for attempt in 0..3 {
            if attempt == 2 && !self.settle_main().await {
                break;
            }
            let main = self.membership.load().main;
            let asked = async { role(&*self.auth_connection(main).await?, user).await };
            match asked.await {
                Ok(r) => return Ok(r),
                Err(e) => failed = e,
            }
            *self.auth.lock().await = None;
        }
        Err(failed)
    }

    /// Main does not answer as it should: another one is waited for, if it is lost. False: there is none.
    async fn settle_main(self: &Arc<Self>) -> bool {
        let main = self.membership.load().main;
        !matches!(self.settle(main).await, Standing::Stays(_))
    }

    async fn auth_connection(&self, main: NodeId) -> Result<Arc<Connection>, String> {
        let mut slot = self.auth.lock().await;
        if let Some(c) = &*slot {
            if !c.client.is_closed() {
                return Ok(c.clone());
            }
        }
        let address = self.config.nodes.get(usize::from(main.0)).ok_or("no such node")?;
        let c = connect(address, &self.config.auth, &self.config.auth_database, self.live().connect_timeout).await?;
        let c = Arc::new(c);
        *slot = Some(c.clone());
        Ok(c)
    }

    pub(super) async fn catalogue(self: &Arc<Self>, database: &str) -> Result<Vec<Rows>, String> {
        match self.read_catalogue(database).await {
            Err(_) if self.settle_main().await => self.read_catalogue(database).await,
            read => read,
        }
    }

    /// A connection of its own, closed at once: one that stayed would keep the database from being dropped.
    async fn read_catalogue(self: &Arc<Self>, database: &str) -> Result<Vec<Rows>, String> {
        let main = self.membership.load().main;
        let c = self.connect_to(main, database).await?;
        let mut all = Vec::new();
        for sql in self.config.catalogue_queries {
            all.push(c.rows(sql).await?);
        }
        self.foresee_decoder(database, &c).await;
        Ok(all)
    }
}
