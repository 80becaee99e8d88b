//! An order-independent digest of the rows that a RETURNING clause showed.
//!
//! Rows come back in physical order, which is each node's own: so each row is hashed by itself and the hashes are
//! added. Types of a database's own have another OID on every node, and arrays and records carry it inside when they
//! travel in binary: it is left out, as the server leaves it out of account when it reads them (array_recv,
//! record_recv). 128 bits: two SipHash-1-3 with different prefixes (`std`'s `DefaultHasher`, whose keys are fixed).

use std::hash::{DefaultHasher, Hasher};

use crate::wire::FIRST_OWN_OID;

/// The digest of a set of rows (with duplicates counted).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    sum: u128,
    rows: u64,
}

/// Rows up to this many bytes are looked into; longer ones are hashed as they come, OIDs included.
const LOOKED_INTO: usize = 64 * 1024;
/// MAXDIM of arrays (utils/array.h), and columns of a record (MaxTupleAttributeNumber in access/htup_details.h).
const MAX_DIMENSIONS: usize = 6;
const MAX_COLUMNS: usize = 1664;
/// How deep arrays in records in arrays are followed.
const MAX_DEPTH: usize = 4;

/// Hashes DataRow messages that may arrive in parts.
#[derive(Clone, Debug, Default)]
pub struct RowHasher {
    digest: Digest,
    row: Option<(DefaultHasher, DefaultHasher)>,
    /// The beginning of a row that is looked into when it is complete.
    begun: Vec<u8>,
    /// The row is long.
    long: bool,
    /// Places of OIDs in the row at hand.
    oids: Vec<usize>,
}

impl RowHasher {
    /// Adds a part of a DataRow message; `last` ends the row.
    pub fn part(&mut self, bytes: &[u8], last: bool) {
        if !self.long && self.begun.is_empty() && last && bytes.len() <= LOOKED_INTO {
            self.whole(bytes);
        } else if !self.long && self.begun.len() + bytes.len() <= LOOKED_INTO {
            self.begun.extend_from_slice(bytes);
            if last {
                let row = std::mem::take(&mut self.begun);
                self.whole(&row);
            }
        } else {
            self.long = true;
            let begun = std::mem::take(&mut self.begun);
            self.write(&begun);
            self.write(bytes);
        }
        if last {
            self.long = false;
            let Some((a, b)) = self.row.take() else { return };
            let row = (u128::from(a.finish()) << 64) | u128::from(b.finish());
            self.digest.sum = self.digest.sum.wrapping_add(row);
            self.digest.rows += 1;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let (a, b) = self.row.get_or_insert_with(|| {
            let (a, mut b) = (DefaultHasher::new(), DefaultHasher::new());
            b.write_u8(0x5c);
            (a, b)
        });
        a.write(bytes);
        b.write(bytes);
    }

    /// A whole row, without the OIDs in it.
    fn whole(&mut self, row: &[u8]) {
        let mut oids = std::mem::take(&mut self.oids);
        // Behind tag, length and number of columns.
        let mut at = 7;
        while let Some((start, end)) = value(row, at) {
            own_oids(row, start, end, MAX_DEPTH, &mut oids);
            at = end;
        }
        let mut from = 0;
        for &oid in &oids {
            self.write(&row[from..oid]);
            from = oid + 4;
        }
        self.write(&row[from..]);
        oids.clear();
        self.oids = oids;
    }

    /// The digest of all rows so far; begins anew.
    pub fn take(&mut self) -> Digest {
        self.row = None;
        self.begun.clear();
        self.long = false;
        std::mem::take(&mut self.digest)
    }
}

/// Where the value is whose length stands at `at`; NULL has no bytes.
fn value(row: &[u8], at: usize) -> Option<(usize, usize)> {
    let length = i32::from_be_bytes(row.get(at..at + 4)?.try_into().ok()?);
    let end = at + 4 + usize::try_from(length).unwrap_or(0);
    (end <= row.len()).then_some((at + 4, end))
}

fn number(row: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(row.get(at..at + 4)?.try_into().ok()?))
}

