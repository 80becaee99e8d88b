//! Spill files: unlinked temporary files in `work_dir`, one per transaction whose script exceeds `script_limit`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::core::MakeSpill;
use crate::script::Spill;

/// Appended bytes are gathered up to this many before they are written.
const GATHER: usize = 256 * 1024;

/// A spill file. The kernel removes it when it is closed, also if the process is killed.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    /// Bytes written to the file.
    written: u64,
    /// Bytes that follow them.
    gathered: Vec<u8>,
}

/// Spill files in this directory.
#[must_use]
pub fn spill_files(directory: PathBuf) -> MakeSpill {
    Box::new(move || Ok(Box::new(SpillFile::create(&directory)?)))
}

impl SpillFile {
    /// In this directory.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn create(directory: &Path) -> io::Result<SpillFile> {
        Ok(SpillFile { file: tempfile::tempfile_in(directory)?, written: 0, gathered: Vec::new() })
    }

    fn write_gathered(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.gathered, self.written)?;
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }
}

impl Spill for SpillFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        if self.gathered.len() + bytes.len() > GATHER {
            self.write_gathered()?;
        }
        let at = self.written + self.gathered.len() as u64;
        if bytes.len() >= GATHER {
            // Large pieces are not copied once more.
            self.file.write_all_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.gathered.extend_from_slice(bytes);
        }
        Ok(at)
    }

    fn read(&self, at: u64, length: usize) -> io::Result<Bytes> {
        // What was appended in one piece is written in one piece.
        if let Some(from) = at.checked_sub(self.written) {
            let from = usize::try_from(from).map_err(io::Error::other)?;
            let bytes = self.gathered.get(from..from + length).ok_or(io::ErrorKind::UnexpectedEof)?;
            return Ok(Bytes::copy_from_slice(bytes));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(Bytes::from(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_reads_back_whether_it_has_been_written_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = SpillFile::create(dir.path()).unwrap();
        let pieces: Vec<Vec<u8>> = (0..200u8).map(|i| vec![i; 4000 + usize::from(i)]).collect();
        let places: Vec<u64> = pieces.iter().map(|p| file.append(p).unwrap()).collect();
        assert!(file.written > 0 && !file.gathered.is_empty());
        let large: Vec<u8> = (0..=255).cycle().take(3 * GATHER + 17).collect();
        let at = file.append(&large).unwrap();
        assert!(file.gathered.is_empty() && file.gathered.capacity() <= 2 * GATHER);
        assert_eq!(file.read(at + 1, GATHER).unwrap(), large[1..=GATHER], "also in parts");
        for (piece, at) in pieces.iter().zip(places) {
            assert_eq!(file.read(at, piece.len()).unwrap(), piece);
        }
        assert!(file.read(1_500_000, 300_000).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
    }
}
