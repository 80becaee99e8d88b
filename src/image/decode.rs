//! Lines of `test_decoding` (contrib/test_decoding/test_decoding.c; the same from version 14 to 18), with
//! `include-xids` on and `skip-empty-xacts` off.
//!
//! Bytes are in the database's encoding: names and values are cut out of the line and not looked into.

use bytes::Bytes;

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// A transaction begins; all of its lines follow, without a gap.
    Begin {
        /// Its id, 32 bits.
        xid: u32,
    },
    /// It is committed.
    Commit,
    /// It is prepared: these were all of its changes.
    Prepare {
        /// Its name.
        gid: Bytes,
    },
    /// What was prepared before is committed, or rolled back.
    Resolved,
    /// `pg_logical_emit_message`.
    Message {
        /// Its prefix.
        prefix: Bytes,
        /// Its contents.
        content: Bytes,
    },
    /// A change.
    Change(Change),
}

/// A table by name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Relation {
    /// Its schema.
    pub schema: Bytes,
    /// Its name.
    pub name: Bytes,
}

/// A column's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// A large value that the UPDATE has not touched: it is not in the WAL.
    Unchanged,
    /// In its type's text form.
    Text(Bytes),
}

/// A row, or its key.
pub type Tuple = Vec<(Bytes, Value)>;

/// What was done to rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A row was inserted.
    Insert {
        /// Into this table (of a partitioned one, the partition).
        table: Relation,
        /// All of its columns.
        new: Tuple,
    },
    /// A row was changed.
    Update {
        /// In this table.
        table: Relation,
        /// Its replica identity before, without columns that are NULL. `None`: that has not changed.
        old: Option<Tuple>,
        /// All of its columns.
        new: Tuple,
    },
    /// A row was deleted.
    Delete {
        /// From this table.
        table: Relation,
        /// Its replica identity, without columns that are NULL. `None`: the table has none.
        old: Option<Tuple>,
    },
    /// Tables were emptied.
    Truncate {
        /// All of them.
        tables: Vec<Relation>,
        /// RESTART IDENTITY.
        restart: bool,
    },
}

/// Reads a line. `None`: it is none of `test_decoding`'s.
#[must_use]
pub fn line(line: &Bytes) -> Option<Line> {
    let mut c = Cursor { line, at: 0 };
    if c.takes(b"table ") {
        return c.change().map(Line::Change);
    }
    if c.takes(b"BEGIN ") {
        return Some(Line::Begin { xid: std::str::from_utf8(c.rest()).ok()?.parse().ok()? });
    }
    if c.takes(b"COMMIT PREPARED ") || c.takes(b"ROLLBACK PREPARED ") {
        return Some(Line::Resolved);
    }
    if c.takes(b"COMMIT") {
        return Some(Line::Commit);
    }
    if c.takes(b"PREPARE TRANSACTION ") {
        return Some(Line::Prepare { gid: c.name_literal()? });
    }
    if c.takes(b"message: transactional: ") {
        return c.message();
    }
    None
}

