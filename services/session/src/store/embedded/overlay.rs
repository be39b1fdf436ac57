//! A file that is read and never written to: what is written stays in memory. With this a database is opened, repaired and
//! judged before anything of the real one is touched.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

const BLOCK: usize = 4096;

/// See the module. Locks are those of the file.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    above: Mutex<Above>,
}

#[derive(Debug)]
struct Above {
    len: u64,
    /// The file shows through up to here.
    floor: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

fn place(offset: u64) -> (u64, usize) {
    let size = BLOCK as u64;
    (offset / size, usize::try_from(offset % size).unwrap_or_default())
}

impl Overlay {
    pub(super) fn new(file: FileBackend) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, above: Mutex::new(Above { len, floor: len, blocks: BTreeMap::new() }) })
    }

    fn above(&self) -> MutexGuard<'_, Above> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has at a place; zeros where it does not show through.
    fn below(&self, floor: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = floor.saturating_sub(offset).min(out.len() as u64);
        let (seen, unseen) = out.split_at_mut(usize::try_from(there).unwrap_or_default());
        unseen.fill(0);
        if seen.is_empty() { Ok(()) } else { self.file.read(offset, seen) }
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.above().len)
    }

    fn read(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let above = self.above();
        if offset.saturating_add(out.len() as u64) > above.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if above.blocks.is_empty() {
            return self.below(above.floor, offset, out);
        }
        while !out.is_empty() {
            let (block, within) = place(offset);
            let (piece, rest) = out.split_at_mut(out.len().min(BLOCK - within));
            match above.blocks.get(&block) {
                Some(written) => piece.copy_from_slice(&written[within..within + piece.len()]),
                None => self.below(above.floor, offset, piece)?,
            }
            offset += piece.len() as u64;
            out = rest;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.above();
        let (last, within) = place(len);
        above.blocks.split_off(&(last + 1));
        if let Some(block) = above.blocks.get_mut(&last) {
            block[within..].fill(0);
        }
        above.floor = above.floor.min(len);
        above.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, mut offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut above = self.above();
        let floor = above.floor;
        while !data.is_empty() {
            let (block, within) = place(offset);
            let (piece, rest) = data.split_at(data.len().min(BLOCK - within));
            let written = match above.blocks.entry(block) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => {
                    let mut before = vec![0; BLOCK].into_boxed_slice();
                    self.below(floor, block * BLOCK as u64, &mut before)?;
                    free.insert(before)
                }
            };
            written[within..within + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            data = rest;
        }
        above.len = above.len.max(offset);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_stays_as_it_is() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let overlay = Overlay::new(FileBackend::new(file.reopen().unwrap()).unwrap()).unwrap();
        let mut model = content.clone();
        let mut write = |offset: usize, length: usize, with: u8| {
            overlay.write(offset as u64, &vec![with; length]).unwrap();
            model.resize(model.len().max(offset + length), 0);
            model[offset..offset + length].fill(with);
        };
        write(4_090, 20, 1);
        write(9_990, 20, 2);
        write(20_000, 5_000, 3);
        overlay.set_len(4_100).unwrap();
        overlay.set_len(12_000).unwrap();
        model.truncate(4_100);
        model.resize(12_000, 0);
        let mut all = vec![9; model.len()];
        overlay.read(0, &mut all).unwrap();
        assert!(all == model);
        let mut some = vec![9; 4_200];
        overlay.read(4_000, &mut some).unwrap();
        assert!(some == model[4_000..8_200]);
        assert!(overlay.read(11_999, &mut [0; 2]).is_err());
        assert_eq!(overlay.len().unwrap(), 12_000);
        assert!(std::fs::read(file.path()).unwrap() == content);
    }
}
