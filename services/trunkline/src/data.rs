//! The data directory of `up`: keys made once, and one sample of each kind of content so that there is something to see.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chassis::clock;
use chassis::config::ConfigError;
use serde::{Deserialize, Serialize};

use crate::config::Keys;

const WELCOME: &str = include_str!("samples/welcome.md");
const PROMPTS: [(&str, &str); 2] =
    [("greet.md", include_str!("samples/greet.md")), ("review.md", include_str!("samples/review.md"))];

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    /// Something in it cannot be read or written.
    #[error("data directory: {path}: {source}; choose another one with --data DIR", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    /// No randomness for a key.
    #[error("no random bytes for a key: {0}")]
    Random(String),
    /// The keys file holds something else.
    #[error(transparent)]
    Keys(#[from] ConfigError),
}

/// The keys file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeysFile {
    keys: Keys,
}

/// An existing data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens `path`, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        fs::create_dir_all(path).map_err(at(path))?;
        Ok(Self { path: path.canonicalize().map_err(at(path))? })
    }

    /// The keys kept here; a first key is made if there are none.
    pub(crate) fn keys(&self) -> Result<Keys, DataError> {
        let path = self.path.join("keys.toml");
        if !path.exists() {
            self.make_keys(&path)?;
        }
        let mode = fs::metadata(&path).map_err(at(&path))?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "the keys can be read by others");
        }
        let file = chassis::config::load::<KeysFile>(Some(&path), &Default::default(), Vec::new())?;
        Ok(file.config.keys)
    }

    /// The directory of resources; it begins with a sample.
    pub(crate) fn resources(&self) -> Result<PathBuf, DataError> {
        self.samples("resources", &[("welcome.md", WELCOME)])
    }

    /// The directory of prompts; it begins with samples.
    pub(crate) fn prompts(&self) -> Result<PathBuf, DataError> {
        self.samples("prompts", &PROMPTS)
    }

    /// Written beside and linked into place, so that neither a crash nor a second `up` leaves half a file.
    fn make_keys(&self, path: &Path) -> Result<(), DataError> {
        let random = |error: &dyn std::fmt::Display| DataError::Random(error.to_string());
        let key = clock::random::<32>().map_err(|error| random(&error))?;
        let draft = self.path.join(format!("keys.toml.{}", std::process::id()));
        let text = format!(
            "# Made by `trunkline up`. Sessions do not survive the loss of this file. Keep it secret.\n\
             [keys]\ncurrent = \"k1\"\n\n[keys.ring]\nk1 = \"{}\"\n",
            STANDARD.encode(key)
        );
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(at(&draft))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at(&draft))?;
        let linked = match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        };
        fs::remove_file(&draft).map_err(at(&draft))?;
        linked.map_err(at(path))
    }

    fn samples(&self, folder: &str, files: &[(&str, &str)]) -> Result<PathBuf, DataError> {
        let path = self.path.join(folder);
        // What somebody removed stays removed: samples come with the folder and never again.
        if !path.exists() {
            fs::create_dir_all(&path).map_err(at(&path))?;
            for (name, text) in files {
                let file = path.join(name);
                fs::write(&file, text).map_err(at(&file))?;
            }
        }
        Ok(path)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DataError + use<> {
    let path = path.to_owned();
    move |source| DataError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_only_for_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(&path).unwrap().keys().unwrap();
        assert!(first.ring().is_ok());
        assert_eq!(fs::metadata(path.join("keys.toml")).unwrap().permissions().mode() & 0o777, 0o600);
        let second = DataDir::open(&path).unwrap().keys().unwrap();
        assert_eq!(second.ring["k1"].expose(), first.ring["k1"].expose());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "the draft is gone");
    }

    #[test]
    fn samples_come_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let resources = data.resources().unwrap();
        fs::remove_file(resources.join("welcome.md")).unwrap();
        assert_eq!(data.resources().unwrap(), resources);
        assert!(!resources.join("welcome.md").exists());
        assert!(data.prompts().unwrap().join("review.md").exists());
    }

    #[test]
    fn a_damaged_keys_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        fs::write(folder.path().join("keys.toml"), "[keys]\ncurent = \"k1\"\n").unwrap();
        let error = data.keys().unwrap_err().to_string();
        assert!(error.contains("keys.curent") && error.contains("keys.toml"), "{error}");
    }
}
