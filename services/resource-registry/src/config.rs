//! Settings of the resource registry, section `[resource-registry]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::template::UriTemplate;

/// Deepest level that may be asked for.
const MAX_DEPTH: usize = 64;
/// Most files of one directory that may be asked for.
const MAX_FILES: usize = 1_000_000;
/// Largest file that may be asked for: content travels in one message of at most 8 MiB, and base64 makes it a third larger.
const MAX_BYTES: u64 = 4 << 20;

/// Settings of the resource registry. The defaults are an empty registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the gRPC server, HOST:PORT; port 0 takes any free one. Not used inside `up`.
    pub listen: String,
    /// Directories whose files are served.
    pub directories: Vec<Directory>,
    /// URI templates that are advertised besides the one that each directory has.
    pub templates: Vec<Template>,
    /// Seconds between two looks at a directory that reported no change; changes are normally noticed at once. Lower it
    /// for network file systems that report none.
    pub rescan_s: u64,
}

/// A directory whose files are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// The directory. It may be a symbolic link; links inside it are not served.
    pub path: PathBuf,
    /// What the URIs of its files begin with; ends in `/`.
    pub uri: String,
    /// Patterns (`*`, `**`, `?`, `[..]`, `{a,b}`) of the files to serve; empty = all. A pattern without `/` is matched against
    /// the name at every level, one with `/` against the path from the directory.
    pub include: Vec<String>,
    /// Patterns of files and directories to leave out; stronger than `include`.
    pub exclude: Vec<String>,
    /// Largest file that can be read, in bytes, at most 4 MiB. Larger ones are listed.
    pub max_bytes: u64,
    /// Most files that are listed, in order of their paths.
    pub max_files: usize,
    /// Levels of directories to look into; 1 = only the files directly in `path`.
    pub depth: usize,
    /// Whether to advertise `<uri>{+path}` as a template, whose variable is completed from the files there are.
    pub template: bool,
}

/// A URI template that is advertised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Template {
    /// RFC 6570 level 1 (`file:///docs/guides/{name}.md`); the last variable may be `{+name}`, which matches `/` too.
    pub uri: String,
    /// Name for programs.
    pub name: String,
    /// Name for people.
    pub title: Option<String>,
    /// What it stands for.
    pub description: Option<String>,
    /// MIME type of everything it stands for, where that is one.
    pub mime_type: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7202".into(), directories: Vec::new(), templates: Vec::new(), rescan_s: 30 }
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            uri: String::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            max_bytes: 1 << 20,
            max_files: 10_000,
            depth: 16,
            template: true,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resource-registry.{key}: {problem}")]
pub struct ConfigError {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl ConfigError {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }
}

impl Config {
    /// Checks what can be checked without looking at the disk.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key and the accepted form.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.rescan_s == 0 {
            return Err(ConfigError::new("rescan_s", "must be at least 1"));
        }
        for (at, directory) in self.directories.iter().enumerate() {
            directory
                .check()
                .map_err(|(key, why)| ConfigError::new(format!("directories[{at}].{key}"), why))?;
            let rival = self.directories[..at].iter().position(|other| {
                other.uri.starts_with(&directory.uri) || directory.uri.starts_with(&other.uri)
            });
            if let Some(rival) = rival {
                let why = format!("overlaps directories[{rival}].uri: one URI must name one file");
                return Err(ConfigError::new(format!("directories[{at}].uri"), why));
            }
        }
        for (at, template) in self.templates.iter().enumerate() {
            self.check_template(template)
                .map_err(|(key, why)| ConfigError::new(format!("templates[{at}].{key}"), why))?;
        }
        Ok(())
    }

    fn check_template(&self, template: &Template) -> Result<(), (&'static str, String)> {
        let parsed = UriTemplate::parse(&template.uri).map_err(|error| ("uri", error.to_string()))?;
        if template.name.is_empty() {
            return Err(("name", "is missing".into()));
        }
        if !self.directories.iter().any(|directory| parsed.prefix().starts_with(&directory.uri)) {
            return Err(("uri", "does not begin with the uri of any of the directories".into()));
        }
        Ok(())
    }
}

