//! The file: made whole or not at all, judged before it is touched, opened by one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use machines::Snapshot;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, StorageBackend, StorageError};

use super::overlay::Overlay;
use super::tables::{self, About, FORM};

/// Memory for pages of the file.
const CACHE: usize = 64 << 20;
/// A file that is smaller than this is not worth compacting.
const SMALL: u64 = 64 << 20;
/// One that is so many times what it holds is.
const SPARSE: u64 = 4;

/// Why a session file is not used. Nothing was written to it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be opened, made or written.
    #[error(
        "store.file: {path} cannot be used: {why}; it has to be readable and writable for this process, on a disk with room (--data \
         DIR or store.file names another one)", path = path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        why: String,
    },
    /// Somebody has it.
    #[error(
        "store.file: {path} is in use by another process: stop that one, or name another folder with --data DIR",
        path = path.display()
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error(
        "store.file: {path} holds no sessions of trunkline: {why}. Nothing of it was changed; move it away, or name another folder \
         with --data DIR", path = path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        why: String,
    },
    /// It is ahead of this build.
    #[error(
        "store.file: {path} was written by a newer version: {why}. Nothing of it was changed; start that version, or name another \
         folder with --data DIR", path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which form it has.
        why: String,
    },
    /// It is not what was written.
    #[error(
        "store.file: {path} is damaged: {why}. Nothing of it was changed; put a copy in its place, or move it away to start without \
         its sessions", path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Makes the file if it is not there, judges it, and opens it.
pub(super) fn open(path: &Path) -> Result<Database, Refused> {
    if !path.try_exists().map_err(|error| unusable(path, &error))? {
        make(path)?;
    }
    judge(path)?;
    let mut database = reopen(path)?;
    let begun = begin(&database);
    begun.map_err(|error| unusable(path, &error))?;
    compact(path, &mut database, SMALL);
    Ok(database)
}

/// Opens a file that this process has judged before. What a crash left of a commit that nobody heard of is taken back.
pub(super) fn reopen(path: &Path) -> Result<Database, Refused> {
    let backend = backend(path)?;
    guarded(path, || builder().create_with_backend(backend))
}

/// Judges a file that is there, without writing to it.
pub(super) fn judge(path: &Path) -> Result<(), Refused> {
    let backend = backend(path)?;
    if backend.len().map_err(|error| unusable(path, &error))? == 0 {
        return Err(foreign(path, "it is empty"));
    }
    let overlay = Overlay::new(backend).map_err(|error| unusable(path, &error))?;
    let database =
        guarded(path, || builder().set_check_integrity_on_open(true).create_with_backend(overlay))?;
    let about = database.begin_read().map_err(redb::Error::from).and_then(|txn| tables::about(&txn));
    match about {
        Ok(about) => judge_form(path, about),
        Err(
            redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. },
        ) => Err(foreign(path, "it is a database of another program")),
        Err(error) => Err(Refused::Damaged { path: path.to_owned(), why: error.to_string() }),
    }
}

fn judge_form(path: &Path, about: About) -> Result<(), Refused> {
    let newer = |what: &str, found: u64, known: u64| {
        let why = format!("{what} has form {found}, this one knows {known}");
        Err(Refused::Newer { path: path.to_owned(), why })
    };
    let snapshot = u64::from(Snapshot::VERSION);
    match about {
        About { form: 0, .. } => Err(foreign(path, "it does not say which form it has")),
        About { form, .. } if form > FORM => newer("the file", form, FORM),
        About { snapshot: found, .. } if found > snapshot => newer("a session in it", found, snapshot),
        About { .. } => Ok(()),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

fn backend(path: &Path) -> Result<FileBackend, Refused> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|error| unusable(path, &error))?;
    if !file.metadata().is_ok_and(|there| there.is_file()) {
        return Err(foreign(path, "it is not a file"));
    }
    FileBackend::new(file).map_err(|error| read_error(path, &error))
}

/// The library gives errors for what it finds to be wrong, and panics at some of it.
fn guarded(path: &Path, open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database, Refused> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(|error| read_error(path, &error)),
        Err(_) => {
            Err(Refused::Damaged { path: path.to_owned(), why: "its pages contradict each other".into() })
        }
    }
}

fn read_error(path: &Path, error: &DatabaseError) -> Refused {
    let path_of = || path.to_owned();
    if matches!(error, DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) {
        return Refused::Busy { path: path_of() };
    }
    if let DatabaseError::Storage(StorageError::Corrupted(why)) = error {
        let is_newer = why.starts_with("Expected file format version");
        let why = why.clone();
        return if is_newer {
            Refused::Newer { path: path_of(), why }
        } else {
            Refused::Damaged { path: path_of(), why }
        };
    }
    if let DatabaseError::Storage(StorageError::Io(io)) = error {
        return match io.kind() == io::ErrorKind::InvalidData {
            true => foreign(path, "it is of another program"),
            false if io.kind() == io::ErrorKind::UnexpectedEof => {
                Refused::Damaged { path: path_of(), why: "its end is missing".into() }
            }
            false => unusable(path, io),
        };
    }
    Refused::Damaged { path: path_of(), why: error.to_string() }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Refused {
    Refused::Unusable { path: path.to_owned(), why: why.to_string() }
}

fn foreign(path: &Path, why: &str) -> Refused {
    Refused::Foreign { path: path.to_owned(), why: why.to_owned() }
}

/// Made beside and linked into place, so that neither a crash nor a second process leaves half a file.
fn make(path: &Path) -> Result<(), Refused> {
    let failed = |error: &dyn std::fmt::Display| unusable(path, error);
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let made = fill(&draft, FORM).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(|error| error.to_string()),
    });
    let removed = fs::remove_file(&draft);
    made.map_err(|why| failed(&why))?;
    removed.map_err(|error| failed(&error))?;
    // The name has to last as well.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))
}

/// An empty file of this form.
fn fill(path: &Path, form: u64) -> Result<(), String> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path).map_err(|error| error.to_string())?;
    let filled = || -> Result<(), redb::Error> {
        let database = builder().create_with_backend(FileBackend::new(file)?)?;
        let txn = database.begin_write()?;
        tables::make(&txn, form)?;
        txn.commit()?;
        database.close()?;
        Ok(())
    };
    filled().map_err(|error| error.to_string())
}

fn begin(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    tables::begin(&txn)?;
    txn.commit()?;
    Ok(())
}

/// Gives room back that sessions have left behind, where it is much and what stays is little.
fn compact(path: &Path, database: &mut Database, small: u64) {
    let length = || fs::metadata(path).map_or(0, |file| file.len());
    let before = length();
    if before < small {
        return;
    }
    let held = || -> Result<u64, redb::Error> {
        let txn = database.begin_write()?;
        let stats = txn.stats()?;
        txn.abort()?;
        Ok(stats.stored_bytes() + stats.metadata_bytes())
    };
    match held() {
        Ok(held) if held.saturating_mul(SPARSE) < before => {}
        Ok(_) | Err(_) => return,
    }
    match database.compact() {
        Ok(_) => tracing::info!(before, after = length(), "the session file was compacted"),
        Err(error) => tracing::warn!(%error, "the session file could not be compacted"),
    }
}

#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;
