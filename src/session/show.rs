//! What `SHOW POOL_NODES` and `SHOW pglockstep.nodes` answer, in both protocols (Pgpool-II: by the simple one only).
//!
//! It is said as of the moment in which the statement is executed, by the membership that this shard has confirmed. In a
//! failed block it is refused as anything else is; ReadyForQuery tells the block's own state.

use bytes::{BufMut, Bytes, BytesMut};

use super::Session;
use super::io::Cx;
use super::lost::is_aborted;
use super::reader::{Reader, pick_node};
use super::simple::Went;
use super::transaction::Target;
use crate::cluster::board::Reach;
use crate::sequencer::NodeId;
use crate::sql::class::Class;
use crate::sql::show::Shown;
use crate::wire::{TxStatus, back};

/// OID of text (pg_type.dat).
const TEXT: u32 = 25;

impl Session {
    /// By the simple protocol: no server hears of it.
    pub(super) fn simple_show(&mut self, shown: Shown, cx: &mut Cx<'_>) -> Went {
        if self.status() == TxStatus::Failed {
            return self.refuse(&is_aborted(), cx);
        }
        let rows = self.shown_rows(shown, cx);
        self.out.push(description(shown));
        let tag = format!("SELECT {}", rows.len());
        rows.into_iter().for_each(|row| self.out.push(row));
        self.local_complete(back::command_complete(&tag));
        Went::Done
    }

    /// A DataRow for each node.
    pub(super) fn shown_rows(&mut self, shown: Shown, cx: &mut Cx<'_>) -> Vec<Bytes> {
        let reads_from = self.reads_from(cx);
        let (m, env) = (cx.env.membership.load(), cx.env);
        let weights: f64 = env.config.nodes.iter().map(|n| n.backend_weight).sum();
        let rows = env.config.nodes.iter().map(|n| {
            let node = NodeId(n.id);
            let role = if node == m.main { "main" } else { "replica" }.to_owned();
            let up = m.is_up(node);
            let selects = env.board.selects(node).to_string();
            let changed = env.board.last_change(node);
            let status = m.status.get(usize::from(n.id)).map_or_else(String::new, ToString::to_string);
            row(&match shown {
                Shown::PoolNodes => vec![
                    n.id.to_string(),
                    n.backend_hostname.clone(),
                    n.backend_port.to_string(),
                    // Pgpool-II has no other words for a node that is not used.
                    if up { "up" } else { "down" }.to_owned(),
                    match env.board.reach(node) {
                        Reach::Answers => "up",
                        Reach::Fails => "down",
                        Reach::Unknown => "unknown",
                    }
                    .to_owned(),
                    format!("{:.6}", if weights > 0.0 { n.backend_weight / weights } else { 0.0 }),
                    role.clone(),
                    role,
                    selects,
                    (node == reads_from).to_string(),
                    "0".to_owned(),
                    String::new(),
                    String::new(),
                    changed,
                ],
                Shown::Nodes => vec![
                    n.id.to_string(),
                    format!("{}:{}", n.backend_hostname, n.backend_port),
                    status,
                    role,
                    m.epoch.to_string(),
                    if up { env.sequencer.watermark(node).to_string() } else { String::new() },
                    match env.board.reach(node) {
                        Reach::Answers => "yes",
                        Reach::Fails => "no",
                        Reach::Unknown => "unknown",
                    }
                    .to_owned(),
                    selects,
                    changed,
                    env.board.reason(node).to_string(),
                ],
            })
        });
        rows.collect()
    }

    /// The node that the session's reads go to; chosen now if none was.
    fn reads_from(&mut self, cx: &mut Cx<'_>) -> NodeId {
        let main = Self::main_node(cx);
        match &self.reader {
            Reader::Ready(l) | Reader::Opening(l) => l.node,
            Reader::Lane => main,
            Reader::None if !cx.env.config.load_balance.load_balance_mode => main,
            Reader::None => {
                self.chosen = self.chosen.or_else(|| pick_node(cx));
                self.chosen.unwrap_or(main)
            }
        }
    }

    /// A client's statement is sent to a server: SELECTs are counted.
    pub(super) fn count_select(&self, class: &Class, target: Target, cx: &Cx<'_>) {
        if let (Class::Select { .. }, Some(link)) = (class, self.link_ref(target)) {
            cx.env.board.count_select(cx.env.shard, link.node);
        }
    }
}

/// RowDescription.
fn description(shown: Shown) -> Bytes {
    let mut out = BytesMut::new();
    back::message(&mut out, b'T', |b| {
        b.put_u16(u16::try_from(shown.columns().len()).unwrap_or_default());
        for name in shown.columns() {
            b.put_slice(name.as_bytes());
            b.put_u8(0);
            b.put_u32(0);
            b.put_u16(0);
            b.put_u32(TEXT);
            b.put_i16(-1);
            b.put_i32(-1);
            b.put_u16(0);
        }
    });
    out.freeze()
}

/// DataRow of texts, which are the same in binary.
pub(super) fn row(values: &[String]) -> Bytes {
    let mut out = BytesMut::new();
    back::message(&mut out, b'D', |b| {
        b.put_u16(u16::try_from(values.len()).unwrap_or_default());
        for value in values {
            b.put_u32(u32::try_from(value.len()).unwrap_or_default());
            b.put_slice(value.as_bytes());
        }
    });
    out.freeze()
}