struct Cursor<'a> {
    line: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn rest(&self) -> &[u8] {
        &self.line[self.at..]
    }

    fn takes(&mut self, text: &[u8]) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    /// A quoted string or name behind its first quote; inner quotes are doubled.
    fn quoted(&mut self, quote: u8) -> Option<Bytes> {
        let begin = self.at;
        let mut doubled = false;
        loop {
            let next = memchr::memchr(quote, self.rest())?;
            self.at += next + 1;
            if self.rest().first() != Some(&quote) {
                break;
            }
            doubled = true;
            self.at += 1;
        }
        let inner = self.line.slice(begin..self.at - 1);
        if !doubled {
            return Some(inner);
        }
        let (mut out, mut rest) = (Vec::with_capacity(inner.len()), &inner[..]);
        while let Some(at) = memchr::memchr(quote, rest) {
            // The first of the two.
            out.extend_from_slice(&rest[..=at]);
            rest = &rest[at + 2..];
        }
        out.extend_from_slice(rest);
        Some(Bytes::from(out))
    }

    /// What `quote_identifier` has made.
    fn identifier(&mut self) -> Option<Bytes> {
        if self.takes(b"\"") {
            return self.quoted(b'"');
        }
        let length = self.rest().iter().position(|b| b".[:, ".contains(b))?;
        let name = self.line.slice(self.at..self.at + length);
        self.at += length;
        (length > 0).then_some(name)
    }

    fn relation(&mut self) -> Option<Relation> {
        let schema = self.identifier()?;
        let name = self.takes(b".").then(|| self.identifier())??;
        Some(Relation { schema, name })
    }

    fn change(&mut self) -> Option<Change> {
        let mut tables = vec![self.relation()?];
        while self.takes(b", ") {
            tables.push(self.relation()?);
        }
        if self.takes(b": TRUNCATE:") {
            let restart = memchr::memmem::find(self.rest(), b" restart_seqs").is_some();
            return Some(Change::Truncate { tables, restart });
        }
        let table = tables.pop().filter(|_| tables.is_empty())?;
        if self.takes(b": INSERT:") {
            return Some(Change::Insert { table, new: self.tuple()?? });
        }
        if self.takes(b": UPDATE:") {
            let old = if self.takes(b" old-key:") {
                let old = self.tuple()??;
                self.takes(b" new-tuple:").then_some(old).map(Some)?
            } else {
                None
            };
            return Some(Change::Update { table, old, new: self.tuple()?? });
        }
        self.takes(b": DELETE:").then_some(())?;
        Some(Change::Delete { table, old: self.tuple()? })
    }

    /// Columns up to the line's end, or to the new tuple behind an old one. `Some(None)`: there is no tuple.
    fn tuple(&mut self) -> Option<Option<Tuple>> {
        if self.takes(b" (no-tuple-data)") {
            return Some(None);
        }
        let mut tuple = Tuple::new();
        // A column of the name "new-tuple" is in quotes.
        while !self.rest().is_empty() && !self.rest().starts_with(b" new-tuple:") {
            self.takes(b" ").then_some(())?;
            let name = self.identifier()?;
            self.takes(b"[").then_some(())?;
            self.skip_type()?;
            self.takes(b":").then_some(())?;
            tuple.push((name, self.value()?));
        }
        Some(Some(tuple))
    }

    /// A type's name behind its bracket: it may hold brackets ("integer[]") and quoted parts that do.
    fn skip_type(&mut self) -> Option<()> {
        let mut depth = 1;
        while depth > 0 {
            let b = *self.rest().first()?;
            self.at += 1;
            match b {
                b'"' => drop(self.quoted(b'"')?),
                b'[' => depth += 1,
                b']' => depth -= 1,
                _ => {}
            }
        }
        Some(())
    }

    /// Strings are in quotes, bit strings have a B in front of them, numbers and booleans stand bare.
    fn value(&mut self) -> Option<Value> {
        if self.takes(b"B'") || self.takes(b"'") {
            return self.quoted(b'\'').map(Value::Text);
        }
        let length = memchr::memchr(b' ', self.rest()).unwrap_or(self.rest().len());
        let text = self.line.slice(self.at..self.at + length);
        self.at += length;
        Some(match &text[..] {
            b"" => return None,
            b"null" => Value::Null,
            b"unchanged-toast-datum" => Value::Unchanged,
            _ => Value::Text(text),
        })
    }

    /// What `quote_literal` has made. With a backslash in it that would be an E'' string, which no name of ours has.
    fn name_literal(&mut self) -> Option<Bytes> {
        self.takes(b"'").then(|| self.quoted(b'\''))?
    }

    fn message(&mut self) -> Option<Line> {
        // "1 prefix: p, sz: 3 content:abc"; a prefix may hold anything, the size is what counts.
        let rest = self.rest();
        let prefix = memchr::memmem::find(rest, b" prefix: ")? + 9;
        let size = prefix + memchr::memmem::find(&rest[prefix..], b", sz: ")?;
        let content = size + memchr::memmem::find(&rest[size..], b" content:")? + 9;
        let (prefix, content) = (self.at + prefix..self.at + size, self.at + content..);
        Some(Line::Message { prefix: self.line.slice(prefix), content: self.line.slice(content) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn change(text: &str) -> Change {
        match line(&Bytes::copy_from_slice(text.as_bytes())) {
            Some(Line::Change(c)) => c,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn text(t: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(t.as_bytes()))
    }

    #[test]
    fn names_types_and_values_may_hold_what_separates_them() {
        let c = change(
            "table \"Odd S\".\"Ta\"\"b.le: x\": UPDATE: old-key: \"Id [a]\"[integer]:1 new-tuple: \"Id [a]\"[integer[]]:'{2}' \
             \"se:l'ect\"[\"Odd S\".\"t]y'pe\"]:'a''b new-tuple: c' n[numeric]:NaN z[text]:null b[bit]:B'10' e[text]:''",
        );
        let Change::Update { table, old, new } = c else { panic!("{c:?}") };
        assert_eq!((&table.schema[..], &table.name[..]), (&b"Odd S"[..], &b"Ta\"b.le: x"[..]));
        assert_eq!(old.unwrap(), [(Bytes::from_static(b"Id [a]"), text("1"))]);
        let values: Vec<Value> = new.iter().map(|(_, v)| v.clone()).collect();
        let wanted = [text("{2}"), text("a'b new-tuple: c"), text("NaN"), Value::Null, text("10"), text("")];
        assert_eq!(values, wanted);
        assert_eq!(new[1].0, "se:l'ect");
    }

    #[test]
    fn every_kind_of_line_is_read() {
        let read = |t: &str| line(&Bytes::copy_from_slice(t.as_bytes()));
        assert_eq!(read("BEGIN 771"), Some(Line::Begin { xid: 771 }));
        assert_eq!(read("COMMIT 771"), Some(Line::Commit));
        let gid = Bytes::from_static(b"pglockstep:it's:1:2");
        assert_eq!(read("PREPARE TRANSACTION 'pglockstep:it''s:1:2', txid 771"), Some(Line::Prepare { gid }));
        assert_eq!(read("COMMIT PREPARED 'x', txid 5"), Some(Line::Resolved));
        assert_eq!(read("ROLLBACK PREPARED 'x', txid 5"), Some(Line::Resolved));
        let (prefix, content) = (Bytes::from_static(b"p"), Bytes::from_static(b"a content:b"));
        let message = "message: transactional: 1 prefix: p, sz: 11 content:a content:b";
        assert_eq!(read(message), Some(Line::Message { prefix, content }));
        assert!(matches!(change("table a.b: DELETE: (no-tuple-data)"), Change::Delete { old: None, .. }));
        let c = change("table a.b, a.\"C\": TRUNCATE: restart_seqs cascade");
        assert!(matches!(c, Change::Truncate { tables, restart: true } if tables.len() == 2));
        assert!(matches!(change("table a.b: INSERT:"), Change::Insert { new, .. } if new.is_empty()));
        for odd in [
            "",
            "table ",
            "table a",
            "table a.b: INSERT: x",
            "table a.b: INSERT: x[int]:'",
            "BEGIN x",
            "table a.b: UPSERT:",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    fn quote(name: &str) -> String {
        format!("\"{}\"", name.replace('"', "\"\""))
    }

    proptest! {
        #[test]
        fn what_test_decoding_writes_reads_back(
            schema in "[ -~é]{1,8}", name in "[ -~é]{1,8}",
            columns in prop::collection::vec(("[ -~é]{1,6}", "[ -~]{1,6}", prop::option::of("\\PC{0,12}")), 0..5),
        ) {
            let mut text = format!("table {}.{}: INSERT:", quote(&schema), quote(&name));
            for (column, kind, value) in &columns {
                let value = value.as_ref().map_or("null".into(), |v| format!("'{}'", v.replace('\'', "''")));
                text.push_str(&format!(" {}[{}]:{value}", quote(column), quote(kind)));
            }
            let Change::Insert { table, new } = change(&text) else { panic!("{text}") };
            prop_assert_eq!((&table.schema[..], &table.name[..]), (schema.as_bytes(), name.as_bytes()));
            prop_assert_eq!(new.len(), columns.len());
            for ((column, value), (wanted, _, written)) in new.iter().zip(&columns) {
                prop_assert_eq!(&column[..], wanted.as_bytes());
                prop_assert_eq!(value, &written.as_ref().map_or(Value::Null, |v| self::text(v)));
            }
        }

        #[test]
        fn no_line_ends_the_process(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..80) {
            let _ = line(&Bytes::from([b"table a.b: UPDATE: ".as_slice(), &bytes].concat()));
            let whole = b"table a.\"b\"\"\": UPDATE: old-key: a[x[]]:'1''' new-tuple: a[\"]\"]:null b[bit]:B'1'";
            let _ = line(&Bytes::copy_from_slice(&whole[..cut.min(whole.len())]));
        }
    }
}
