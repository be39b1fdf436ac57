//! Settings of the prompt registry, section `[prompt-registry]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Settings of the prompt registry. The defaults are an empty registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the gRPC server, HOST:PORT; port 0 takes any free one. Not used inside `up`.
    pub listen: String,
    /// Directory of prompt files (`*.md`, not those in directories below it); empty = no prompts.
    pub directory: PathBuf,
    /// Seconds between two looks at the directory when it reported no change; changes are normally noticed at once. Lower
    /// it for network file systems that report none.
    pub rescan_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7203".into(), directory: PathBuf::new(), rescan_s: 30 }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("prompt-registry.{key}: {problem}")]
pub struct ConfigError {
    key: &'static str,
    problem: String,
}

impl ConfigError {
    pub(crate) fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_an_empty_registry() {
        Config::default().check().unwrap();
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<Config>("directories = []").unwrap_err();
        assert!(error.to_string().contains("directories"), "{error}");
    }

    #[test]
    fn a_problem_names_its_key() {
        let error = Config { rescan_s: 0, ..Config::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "prompt-registry.rescan_s: must be at least 1");
    }
}
