//! A trigger: AFTER INSERT OR UPDATE OR DELETE, FOR EACH ROW, of the function `audit()`. It is known as it stands here, and
//! no other is:
//!
//! ```sql
//! INSERT INTO audit (tracked, was, becomes, at)
//!  VALUES (coalesce(new.id, old.id), old.n, new.n, clock_timestamp()); RETURN NULL;
//! ```
//!
//! The number of the row and the time are each node's own: run on two nodes, the statement that fires it leaves different
//! rows.

use std::rc::Rc;

use super::exec::Outcome;
use super::session::{Block, Session};
use super::table::Table;
use super::value::{Res, Row, Value, unknown};

/// The table into which it writes.
const INTO: &str = "audit";

/// A row's change: the table, the row before, the row now.
pub type Audit = (Rc<Table>, Option<Row>, Option<Row>);

impl Session {
    /// CREATE TRIGGER.
    pub async fn create_trigger(&mut self, name: &str) -> Res<Outcome> {
        if self.block != Block::Single {
            return Err(unknown("CREATE TRIGGER within a transaction"));
        }
        let table = self.look().table(name)?;
        let lsn = self.server().txns.log_other();
        self.make_durable(lsn).await;
        self.server().audited.insert(table.oid);
        Ok(Outcome::done("CREATE TRIGGER"))
    }

    /// The trigger is to fire when the statement is done, if there is one.
    pub fn queue_audit(&mut self, table: &Rc<Table>, old: Option<&[Value]>, new: Option<&[Value]>) {
        if self.look().audited.contains(&table.oid) {
            self.audits.push((table.clone(), old.map(<[Value]>::to_vec), new.map(<[Value]>::to_vec)));
        }
    }

    /// It fires (AfterTriggerEndQuery).
    pub async fn audit(&mut self) -> Res<()> {
        for (table, old, new) in std::mem::take(&mut self.audits) {
            let into = self.look().table(INTO)?;
            let column = |row: &Option<Row>, name: &str| {
                let at = table.column(name)?;
                row.as_ref()?.get(at).cloned()
            };
            let id = column(&new, "id").or(column(&old, "id"));
            let at = Value::Time(self.look().clock());
            let given = [id, column(&old, "n"), column(&new, "n"), Some(at)];
            let given = given.into_iter().map(|v| v.unwrap_or(Value::Null)).collect();
            let names = ["tracked", "was", "becomes", "at"].map(str::to_owned);
            let places = into.places(&names)?;
            // Each of its statements is a command of its own.
            self.tx().command += 1;
            let command = self.tx().command;
            let row = self.complete_row(&into, &places, given)?;
            self.insert_row(&into, &row, command).await?;
        }
        Ok(())
    }
}