impl Directory {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.path.as_os_str().is_empty() {
            return Err(("path", "is missing".into()));
        }
        check_prefix(&self.uri).map_err(|why| ("uri", format!("{why}; use the form \"file:///docs/\"")))?;
        if !(1..=MAX_DEPTH).contains(&self.depth) {
            return Err(("depth", format!("must be 1 to {MAX_DEPTH}")));
        }
        if !(1..=MAX_FILES).contains(&self.max_files) {
            return Err(("max_files", format!("must be 1 to {MAX_FILES}")));
        }
        if !(1..=MAX_BYTES).contains(&self.max_bytes) {
            return Err(("max_bytes", format!("must be 1 to {MAX_BYTES}")));
        }
        crate::rules::Rules::new(self).map(drop)
    }
}

/// Absolute, hierarchical, without query or fragment, without dot segments, ending in `/`.
fn check_prefix(uri: &str) -> Result<(), &'static str> {
    let (scheme, rest) = uri.split_once("://").ok_or("is not an absolute URI with `://`")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c));
    if !is_scheme {
        return Err("has no lower-case scheme");
    }
    if !rest.ends_with('/') {
        return Err("does not end in `/`");
    }
    if !rest.bytes().all(|c| c.is_ascii_graphic())
        || rest.contains(['?', '#', '\\', '{', '}', '"', '<', '>', '^', '`', '|'])
    {
        return Err("holds characters that have no place in a path");
    }
    if rest.split('/').any(|name| name == "." || name == "..") || rest.trim_start_matches('/').contains("//")
    {
        return Err("holds empty names or names of dots");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(uri: &str) -> Directory {
        Directory { path: "/x".into(), uri: uri.into(), ..Directory::default() }
    }

    fn problem(config: &Config) -> String {
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_an_empty_registry() {
        Config::default().check().unwrap();
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<Config>("[[directories]]\npath='x'\nurl='file:///x/'\n").unwrap_err();
        assert!(error.to_string().contains("url"), "{error}");
    }

    #[test]
    fn a_directory_uri_is_a_prefix_of_paths() {
        for uri in ["file:///", "file:///docs/", "docs://host/", "x+y.z-1://a/b/c/"] {
            assert_eq!(check_prefix(uri), Ok(()), "{uri}");
        }
        for uri in [
            "",
            "docs/",
            "file:docs/",
            "File:///x/",
            "file:///x",
            "file:///x/?q/",
            "file:///x#/",
            "file:///../x/",
            "file:///x/./",
            "file:///x//y/",
            "file:///x y/",
            "file:///ü/",
            "file:///{a}/",
            "1x:///a/",
        ] {
            assert!(check_prefix(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_problem_names_its_key() {
        let with = |directories| Config { directories, ..Config::default() };
        let text = problem(&with(vec![
            directory("file:///a/"),
            Directory { uri: "file:///b".into(), ..directory("") },
        ]));
        assert!(text.starts_with("resource-registry.directories[1].uri: does not end in `/`"), "{text}");
        let text = problem(&with(vec![directory("file:///a/"), directory("file:///a/b/")]));
        assert!(text.contains("directories[1].uri: overlaps directories[0].uri"), "{text}");
        let text = problem(&with(vec![Directory { depth: 0, ..directory("file:///a/") }]));
        assert!(text.contains("directories[0].depth"), "{text}");
        let text = problem(&with(vec![Directory { include: vec!["[".into()], ..directory("file:///a/") }]));
        assert!(text.contains("directories[0].include"), "{text}");
        let template = Template { uri: "file:///b/{x}".into(), name: "b".into(), ..Template::default() };
        let text = problem(&Config { templates: vec![template], ..with(vec![directory("file:///a/")]) });
        assert!(text.contains("templates[0].uri: does not begin"), "{text}");
    }
}
