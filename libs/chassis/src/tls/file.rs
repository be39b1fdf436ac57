//! A PEM file and the setting that names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// No certificate, key or bundle of them is larger.
const MAX_BYTES: u64 = 1 << 20;

/// A PEM file and the setting that names it, for errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    setting: String,
    path: PathBuf,
}

/// A file that cannot be used, and the setting that names it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct FileError {
    file: File,
    problem: String,
}

/// What tells whether a file has changed without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Print {
    modified: Option<SystemTime>,
    length: u64,
    place: (u64, u64),
}

impl File {
    /// `path`, as `setting` (`gateway.tls_key`) has it.
    #[must_use]
    pub fn new(setting: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self { setting: setting.into(), path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn refuse(&self, problem: impl fmt::Display) -> FileError {
        FileError { file: self.clone(), problem: problem.to_string() }
    }

    /// Follows links, so that a link that is pointed elsewhere is a change. `None` while there is no such file.
    pub(super) fn print(&self) -> Option<Print> {
        let found = std::fs::metadata(&self.path).ok()?;
        Some(Print { modified: found.modified().ok(), length: found.len(), place: place(&found) })
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&self.read()?).collect();
        let certificates = read.map_err(|error| self.refuse(format!("not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(self.refuse("no certificate in it: PEM with BEGIN CERTIFICATE is wanted"));
        }
        Ok(certificates)
    }

    pub(super) fn roots(&self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.refuse(error))?;
        }
        Ok(roots)
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|error| {
            // Never the error itself: it may show what stands in the file.
            let absent = matches!(error, pem::Error::NoItemsFound);
            self.refuse(if absent { "no key in it: PEM with BEGIN PRIVATE KEY is wanted" } else { "not PEM" })
        })
    }

    fn read(&self) -> Result<Vec<u8>, FileError> {
        let found = std::fs::metadata(&self.path).map_err(|error| self.refuse(error))?;
        if found.len() > MAX_BYTES {
            return Err(self.refuse(format!("larger than {MAX_BYTES} bytes")));
        }
        std::fs::read(&self.path).map_err(|error| self.refuse(error))
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.setting, self.path.display())
    }
}

#[cfg(unix)]
fn place(found: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn place(_found: &std::fs::Metadata) -> (u64, u64) {
    (0, 0)
}
