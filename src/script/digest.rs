//! An order-independent digest of the rows that a RETURNING clause showed.
//!
//! Rows come back in physical order, which is each node's own: so each row is hashed by itself and the hashes are
//! added. 128 bits: two SipHash-1-3 with different prefixes (`std`'s `DefaultHasher`, whose keys are fixed).

use std::hash::{DefaultHasher, Hasher};

/// The digest of a set of rows (with duplicates counted).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    sum: u128,
    rows: u64,
}

/// Hashes rows that may arrive in parts.
#[derive(Clone, Debug, Default)]
pub struct RowHasher {
    digest: Digest,
    row: Option<(DefaultHasher, DefaultHasher)>,
}

impl RowHasher {
    /// Adds a part of a DataRow message; `last` ends the row.
    pub fn part(&mut self, bytes: &[u8], last: bool) {
        let (a, b) = self.row.get_or_insert_with(|| {
            let (a, mut b) = (DefaultHasher::new(), DefaultHasher::new());
            b.write_u8(0x5c);
            (a, b)
        });
        a.write(bytes);
        b.write(bytes);
        if last {
            let row = (u128::from(a.finish()) << 64) | u128::from(b.finish());
            self.digest.sum = self.digest.sum.wrapping_add(row);
            self.digest.rows += 1;
            self.row = None;
        }
    }

    /// The digest of all rows so far; begins anew.
    pub fn take(&mut self) -> Digest {
        self.row = None;
        std::mem::take(&mut self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_cutting_do_not_matter_but_contents_and_multiplicity_do() {
        let digest = |rows: &[&[&[u8]]]| {
            let mut h = RowHasher::default();
            for row in rows {
                for (i, part) in row.iter().enumerate() {
                    h.part(part, i + 1 == row.len());
                }
            }
            h.take()
        };
        assert_eq!(digest(&[&[b"ab", b"c"], &[b"x"]]), digest(&[&[b"x"], &[b"a", b"bc"]]));
        assert_ne!(digest(&[&[b"a"]]), digest(&[&[b"a"], &[b"a"]]));
        assert_ne!(digest(&[&[b"a"], &[b"b"]]), digest(&[&[b"a"], &[b"c"]]));
    }
}
