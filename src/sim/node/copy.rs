//! COPY FROM STDIN in text format (copyfrom.c, copyfromparse.c).

use bytes::{BufMut, BytesMut};

use super::exec::Outcome;
use super::protocol::{GONE, text};
use super::session::Session;
use super::table::Table;
use super::value::{Res, Row, Value, unknown};
use crate::wire::{PgError, back};

impl Session {
    /// COPY FROM STDIN in text format.
    pub async fn copy_in(&mut self, name: &str, columns: &[String]) -> Res<Outcome> {
        let table = self.look().table(name)?;
        self.check_writable("COPY FROM")?;
        let columns = table.places(columns)?;
        let snapshot = self.snapshot();
        let mut out = BytesMut::new();
        back::message(&mut out, b'G', |b| {
            b.put_u8(0);
            b.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX)); // a table has at most 1600 columns
            columns.iter().for_each(|_| b.put_u16(0));
        });
        self.send(&out);
        self.me().flush();
        let mut data = Vec::new();
        let mut rows = Vec::new();
        loop {
            let Some((tag, body)) = self.read(false, false).await? else {
                return Err(PgError::fatal(GONE, "unexpected EOF on client connection with an open transaction"));
            };
            match tag {
                b'd' => data.extend_from_slice(&body),
                b'c' => break,
                b'f' => {
                    let why = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(&body)).into_owned();
                    return Err(PgError::error("57014", format!("COPY from stdin failed: {why}")));
                }
                // Ignored within COPY (CopyGetData in copyfromparse.c).
                b'H' | b'S' => {}
                other => {
                    let e = format!("unexpected message type 0x{other:02X} during COPY from stdin");
                    return Err(PgError::error("08P01", e));
                }
            }
            while let Some(end) = memchr::memchr(b'\n', &data) {
                let line: Vec<u8> = data.drain(..=end).take(end).collect();
                rows.push(copy_line(&table, &columns, &line)?);
                self.interrupts()?;
            }
        }
        if !data.is_empty() {
            rows.push(copy_line(&table, &columns, &data)?);
        }
        let count = rows.len();
        for values in rows {
            let row = self.complete_row(&table, &columns, values)?;
            let tid = self.insert_row(&table, &row, snapshot.command).await?;
            self.queue_checks(&table, None, Some((tid, &row)));
        }
        self.fire_events().await?;
        Ok(Outcome::done(format!("COPY {count}")))
    }
}

/// One line of COPY's text format.
fn copy_line(table: &Table, columns: &[usize], line: &[u8]) -> Res<Row> {
    let fields: Vec<&str> = text(line)?.split('\t').collect();
    if fields.len() > columns.len() {
        return Err(PgError::error("22P04", "extra data after last expected column"));
    }
    let mut row = Vec::new();
    for (i, c) in columns.iter().enumerate() {
        let column = &table.columns[*c];
        let Some(field) = fields.get(i) else {
            return Err(PgError::error("22P04", format!("missing data for column \"{}\"", column.name)));
        };
        row.push(if *field == "\\N" { Value::Null } else { Value::parse(column.ty, &unescape(field)?)? });
    }
    Ok(row)
}

fn unescape(field: &str) -> Res<String> {
    let mut out = String::new();
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('\\') => out.push('\\'),
            other => return Err(unknown(format!("the escape {other:?} in COPY data"))),
        }
    }
    Ok(out)
}
