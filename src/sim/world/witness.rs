//! Which node has answered which statement: seen in the rows that leave it, by their last column.

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
}

impl Witness {
    /// A backend has sent something.
    pub fn sent(&mut self, node: usize, backend: BackendId, bytes: &[u8], closed: bool) {
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
            }
        }
        if closed {
            self.torn.remove(&(node, backend));
        }
    }

    /// The node that has answered the statement with this number; `None` if several have, or none.
    pub fn place(&self, token: i64) -> Option<usize> {
        let nodes = self.places.get(&token)?;
        nodes.first().copied().filter(|_| nodes.len() == 1)
    }
}
