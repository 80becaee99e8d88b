//! Transactions that write rows: the bank, counters, ledgers, unique keys, families, keys that move, lists.

use super::maker::Maker;
use super::{ACCOUNTS, Arg, Effect, Read, Statement};

impl Maker {
    pub(super) fn transfer(&mut self) -> Vec<Statement> {
        let amount = self.random.between(1, 9);
        let from = self.random.between(1, ACCOUNTS);
        let to = 1 + (from + self.random.between(0, ACCOUNTS - 2)) % ACCOUNTS;
        let take = self.write("UPDATE accounts SET balance = balance - $1 WHERE id = $2", "UPDATE", &[amount, from]);
        let give = self.write("UPDATE accounts SET balance = balance + $1 WHERE id = $2", "UPDATE", &[amount, to]);
        vec![take, give]
    }

    fn increment(&mut self, k: i64) -> Statement {
        self.write("UPDATE counters SET n = n + 1 WHERE id = $1", "UPDATE", &[k])
    }

    /// A single increment.
    pub(super) fn counter(&mut self) -> (i64, Vec<Statement>) {
        let k = self.few();
        (k, vec![self.increment(k)])
    }

    pub(super) fn counters(&mut self, effects: &mut Vec<Effect>) -> Vec<Statement> {
        let mut all = Vec::new();
        for _ in 0..self.random.between(1, 4) {
            let k = self.few();
            effects.push(Effect::Counter(k));
            all.push(self.increment(k));
        }
        all
    }

    /// An entry, and the balance that it changes, of one ledger or two.
    pub(super) fn ledger(&mut self) -> Vec<Statement> {
        let (first, both) = (self.few(), self.random.percent(30));
        let mut all = Vec::new();
        for ledger in [first, first % super::FEW + 1].into_iter().take(1 + usize::from(both)) {
            let (amount, n, client) = (self.random.between(1, 50), self.next, self.client);
            let entry = if self.random.percent(30) {
                self.copy("COPY entries FROM STDIN", &[&[ledger, client, n, amount]])
            } else {
                self.write("INSERT INTO entries VALUES ($1, $2, $3, $4)", "INSERT", &[ledger, client, n, amount])
            };
            let balance =
                self.write("UPDATE ledgers SET balance = balance + $1 WHERE id = $2", "UPDATE", &[amount, ledger]);
            let pair = if self.random.percent(50) { [entry, balance] } else { [balance, entry] };
            all.extend(pair);
        }
        all
    }

    pub(super) fn unique(&mut self) -> Vec<Statement> {
        let (id, k, client) = (self.one_of(12), self.one_of(8), self.client);
        let conflict = ["", " ON CONFLICT DO NOTHING", " ON CONFLICT (k) DO UPDATE SET who = uniq.who + 1"];
        let way = self.random.below(5);
        let insert = match conflict.get(way) {
            Some(conflict) => {
                self.write(&format!("INSERT INTO uniq VALUES ($1, $2, $3){conflict}"), "INSERT", &[id, k, client])
            }
            None => {
                let (more, other) = (20 + self.one_of(12), self.one_of(8));
                self.copy("COPY uniq FROM STDIN", &[&[id, k, client], &[more, other, client]])
            }
        };
        let mut all = vec![insert];
        if self.random.percent(40) {
            let gone = self.one_of(8);
            all.push(self.write("DELETE FROM uniq WHERE k = $1", "DELETE", &[gone]));
        }
        all
    }

    fn add_to_key(&mut self, k: i64) -> Statement {
        self.write("UPDATE keys SET v = v + $1 WHERE id = $2", "UPDATE", &[3, k])
    }

    fn double_key(&mut self, k: i64) -> Statement {
        self.write("UPDATE keys SET v = v * 2 % 1000003 WHERE id = $1", "UPDATE", &[k])
    }

    /// What follows COMMIT: nothing that is counted as the block's.
    pub(super) fn tail(&mut self) -> Vec<Statement> {
        let k = self.few();
        let mut all = vec![self.add_to_key(k)];
        if self.random.percent(40) {
            all.push(self.double_key(k));
        }
        if self.random.percent(40) {
            let at = self.random.below(all.len() + 1);
            let read = self.accounts();
            all.insert(at, read);
        }
        all
    }