/// Adds the places, in order, of OIDs that are not built in, if `row[start..end]` is an array or a record in binary.
/// Which of its columns are is not known here, so the whole of the value must be in that form.
fn own_oids(row: &[u8], start: usize, end: usize, depth: usize, oids: &mut Vec<usize>) {
    if depth == 0 || end - start < 8 || row[start] != 0 {
        return;
    }
    let before = oids.len();
    let fits = array(&row[..end], start, depth, oids) || {
        oids.truncate(before);
        record(&row[..end], start, depth, oids)
    };
    if !fits {
        oids.truncate(before);
    }
}

/// array_send in arrayfuncs.c: dimensions, whether there are NULLs, the elements' type, sizes, elements.
fn array(row: &[u8], start: usize, depth: usize, oids: &mut Vec<usize>) -> bool {
    let (Some(dimensions), Some(nulls), Some(oid)) =
        (number(row, start), number(row, start + 4), number(row, start + 8))
    else {
        return false;
    };
    let dimensions = dimensions as usize;
    if dimensions > MAX_DIMENSIONS || nulls > 1 {
        return false;
    }
    if oid >= FIRST_OWN_OID {
        oids.push(start + 8);
    }
    let mut at = start + 12 + 8 * dimensions;
    if at > row.len() {
        return false;
    }
    while at < row.len() {
        let Some((from, to)) = value(row, at) else { return false };
        own_oids(row, from, to, depth - 1, oids);
        at = to;
    }
    true
}

/// record_send in rowtypes.c: the number of columns, and of each its type and value.
fn record(row: &[u8], start: usize, depth: usize, oids: &mut Vec<usize>) -> bool {
    let Some(columns) = number(row, start).map(|n| n as usize).filter(|n| (1..=MAX_COLUMNS).contains(n)) else {
        return false;
    };
    let mut at = start + 4;
    for _ in 0..columns {
        let (Some(oid), Some((from, to))) = (number(row, at), value(row, at + 4)) else { return false };
        if oid >= FIRST_OWN_OID {
            oids.push(at);
        }
        own_oids(row, from, to, depth - 1, oids);
        at = to;
    }
    at == row.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&[u8]]) -> Vec<u8> {
        let mut row = vec![b'D', 0, 0, 0, 0, 0, values.len() as u8];
        values.iter().for_each(|v| row.extend([&(v.len() as i32).to_be_bytes()[..], v].concat()));
        row
    }

    fn numbers(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    fn digest_of(row: &[u8], cut: usize) -> Digest {
        let mut h = RowHasher::default();
        h.part(&row[..cut], false);
        h.part(&row[cut..], true);
        let cut = h.take();
        h.part(row, true);
        assert_eq!(h.take(), cut, "cutting does not matter");
        cut
    }

    #[test]
    fn types_of_the_databases_own_may_have_other_numbers_and_nothing_else_may_differ() {
        // One dimension of one element of four bytes; and a record of it, an int4 and a text.
        let array = |oid, element| numbers(&[1, 0, oid, 1, 1, 4, element]);
        let record = |oid: u32, int4: u32| {
            let inner = array(oid, 7);
            let mut r = numbers(&[3, oid + 1, inner.len() as u32]);
            r.extend(inner);
            r.extend(numbers(&[23, 4, int4, 25, 4, 0x6162_6364]));
            r
        };
        let both = |oid, element, int4| digest_of(&row(&[b"x", &array(oid, element), &record(oid, int4)]), 30);
        assert_eq!(both(16_384, 5, 6), both(99_999, 5, 6));
        for other in [both(16_384, 4, 6), both(16_384, 5, 7), both(23, 5, 6)] {
            assert_ne!(both(16_384, 5, 6), other);
        }
        assert_ne!(both(23, 5, 6), both(25, 5, 6));
        // What only begins like one is compared whole.
        let odd = |oid| digest_of(&row(&[&[array(oid, 5), b"!".to_vec()].concat(), b"0000000000000000"]), 9);
        assert_ne!(odd(16_384), odd(99_999));
        assert_ne!(digest_of(&row(&[b"16384"]), 3), digest_of(&row(&[b"99999"]), 3));
        let long = |oid| digest_of(&row(&[&array(oid, 5), &vec![b'x'; LOOKED_INTO]]), 40_000);
        assert_ne!(long(16_384), long(99_999));
        assert_eq!(long(16_384), long(16_384));
    }

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
