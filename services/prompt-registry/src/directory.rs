//! The prompt files of a directory, as text. Everything here blocks.
//!
//! Read are regular files named `*.md` directly in the directory, no hidden ones. A symbolic link is followed if it leads to
//! a file below the directory, which is how Kubernetes lays out a mounted ConfigMap.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Largest prompt file, in bytes.
const MAX_BYTES: u64 = 256 << 10;
/// Most prompt files, in order of their names.
const MAX_FILES: usize = 1000;

/// Name of a file without its extension -> its text, or why it cannot be read.
pub(crate) type Found = BTreeMap<String, Result<String, String>>;

/// Reads every prompt file.
pub(crate) fn read(directory: &Path) -> io::Result<Found> {
    let root = fs::canonicalize(directory)?;
    let mut stems = Vec::new();
    for entry in fs::read_dir(&root)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".md"));
        if let Some(stem) = stem.filter(|stem| !stem.is_empty() && !stem.starts_with('.')) {
            stems.push(stem.to_owned());
        }
    }
    stems.sort_unstable();
    let mut found = Found::new();
    for (at, stem) in stems.into_iter().enumerate() {
        let text = if at < MAX_FILES {
            text(&root, &stem)
        } else {
            Err(format!("beyond the first {MAX_FILES} files"))
        };
        found.insert(stem, text);
    }
    // A file that went away since it was listed.
    found.retain(|_, text| text.as_ref().err().is_none_or(|why| !why.is_empty()));
    Ok(found)
}

/// The text of a file, or why there is none; an empty reason if the file is gone.
fn text(root: &Path, stem: &str) -> Result<String, String> {
    let path = match fs::canonicalize(root.join(format!("{stem}.md"))) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(String::new()),
        Err(error) => return Err(error.to_string()),
    };
    if !path.starts_with(root) {
        return Err("a link that leads out of the directory".into());
    }
    if !fs::metadata(&path).map_err(|error| error.to_string())?.is_file() {
        return Err("not a file".into());
    }
    // What stands there may have become something else by now: a pipe would hold us, a link would lead elsewhere.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    File::from(file).take(MAX_BYTES + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if u64::try_from(content.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    String::from_utf8(content).map_err(|_| "not UTF-8".into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_prompt_files_are_read() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.md"), "secret").unwrap();
        let inside = tempfile::tempdir().unwrap();
        let root = inside.path();
        for (name, text) in [("a.md", "A"), ("b.txt", "B"), (".c.md", "C"), (".md", "D")] {
            fs::write(root.join(name), text).unwrap();
        }
        fs::create_dir(root.join("e.md")).unwrap();
        fs::create_dir(root.join("..data")).unwrap();
        fs::write(root.join("..data/f.md"), "F").unwrap();
        symlink("..data/f.md", root.join("f.md")).unwrap();
        symlink(outside.path().join("secret.md"), root.join("g.md")).unwrap();
        symlink("h.md", root.join("h.md")).unwrap();
        symlink("nowhere", root.join("i.md")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("j.md"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        symlink("/dev/zero", root.join("k.md")).unwrap();
        fs::write(root.join("l.md"), [0xff]).unwrap();
        fs::write(root.join("m.md"), "x".repeat((256 << 10) + 1)).unwrap();
        let found = read(root).unwrap();
        let texts: Vec<_> = found.iter().map(|(stem, text)| (stem.as_str(), text.as_deref().ok())).collect();
        let expected = [
            ("a", Some("A")),
            ("e", None),
            ("f", Some("F")),
            ("g", None),
            ("h", None),
            ("j", None),
            ("k", None),
            ("l", None),
            ("m", None),
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert_eq!(read(Path::new("/nonexistent/x")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