    /// Parts that are taken back, or may be. True: whatever fails, it may be sent at once.
    pub(super) fn savepoints(&mut self) -> (Vec<Statement>, bool) {
        let way = self.random.below(4);
        let mut inside = self.unique();
        if way > 0 {
            let k = self.few();
            inside.push(self.add_to_key(k));
        }
        if way == 3 {
            // One within the other: only that goes.
            let k = self.few();
            let mut deeper = vec![self.plain("SAVEPOINT u", "SAVEPOINT", &[]), self.double_key(k)];
            deeper.extend(self.unique());
            deeper[1..].iter_mut().for_each(|s| s.savepoint = Some("u"));
            inside.extend(deeper);
            if self.random.percent(50) {
                inside.push(self.plain("RELEASE SAVEPOINT u", "RELEASE", &[]));
            }
        }
        for s in inside.iter_mut().filter(|s| !matches!(s.tag, "SAVEPOINT" | "RELEASE")) {
            s.savepoint.get_or_insert("s");
        }
        let mut all = vec![self.plain("SAVEPOINT s", "SAVEPOINT", &[])];
        all.extend(inside);
        match way {
            // Nothing of it stays, so that it does not matter what failed.
            1 => all.push(self.plain("ROLLBACK TO SAVEPOINT s", "ROLLBACK", &[])),
            2 | 3 if self.random.percent(70) => all.push(self.plain("RELEASE SAVEPOINT s", "RELEASE", &[])),
            _ => {}
        }
        let k = self.few();
        all.push(self.double_key(k));
        (all, way == 1)
    }

    pub(super) fn family(&mut self) -> Vec<Statement> {
        let (p, c) = (self.one_of(6), self.one_of(8));
        let other = self.one_of(6);
        let mut all = Vec::new();
        match self.random.below(5) {
            0 => {
                all.push(self.write("INSERT INTO child VALUES ($1, $2)", "INSERT", &[c, p]));
                all.push(self.write("INSERT INTO parent VALUES ($1) ON CONFLICT DO NOTHING", "INSERT", &[p]));
            }
            1 => all.push(self.write("UPDATE child SET parent = $1 WHERE id = $2", "UPDATE", &[other, c])),
            2 => {
                all.push(self.write("DELETE FROM child WHERE id = $1", "DELETE", &[c]));
                all.push(self.write("DELETE FROM parent WHERE id = $1", "DELETE", &[p]));
            }
            3 => all.push(self.copy("COPY child FROM STDIN", &[&[c, p], &[10 + c, other]])),
            _ => {
                all.push(self.write("DELETE FROM parent WHERE id = $1", "DELETE", &[p]));
                all.push(self.write("DELETE FROM child WHERE id = $1", "DELETE", &[c]));
            }
        }
        all
    }

    pub(super) fn keys(&mut self) -> Vec<Statement> {
        let (a, b) = (self.one_of(6), self.one_of(6));
        match self.random.below(5) {
            0 => vec![self.write("UPDATE keys SET id = $1, v = v + 1 WHERE id = $2", "UPDATE", &[b, a])],
            1 => {
                // Swapped by way of a key that nobody else has.
                let aside = 1000 + self.client;
                let moves = [(a, aside), (b, a), (aside, b)];
                moves.map(|(x, y)| self.write("UPDATE keys SET id = $1 WHERE id = $2", "UPDATE", &[y, x])).into()
            }
            2 => {
                let gone = self.write("DELETE FROM keys WHERE id = $1", "DELETE", &[a]);
                let client = self.client;
                let back = self.write("INSERT INTO keys VALUES ($1, $2)", "INSERT", &[a, client]);
                vec![gone, back]
            }
            3 if self.mix.ranges => vec![self.write("UPDATE keys SET v = v + 1 WHERE id >= $1", "UPDATE", &[a])],
            _ => vec![self.double_key(a), self.add_to_key(b)],
        }
    }

    /// Appends to one or two lists, after having read one.
    pub(super) fn append(&mut self, effects: &mut Vec<Effect>) -> Vec<Statement> {
        let mut all = Vec::new();
        let mut k = self.few();
        if self.random.percent(70) {
            all.push(self.list(k));
            // What it appends to another list rests on what it has read in this one, and no row lock says so.
            k = k % super::FEW + 1;
        }
        let id = self.client * 1000 + self.next;
        for i in 0..self.random.between(1, 2) {
            if i > 0 {
                k = self.few();
            }
            effects.push(Effect::Append(k));
            let sql = "UPDATE lists SET n = n + 1 WHERE id = $1 RETURNING n, $2";
            all.push(self.rows(sql, "UPDATE", &[k], 2, Read::Keep));
            let mut item = self.write("INSERT INTO items VALUES ($1, $2, $3)", "INSERT", &[k, 0, id]);
            item.values[1] = Arg::Kept;
            all.push(item);
        }
        all
    }
}
