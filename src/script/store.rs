//! Where a script's bytes are: in memory, or beyond `script_limit` in a spill file.

use std::fmt::Debug;
use std::io;

use bytes::Bytes;

/// A file that only its script knows: appended to while the transaction runs, read while replicas apply, gone with it.
/// The shard has temporary files, the simulator has memory.
pub trait Spill: Debug {
    /// Adds bytes at the end; returns where they begin.
    ///
    /// # Errors
    /// No room, or the disk is broken.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64>;

    /// Reads what was appended.
    ///
    /// # Errors
    /// The disk is broken.
    fn read(&self, at: u64, length: usize) -> io::Result<Bytes>;
}

/// Some bytes of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    /// In memory.
    Memory(Bytes),
    /// In the script's spill file.
    Spilled { at: u64, length: usize },
}

impl From<Bytes> for Stored {
    fn from(bytes: Bytes) -> Stored {
        Stored::Memory(bytes)
    }
}

impl Stored {
    /// What is in memory; nothing if it was spilled.
    #[must_use]
    pub fn memory(&self) -> &[u8] {
        match self {
            Stored::Memory(b) => b,
            Stored::Spilled { .. } => &[],
        }
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Stored::Memory(b) => b.len(),
            Stored::Spilled { length, .. } => *length,
        }
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.memory().len()
    }
}

/// A spill file in memory, for tests and the simulator.
#[derive(Debug, Default)]
pub struct MemorySpill {
    bytes: Vec<u8>,
}

impl Spill for MemorySpill {
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        self.bytes.get(at..at + length).map(Bytes::copy_from_slice).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
