//! What main's catalogue says of the relations that a prepared transaction has written.
//!
//! Asked while the transaction is prepared: it holds its locks until it is resolved (`AtPrepare_Locks` in lock.c), so
//! none of these tables can be altered in between, and its locks tell which they are. A sequence is locked by nextval()
//! likewise (`lock_and_open_sequence` in sequence.c).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::decode::Relation;

/// Rows of a query, as text.
type Rows = Vec<Vec<Option<String>>>;

/// OID of pg_largeobject (pg_largeobject.h): its rows are not decoded.
const LARGE_OBJECTS: u32 = 2613;

/// By what a row is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// By the columns of the key.
    Key,
    /// By all columns: REPLICA IDENTITY FULL without a primary key.
    All,
    /// By nothing: its rows can be inserted only.
    None,
}

/// A column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: Bytes,
    /// GENERATED ALWAYS AS (...) STORED.
    pub generated: bool,
    /// GENERATED ALWAYS AS IDENTITY.
    pub always: bool,
    /// Part of the key: the operator that its index compares by, as it is written.
    pub key: Option<Bytes>,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// It has partitions.
    pub partitioned: bool,
    /// Its rows are not in the WAL.
    pub unlogged: bool,
    /// By what its rows are found.
    pub identity: Identity,
    /// REPLICA IDENTITY FULL: an old row is told with every change.
    pub full: bool,
    /// Why its rows cannot go by an image.
    pub problem: Option<&'static str>,
    /// In order.
    pub columns: Vec<Column>,
}

/// A sequence that the transaction has drawn from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequence {
    /// With its schema, quoted where need be.
    pub name: String,
    /// Its increment.
    pub increment: i64,
    /// Its first value.
    pub start: i64,
    /// Its last value.
    pub last: i64,
}

/// What the transaction holds locks on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Written {
    /// Tables, by OID.
    pub tables: Vec<u32>,
    /// Sequences, without those that begin anew at their end.
    pub sequences: Vec<Sequence>,
    /// Large objects.
    pub large_objects: bool,
}

/// By name.
#[derive(Clone, Debug, Default)]
pub struct Facts(pub HashMap<Relation, Arc<Table>>);

/// Prepares [`written_query`] on a connection: which tables (`t`) and sequences (`s`) the prepared transaction of an id has
/// locked for writing. Planning it takes longer than running it.
#[must_use]
pub fn prepare_written() -> String {
    format!(
        "PREPARE pglockstep_written (text) AS
         WITH l AS MATERIALIZED (SELECT * FROM pg_catalog.pg_locks WHERE pid IS NULL AND granted)
         SELECT DISTINCT c.oid, c.relkind, pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.',
           pg_catalog.quote_ident(c.relname)), s.seqincrement, s.seqstart,
           CASE WHEN s.seqrelid IS NOT NULL AND NOT s.seqcycle AND c.relpersistence <> 't'
            THEN pg_catalog.pg_sequence_last_value(c.oid) END
         FROM l x JOIN l USING (virtualtransaction) JOIN pg_catalog.pg_class c ON c.oid = l.relation
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
         WHERE x.locktype = 'transactionid' AND x.transactionid::text = $1 AND l.locktype = 'relation'
           AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
           AND l.database IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
           AND (c.oid >= 16384 OR c.oid = {LARGE_OBJECTS}) AND c.relkind IN ('r', 'p', 'S')"
    )
}

/// What main is asked first, on a connection that has [`prepare_written`]. No row: there is no such transaction, or it has
/// written nothing.
#[must_use]
pub fn written_query(xid: u32) -> String {
    format!("EXECUTE pglockstep_written ('{xid}')")
}

/// Reads the answer to [`written_query`].
///
/// # Errors
/// The rows are not what was asked for.
pub fn read_written(rows: &Rows) -> Result<Written, String> {
    let mut written = Written::default();
    for row in rows {
        let [Some(oid), Some(kind), Some(name), increment, start, last] = &row[..] else {
            return Err("locks: a row is not as it was asked for".into());
        };
        let oid: u32 = oid.parse().map_err(|_| "locks: an OID is not a number")?;
        let number = |v: &Option<String>| v.as_ref().and_then(|v| v.parse::<i64>().ok());
        match (&kind[..], number(increment), number(start), number(last)) {
            _ if oid == LARGE_OBJECTS => written.large_objects = true,
            ("S", Some(increment), Some(start), Some(last)) => {
                written.sequences.push(Sequence { name: name.clone(), increment, start, last });
            }
            ("S", ..) => {}
            _ => written.tables.push(oid),
        }
    }
    Ok(written)
}

