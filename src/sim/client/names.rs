//! Which statements this client has prepared, as far as it has been told.

use std::collections::BTreeMap;

/// Parameter types that a Parse names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Types {
    /// None: the server finds them.
    Open,
    /// int4 for all.
    Int4,
    /// int8 for all.
    Int8,
}

impl Types {
    /// The OID (pg_type.dat); 0: not named.
    pub(super) fn oid(self) -> u32 {
        match self {
            Types::Open => 0,
            Types::Int4 => 23,
            Types::Int8 => 20,
        }
    }

    /// A value in binary.
    pub(super) fn binary(self, n: i64) -> Vec<u8> {
        match self {
            Types::Int4 => i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            Types::Int8 | Types::Open => n.to_be_bytes().to_vec(),
        }
    }
}

/// A text with parameter types.
pub(super) type Key = (String, Types);

/// What is known of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// No such statement.
    Absent,
    /// Parse is under way, sent in this unit (of messages up to a Sync).
    Parsing(u64),
    /// It exists.
    Present,
    /// Close is under way.
    Closing,
}

/// How a statement can be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It is there under this name.
    There(String),
    /// It may be prepared under this name.
    New(String),
    /// Nobody knows yet.
    Unclear,
}

/// The named statements, and the unnamed one.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: BTreeMap<Key, (String, Known)>,
    unnamed: Option<Key>,
    /// Counts what has taken the unnamed statement away.
    unnamed_at: u64,
}

impl Names {
    /// How this one can be had under a name, in this unit.
    pub(super) fn way(&mut self, key: &Key, unit: u64) -> Way {
        let next = format!("s{}", self.named.len());
        let (name, known) = self.named.entry(key.clone()).or_insert((next, Known::Absent));
        match known {
            Known::Present => Way::There(name.clone()),
            Known::Parsing(at) if *at == unit => Way::There(name.clone()),
            Known::Absent => {
                *known = Known::Parsing(unit);
                Way::New(name.clone())
            }
            Known::Parsing(_) | Known::Closing => Way::Unclear,
        }
    }

    fn set(&mut self, name: &str, from: fn(Known) -> bool, to: Known) {
        if let Some((_, known)) = self.named.values_mut().find(|(n, k)| n == name && from(*k)) {
            *known = to;
        }
    }

    /// Close is sent.
    pub(super) fn closing(&mut self, name: &str) {
        self.set(name, |k| k == Known::Present, Known::Closing);
    }

    /// It has been confirmed: it may be closed.
    pub(super) fn is_present(&self, name: &str) -> bool {
        self.named.values().any(|(n, k)| n == name && *k == Known::Present)
    }

    /// ParseComplete has come, or (`done` is false) the Parse was skipped or failed.
    pub(super) fn parsed(&mut self, name: &str, done: bool) {
        self.set(name, |k| matches!(k, Known::Parsing(_)), if done { Known::Present } else { Known::Absent });
    }

    /// CloseComplete has come, or the Close was skipped.
    pub(super) fn closed(&mut self, name: &str, done: bool) {
        self.set(name, |k| k == Known::Closing, if done { Known::Absent } else { Known::Present });
    }

    /// A Query or an unnamed Parse is sent; the number that [`Names::unnamed_parsed`] wants.
    pub(super) fn unnamed_goes(&mut self) -> u64 {
        self.unnamed = None;
        self.unnamed_at += 1;
        self.unnamed_at
    }

    /// ParseComplete of the unnamed statement.
    pub(super) fn unnamed_parsed(&mut self, at: u64, key: Key) {
        if at == self.unnamed_at {
            self.unnamed = Some(key);
        }
    }

    /// The unnamed statement is this one.
    pub(super) fn unnamed_is(&self, key: &Key) -> bool {
        self.unnamed.as_ref() == Some(key)
    }

    /// The connection is gone, and with it all of them.
    pub(super) fn clear(&mut self) {
        *self = Names::default();
    }
}
