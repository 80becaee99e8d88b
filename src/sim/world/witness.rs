//! Which node has answered which statement, and from what snapshot: seen in the rows that leave it, by their last column.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use crate::session::transaction::Columns;
use crate::sim::node::BackendId;
use crate::wire::read_u32;

/// Looks at everything that nodes send.
#[derive(Debug, Default)]
pub(in crate::sim) struct Witness {
    /// What has come of each backend's next message.
    torn: BTreeMap<(usize, BackendId), BytesMut>,
    places: BTreeMap<i64, BTreeSet<usize>>,
    /// Statements to which a node sent rows when it was out.
    late: BTreeSet<i64>,
    /// Backends of replicas whose last snapshot was taken while a commit was between main and the last node.
    unsettled: BTreeSet<(usize, BackendId)>,
    /// Statements that such a backend has sent rows to.
    overtaken: BTreeSet<i64>,
    /// Statements that were sent rows of any other snapshot. With `busy_reads = "wait"` a replica may do so after one that
    /// was overtaken.
    settled: BTreeSet<i64>,
}

impl Witness {
    /// A backend has taken a snapshot. `settled`: one that any node could have taken.
    pub fn looked(&mut self, node: usize, backend: BackendId, settled: bool) {
        if settled {
            self.unsettled.remove(&(node, backend));
        } else {
            self.unsettled.insert((node, backend));
        }
    }

    /// A backend has sent something. `is_up`: its node is one of those in force.
    pub fn sent(&mut self, node: usize, backend: BackendId, bytes: &[u8], closed: bool, is_up: bool) {
        let buffer = self.torn.entry((node, backend)).or_default();
        buffer.extend_from_slice(bytes);
        while let Some(length) = buffer.get(1..).and_then(read_u32) {
            let length = length as usize + 1;
            if buffer.len() < length {
                break;
            }
            let message = buffer.split_to(length);
            let last = (message[0] == b'D').then(|| Columns::new(&message)).flatten().and_then(Iterator::last);
            let token = last.flatten().and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
            if let Some(token) = token {
                self.places.entry(token).or_default().insert(node);
                if !is_up {
                    self.late.insert(token);
                }
                let of_which =
                    if self.unsettled.contains(&(node, backend)) { &mut self.overtaken } else { &mut self.settled };
                of_which.insert(token);
            }
        }
        if closed {
            self.torn.remove(&(node, backend));
            self.unsettled.remove(&(node, backend));
        }
    }

    /// Rows of this statement came from a snapshot of a replica that a commit had overtaken, and from no other one.
    pub fn is_overtaken(&self, token: i64) -> bool {
        self.overtaken.contains(&token) && !self.settled.contains(&token) && self.place(token).is_some()
    }

    /// Rows of this statement came from a node that was out, and from no other.
    pub fn is_late(&self, token: i64) -> bool {
        self.late.contains(&token) && self.place(token).is_some()
    }

    /// The node that has answered the statement with this number; `None` if several have, or none.
    pub fn place(&self, token: i64) -> Option<usize> {
        let nodes = self.places.get(&token)?;
        nodes.first().copied().filter(|_| nodes.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[&str]) -> Vec<u8> {
        let mut body = vec![0, u8::try_from(columns.len()).unwrap()];
        for c in columns {
            body.extend_from_slice(&u32::try_from(c.len()).unwrap().to_be_bytes());
            body.extend_from_slice(c.as_bytes());
        }
        let length = u32::try_from(body.len() + 4).unwrap();
        [&b"D"[..], &length.to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn the_last_column_of_a_torn_row_tells_who_answered_and_two_answers_tell_nothing() {
        let mut w = Witness::default();
        let bytes = row(&["5", "17"]);
        w.sent(1, BackendId(3), &bytes[..4], false, true);
        assert_eq!(w.place(17), None);
        w.sent(1, BackendId(3), &bytes[4..], false, true);
        assert_eq!((w.place(17), w.place(5)), (Some(1), None));
        w.sent(2, BackendId(3), &bytes, true, false);
        assert_eq!((w.place(17), w.is_late(17)), (None, false));
        w.sent(2, BackendId(4), &row(&["18"]), true, false);
        assert!(w.is_late(18) && !w.is_overtaken(18));
        w.looked(2, BackendId(5), false);
        w.sent(2, BackendId(5), &row(&["19"]), false, true);
        w.looked(2, BackendId(5), true);
        w.sent(2, BackendId(5), &row(&["20"]), false, true);
        assert!(w.is_overtaken(19) && !w.is_overtaken(20));
        // Run again in the gate.
        w.sent(2, BackendId(5), &row(&["19"]), false, true);
        assert!(!w.is_overtaken(19));
    }
}