/// What main is asked of these tables: schema, name, kind, replica identity, persistence, whether a trigger or rule
/// fires on replicas, whether an own function runs when a row is written there, and its columns: name, generated,
/// identity, operator of the key's index (that of the replica identity's index, else the primary key).
#[must_use]
pub fn tables_query(tables: &[u32]) -> String {
    let list = tables.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!(
        "WITH RECURSIVE types AS (
           SELECT a.attrelid AS relation, a.atttypid AS type FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = ANY ('{{{list}}}'::pg_catalog.oid[]) AND a.attnum > 0 AND NOT a.attisdropped
           UNION
           SELECT y.relation, m.type FROM types y JOIN pg_catalog.pg_type t ON t.oid = y.type
            LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid,
            LATERAL (SELECT t.typelem UNION SELECT t.typbasetype UNION SELECT g.rngsubtype
             UNION SELECT a.atttypid FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped) m (type)
            WHERE m.type <> 0 AND y.type >= 16384),
         up AS (
           SELECT o AS relation, o AS above FROM pg_catalog.unnest('{{{list}}}'::pg_catalog.oid[]) o
           UNION ALL
           SELECT u.relation, i.inhparent FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.above),
         parts AS (
           SELECT k.conrelid AS relation, 'pg_catalog.pg_constraint'::pg_catalog.regclass::pg_catalog.oid AS class, k.oid
            FROM pg_catalog.pg_constraint k WHERE k.conrelid = ANY ('{{{list}}}'::pg_catalog.oid[])
           UNION ALL
           SELECT i.indrelid, 'pg_catalog.pg_class'::pg_catalog.regclass, i.indexrelid
            FROM pg_catalog.pg_index i WHERE i.indrelid = ANY ('{{{list}}}'::pg_catalog.oid[])
           UNION ALL
           SELECT d.adrelid, 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid FROM pg_catalog.pg_attrdef d
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
            WHERE d.adrelid = ANY ('{{{list}}}'::pg_catalog.oid[])
           UNION ALL
           SELECT u.relation, 'pg_catalog.pg_class'::pg_catalog.regclass, u.above FROM up u
           UNION ALL
           SELECT y.relation, 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid
            FROM types y JOIN pg_catalog.pg_constraint k ON k.contypid = y.type WHERE y.type >= 16384),
         runs AS (
           SELECT DISTINCT p.relation FROM parts p
            JOIN pg_catalog.pg_depend d ON d.classid = p.class AND d.objid = p.oid AND d.refobjid >= 16384
            LEFT JOIN pg_catalog.pg_operator o ON o.oid = d.refobjid
             AND d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass
            JOIN pg_catalog.pg_proc f ON f.oid = CASE
             WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid ELSE o.oprcode::pg_catalog.oid END
            JOIN pg_catalog.pg_roles r ON r.oid = f.proowner WHERE NOT r.rolsuper)
         SELECT n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence,
          EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'R'))
           OR EXISTS (SELECT FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_enabled IN ('A', 'R')),
          EXISTS (SELECT FROM runs WHERE runs.relation = c.oid),
          a.attname, a.attgenerated <> '', a.attidentity = 'a',
          (SELECT pg_catalog.concat('OPERATOR(', pg_catalog.quote_ident(s.nspname), '.', o.oprname, ')')
            FROM pg_catalog.pg_index i, LATERAL ROWS FROM (pg_catalog.unnest(i.indkey::pg_catalog.int2[]),
             pg_catalog.unnest(i.indclass::pg_catalog.oid[])) WITH ORDINALITY u (attnum, class, place)
            JOIN pg_catalog.pg_opclass oc ON oc.oid = u.class
            JOIN pg_catalog.pg_amop m ON m.amopfamily = oc.opcfamily AND m.amopstrategy = 3
             AND m.amoplefttype = oc.opcintype AND m.amoprighttype = oc.opcintype
            JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
            WHERE i.indrelid = c.oid AND i.indisvalid AND u.attnum = a.attnum AND u.place <= i.indnkeyatts
             AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.oid = ANY ('{{{list}}}'::pg_catalog.oid[]) ORDER BY c.oid, a.attnum"
    )
}

/// Reads the answer to [`tables_query`].
///
/// # Errors
/// The rows are not what was asked for.
pub fn read_tables(rows: &Rows) -> Result<Vec<(Relation, Table)>, String> {
    let mut tables: Vec<(Relation, Table)> = Vec::new();
    for row in rows {
        let [
            Some(schema),
            Some(name),
            Some(kind),
            Some(identity),
            Some(persistence),
            Some(fires),
            Some(runs),
            column,
            generated,
            always,
            key,
        ] = &row[..]
        else {
            return Err("tables: a row is not as it was asked for".into());
        };
        let bytes = |s: &String| Bytes::copy_from_slice(s.as_bytes());
        let relation = Relation { schema: bytes(schema), name: bytes(name) };
        if tables.last().is_none_or(|(r, _)| *r != relation) {
            let problem = match (&persistence[..], &fires[..], &runs[..]) {
                ("u", ..) => Some("is unlogged, so main's WAL does not tell of its rows"),
                (_, "t", _) => Some("has a trigger or rule that is enabled for replicas"),
                (_, _, "t") => Some(
                    "has a check, an index or a generated column that calls a function of a role which is no superuser",
                ),
                _ => None,
            };
            let table = Table {
                partitioned: kind == "p",
                unlogged: persistence == "u",
                identity: Identity::None,
                full: identity == "f",
                problem,
                columns: Vec::new(),
            };
            tables.push((relation, table));
        }
        let Some((_, table)) = tables.last_mut() else { continue };
        let is = |flag: &Option<String>| flag.as_deref() == Some("t");
        if let Some(column) = column {
            let (generated, always, key) = (is(generated), is(always), key.as_ref().map(bytes));
            table.columns.push(Column { name: bytes(column), generated, always, key });
        }
        table.identity = match (&identity[..], table.columns.iter().any(|c| c.key.is_some())) {
            // Nothing old is in the WAL: nobody could tell a changed key.
            ("n", _) | (_, false) if identity != "f" => Identity::None,
            (_, true) => Identity::Key,
            _ => Identity::All,
        };
    }
    Ok(tables)
}
