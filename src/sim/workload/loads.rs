//! Several rows at once: COPY FROM STDIN, and INSERT whose rows come back.

use super::maker::Maker;
use super::{Copy, CopyEnd, Effect, Read, Statement};

/// Most rows of a load.
const ROWS_MAX: i64 = 5;

impl Maker {
    /// COPY of these rows. Now and then it does not end well.
    pub(super) fn copy(&mut self, sql: &str, rows: &[&[i64]]) -> Statement {
        let line = |row: &&[i64]| row.iter().map(i64::to_string).collect::<Vec<_>>().join("\t") + "\n";
        let mut lines: Vec<String> = rows.iter().map(line).collect();
        let end = match self.random.below(20) {
            0 => CopyEnd::Fail,
            1 => {
                let at = self.random.below(lines.len());
                lines[at].insert_str(0, "1\t");
                CopyEnd::Malformed
            }
            _ => CopyEnd::Done,
        };
        Statement { copy: Some(Copy { lines, end }), ..self.plain(sql, "COPY", &[]) }
    }

    /// The transaction's own row.
    pub(super) fn marker(&mut self) -> Statement {
        let (client, n) = (self.client, self.next);
        if self.random.percent(10) {
            return self.copy("COPY marker (n, client) FROM STDIN", &[&[n, client]]);
        }
        self.write("INSERT INTO marker VALUES ($1, $2)", "INSERT", &[client, n])
    }

    /// Rows that are there all or not at all.
    pub(super) fn load(&mut self, effects: &mut Vec<Effect>) -> Vec<Statement> {
        let (client, n) = (self.client, self.next);
        let rows = self.random.between(1, ROWS_MAX);
        effects.push(Effect::Load(n, usize::try_from(rows).unwrap_or(0)));
        if self.random.percent(60) {
            let rows: Vec<[i64; 3]> = (1..=rows).map(|part| [client, n, part]).collect();
            let rows: Vec<&[i64]> = rows.iter().map(<[i64; 3]>::as_slice).collect();
            // In one or in two.
            let (a, b) = rows.split_at(if self.random.percent(30) { rows.len() / 2 } else { 0 });
            return [a, b]
                .into_iter()
                .filter(|r| !r.is_empty())
                .map(|r| self.copy("COPY loads FROM STDIN", r))
                .collect();
        }
        let tuples: Vec<String> = (3..3 + rows).map(|i| format!("($1, $2, ${i})")).collect();
        let values: Vec<i64> = [client, n].into_iter().chain(1..=rows).collect();
        let sql = format!("INSERT INTO loads VALUES {} RETURNING part, ${}", tuples.join(", "), rows + 3);
        let s = self.rows(sql, "INSERT", &values, 2, Read::Nothing);
        vec![Statement { rows: u32::try_from(rows).ok(), ..s }]
    }
}
