//! What is seen without a graph: entries that are missing, that must not be there, and reads that are no version.

use std::collections::BTreeMap;

use super::{Anomaly, FIRST, History, Kind, Read, Transaction};

fn count(list: &[i64], id: i64) -> usize {
    list.iter().filter(|t| **t == id).count()
}

impl History {
    pub(super) fn check_entries(&self) -> Result<(), Anomaly> {
        let by_id: BTreeMap<i64, &Transaction> = self.transactions.iter().map(|t| (t.id, t)).collect();
        for (k, list) in &self.lists {
            for id in list.iter().filter(|id| **id != FIRST) {
                if !by_id.get(id).is_some_and(|t| t.committed) {
                    let what = format!("list {k} has an entry of {id}, which is not committed: {list:?}");
                    return Err(Anomaly { kind: Kind::Lost, what });
                }
            }
        }
        for t in &self.transactions {
            self.check_appends(t)?;
            t.reads.iter().try_for_each(|read| self.check_read(t, read))?;
        }
        Ok(())
    }

    /// A committed transaction's appends are all there, and nobody else's between them: it held the list's row.
    fn check_appends(&self, t: &Transaction) -> Result<(), Anomaly> {
        for k in t.appends.iter().filter(|_| t.committed) {
            let list = self.lists.get(k).map_or(&[][..], Vec::as_slice);
            let (meant, there) = (count(&t.appends, *k), count(list, t.id));
            if meant != there {
                let what = format!("{} appended {meant} times to list {k} and is there {there} times: {list:?}", t.id);
                return Err(Anomaly { kind: Kind::Lost, what });
            }
            let first = list.iter().position(|id| *id == t.id).unwrap_or(0);
            if list[first..first + there].iter().any(|id| *id != t.id) {
                let what = format!("list {k} has others' entries between those of {}: {list:?}", t.id);
                return Err(Anomaly { kind: Kind::G0, what });
            }
        }
        Ok(())
    }

    /// What was read, without the reader's own entries, is a beginning of the list, and has no one's entries in part.
    fn check_read(&self, t: &Transaction, read: &Read) -> Result<(), Anomaly> {
        let list = self.lists.get(&read.list).map_or(&[][..], Vec::as_slice);
        let told = || format!("{} read {:?} of list {}, which is {list:?}", t.id, read.entries, read.list);
        if let Some(id) = read.entries.iter().find(|id| **id != t.id && !list.contains(id)) {
            return Err(Anomaly { kind: Kind::G1a, what: format!("{}: {id} is not committed", told()) });
        }
        let others = |list: &[i64]| list.iter().copied().filter(|id| *id != t.id).collect::<Vec<_>>();
        let (seen, all) = (others(&read.entries), others(list));
        if !all.starts_with(&seen) {
            return Err(Anomaly { kind: Kind::NoVersion, what: told() });
        }
        if let Some(id) = seen.last().filter(|id| count(&seen, **id) != count(&all, **id)) {
            return Err(Anomaly { kind: Kind::G1b, what: format!("{}: only a part of {id}", told()) });
        }
        Ok(())
    }
}
