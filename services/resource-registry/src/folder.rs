//! One directory on disk: what is in it, and the content of one file. Everything here blocks.
//!
//! A path is walked one name at a time, each name opened relative to the directory before it and never through a symbolic
//! link, so no name, no link and no exchange of one for the other while we look can lead outside. **Symbolic links below
//! the root are neither listed nor read**, those that stay inside neither: a link is a second name that the rules for
//! hidden and excluded files would not see. The root itself may be a link; it is opened anew for every operation, so a
//! root that is exchanged or comes back is followed. Only regular files are opened.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::rules::Rules;
use crate::uri::FilePath;

/// A directory and how it is served.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    /// The directory.
    pub(crate) root: PathBuf,
    /// What of it is served.
    pub(crate) rules: Rules,
    /// Largest file that is read.
    pub(crate) max_bytes: u64,
    /// Most files, and most directories, that are listed.
    pub(crate) max_files: usize,
}

/// What a directory held when it was looked through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Scan {
    /// The files that are served, in order of their paths.
    pub(crate) files: BTreeMap<FilePath, Meta>,
    /// The directories that were looked into, as absolute or relative as the root.
    pub(crate) directories: BTreeSet<PathBuf>,
    /// Whether there was more than may be listed.
    pub(crate) truncated: bool,
}

/// What is known of a file without reading it. A change of the content changes this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Bytes.
    pub(crate) size: u64,
    /// Last modification, in nanoseconds since 1970.
    pub(crate) modified: i128,
    /// Device, inode and last change of the inode: differs when a file was replaced by one of the same size and date.
    stamp: (u64, u64, i128),
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// There is none, or it is not served: which of the two is not told.
    #[error("there is no such file")]
    Unknown,
    /// Larger than allowed.
    #[error("{size} bytes are more than the {limit} that may be read")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Folder {
    /// Looks through the directory, in the order of names.
    pub(crate) fn scan(&self) -> io::Result<Scan> {
        let root = open_root(&self.root)?;
        let mut scan = Scan::default();
        self.scan_into(&root, None, &mut scan)?;
        Ok(scan)
    }

    fn scan_into(&self, handle: &OwnedFd, at: Option<&FilePath>, scan: &mut Scan) -> io::Result<()> {
        scan.directories.insert(at.map_or_else(|| self.root.clone(), |path| self.root.join(path.as_str())));
        for name in names(handle)? {
            let Ok(path) = FilePath::child(at, &name) else { continue };
            let stat = match rustix::fs::statat(handle, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(error) if is_absence(error) => continue,
                Err(error) => return Err(error.into()),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::RegularFile && self.rules.lists(&path) {
                if scan.files.len() >= self.max_files {
                    scan.truncated = true;
                    return Ok(());
                }
                scan.files.insert(path, Meta::of(&stat));
            } else if kind == FileType::Directory && self.rules.enters(&path) {
                if scan.directories.len() >= self.max_files {
                    scan.truncated = true;
                    return Ok(());
                }
                match open_directory(handle, &name) {
                    Ok(inner) => self.scan_into(&inner, Some(&path), scan)?,
                    Err(error) if is_absence(error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The content of a file.
    pub(crate) fn read(&self, path: &FilePath) -> Result<Vec<u8>, ReadError> {
        if !self.rules.admits(path) {
            return Err(ReadError::Unknown);
        }
        let (file, size) = self.open(path)?;
        let limit = self.max_bytes;
        if size > limit {
            return Err(ReadError::TooLarge { size, limit });
        }
        // A file may grow while it is read, and may claim to be empty when it is not (as in /proc).
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
        let got = file.take(limit.saturating_add(1)).read_to_end(&mut content)?;
        let got = u64::try_from(got).unwrap_or(u64::MAX);
        if got > limit {
            return Err(ReadError::TooLarge { size: got, limit });
        }
        Ok(content)
    }

    fn open(&self, path: &FilePath) -> Result<(File, u64), ReadError> {
        let mut directory = open_root(&self.root).map_err(|error| read_error(&error))?;
        let (parents, name) = path.split();
        for parent in parents {
            directory = open_directory(&directory, parent).map_err(refusal)?;
        }
        // Looked at first, because opening a device can have an effect; looked at again, because the name may lead to
        // something else by now. Without O_NONBLOCK a pipe nobody writes to would hold us.
        let before = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refusal)?;
        regular(&before)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&directory, name, flags, Mode::empty()).map_err(refusal)?;
        let stat = rustix::fs::fstat(&handle).map_err(refusal)?;
        regular(&stat)?;
        Ok((File::from(handle), size(&stat)))
    }
}

impl Meta {
    fn of(stat: &Stat) -> Self {
        Self {
            size: size(stat),
            modified: nanoseconds(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            stamp: (device(stat), stat.st_ino, nanoseconds(stat.st_ctime.into(), stat.st_ctime_nsec.into())),
        }
    }
}

impl Scan {
    /// The files that are in one of the two and not, or not the same, in the other.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a FilePath> {
        let changed = self.files.iter().filter(|(path, meta)| other.files.get(*path) != Some(meta));
        let added = other.files.keys().filter(|path| !self.files.contains_key(*path));
        changed.map(|(path, _)| path).chain(added).collect()
    }
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::empty())?)
}

fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Names in a directory, sorted. Those that are not UTF-8 have no URI and are left out.
fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if let Some(name) = utf8(entry.file_name()) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn utf8(name: &CStr) -> Option<&str> {
    name.to_str().ok()
}

fn regular(stat: &Stat) -> Result<(), ReadError> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory
        | FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(ReadError::Unknown),
    }
}

/// Whether an error means that there is nothing here for us, rather than that something is wrong.
fn is_absence(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NAMETOOLONG
            | Errno::NXIO
    )
}

fn refusal(error: Errno) -> ReadError {
    if is_absence(error) { ReadError::Unknown } else { ReadError::Io(error.into()) }
}

fn read_error(error: &io::Error) -> ReadError {
    Errno::from_io_error(error).map_or(ReadError::Unknown, refusal)
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

#[cfg(target_os = "linux")]
fn device(stat: &Stat) -> u64 {
    stat.st_dev
}

#[cfg(not(target_os = "linux"))]
fn device(stat: &Stat) -> u64 {
    u64::try_from(stat.st_dev).unwrap_or(0)
}

fn nanoseconds(seconds: i128, nanoseconds: i128) -> i128 {
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
mod tests;
