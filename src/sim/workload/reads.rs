//! Statements that only read.

use super::maker::Maker;
use super::{ACCOUNTS, FEW, LIST, Read, Statement};

impl Maker {
    pub(super) fn list(&mut self, k: i64) -> Statement {
        let sql = "SELECT tx, $2 FROM items WHERE list = $1 ORDER BY seq";
        // Who has answered is seen in its text.
        Statement { binary: false, ..self.rows(sql, "SELECT", &[k], 2, Read::List(k)) }
    }

    /// How long a list is, from the one row that says so.
    pub(super) fn length(&mut self) -> Statement {
        let k = self.few();
        self.rows("SELECT n, $2 FROM lists WHERE id = $1", "SELECT", &[k], 2, Read::Length(k))
    }

    fn balance(&mut self, k: i64) -> Statement {
        self.rows("SELECT balance, $2 FROM ledgers WHERE id = $1", "SELECT", &[k], 2, Read::Balance(k))
    }

    fn entries(&mut self, k: i64) -> Statement {
        self.rows("SELECT amount, $2 FROM entries WHERE ledger = $1", "SELECT", &[k], 2, Read::Entries(k))
    }

    pub(super) fn accounts(&mut self) -> Statement {
        self.rows("SELECT balance, $1 FROM accounts ORDER BY id", "SELECT", &[], 2, Read::Accounts)
    }

    /// All lists in one statement.
    pub(super) fn view(&mut self) -> Statement {
        let sql = format!("SELECT list * {LIST} + tx, $1 FROM items ORDER BY list, seq");
        Statement { binary: false, ..self.rows(sql, "SELECT", &[], 2, Read::Lists) }
    }

    pub(super) fn read(&mut self) -> Statement {
        match self.random.below(6) {
            5 => self.view(),
            0 => self.rows("SELECT $1", "SELECT", &[], 1, Read::Nothing),
            1 => {
                let sql = "SELECT sum(balance), max($1::int) FROM accounts";
                // numeric in binary is nothing that a client of few lines reads.
                Statement { binary: false, ..self.rows(sql, "SELECT", &[], 2, Read::Total) }
            }
            2 => self.accounts(),
            3 => {
                let k = self.few();
                if self.random.percent(50) { self.balance(k) } else { self.entries(k) }
            }
            _ => {
                let k = self.few();
                self.list(k)
            }
        }
    }

    /// All lists.
    pub(super) fn all_lists(&mut self) -> Vec<Statement> {
        let first = self.few();
        (0..FEW).map(|i| self.list(1 + (first + i) % FEW)).collect()
    }

    /// All accounts, one by one.
    pub(super) fn all_accounts(&mut self) -> Vec<Statement> {
        let first = self.random.between(0, ACCOUNTS - 1);
        let sql = "SELECT balance, $2 FROM accounts WHERE id = $1";
        let one =
            |i| self.rows(sql, "SELECT", &[1 + (first + i) % ACCOUNTS], 2, Read::Account(1 + (first + i) % ACCOUNTS));
        (0..ACCOUNTS).map(one).collect()
    }

    /// Balances and entries, in any order.
    pub(super) fn all_ledgers(&mut self) -> Vec<Statement> {
        let first = self.few();
        let ledgers = (0..FEW).map(|i| 1 + (first + i) % FEW);
        ledgers
            .flat_map(|k| {
                let both = [self.balance(k), self.entries(k)];
                let [a, b] = both;
                if self.random.percent(50) { [a, b] } else { [b, a] }
            })
            .collect()
    }
}
