//! Which files of a directory are served.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::config::Directory;
use crate::uri::FilePath;

/// The rules of one directory. The same ones decide what is listed and what is read.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    include: Option<GlobSet>,
    exclude: GlobSet,
    depth: usize,
}

impl Rules {
    /// Compiles the patterns of a directory.
    ///
    /// # Errors
    /// Key and reason of the pattern that cannot be used.
    pub(crate) fn new(directory: &Directory) -> Result<Self, (&'static str, String)> {
        let include = match directory.include.as_slice() {
            [] => None,
            patterns => Some(compile(patterns).map_err(|why| ("include", why))?),
        };
        let exclude = compile(&directory.exclude).map_err(|why| ("exclude", why))?;
        Ok(Self { include, exclude, depth: directory.depth })
    }

    /// Whether to look into a directory. Those above it are taken as admitted.
    pub(crate) fn enters(&self, directory: &FilePath) -> bool {
        directory.names().count() < self.depth && !self.exclude.is_match(directory.as_str())
    }

    /// Whether to list a file. The directories above it are taken as entered.
    pub(crate) fn lists(&self, file: &FilePath) -> bool {
        let included = self.include.as_ref().is_none_or(|include| include.is_match(file.as_str()));
        included && !self.exclude.is_match(file.as_str())
    }

    /// Whether a file may be read: it would be listed if it exists.
    pub(crate) fn admits(&self, file: &FilePath) -> bool {
        file.ancestors().all(|directory| self.enters(&directory)) && self.lists(file)
    }
}

/// A pattern with a `/` is matched against the whole path, one without against the name at every level.
fn compile(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.trim_end_matches('/');
        let whole = match trimmed.strip_prefix('/') {
            Some(rooted) => rooted.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        let glob = GlobBuilder::new(&whole).literal_separator(true).build();
        set.add(glob.map_err(|error| error.to_string())?);
    }
    set.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str], depth: usize) -> Rules {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
        Rules::new(&Directory {
            include: owned(include),
            exclude: owned(exclude),
            depth,
            ..Directory::default()
        })
        .unwrap()
    }

    fn admitted<'a>(rules: &Rules, paths: &[&'a str]) -> Vec<&'a str> {
        paths.iter().copied().filter(|path| rules.admits(&FilePath::decode(path).unwrap())).collect()
    }

    #[test]
    fn without_patterns_everything_up_to_the_depth_is_served() {
        assert_eq!(admitted(&rules(&[], &[], 2), &["a", "b/c", "b/c/d"]), ["a", "b/c"]);
    }

    #[test]
    fn a_pattern_without_slash_holds_at_every_level() {
        let rules = rules(&["*.md"], &["drafts", "*.tmp.md"], 9);
        let paths = ["a.md", "x/a.md", "a.rs", "drafts/a.md", "x/drafts/y/a.md", "x/b.tmp.md"];
        assert_eq!(admitted(&rules, &paths), ["a.md", "x/a.md"]);
    }

    #[test]
    fn a_pattern_with_slash_holds_from_the_root() {
        let rules = rules(&["guide/**/*.md", "/top.md"], &["guide/old/"], 9);
        let paths = ["guide/a.md", "guide/x/y/a.md", "x/guide/a.md", "top.md", "x/top.md", "guide/old/a.md"];
        assert_eq!(admitted(&rules, &paths), ["guide/a.md", "guide/x/y/a.md", "top.md"]);
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let broken = Directory { exclude: vec!["a[".into()], ..Directory::default() };
        let (key, why) = Rules::new(&broken).unwrap_err();
        assert_eq!(key, "exclude");
        assert!(why.contains("a["), "{why}");
    }
}
