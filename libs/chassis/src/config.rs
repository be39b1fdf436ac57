//! Configuration: one tree of sections, read from four places.
//!
//! Precedence: default < file (TOML) < environment (`TRUNKLINE_<SECTION>__<KEY>`) < `--set` and flags. The environment is an
//! argument. A configuration struct derives `Deserialize` with `#[serde(default, deny_unknown_fields)]` and has a working
//! `Default`; the loader turns what serde refuses into a [`ConfigError`] that names the key, its source and the accepted form.

mod error;
mod layer;
mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::error::ConfigError;
use self::layer::Layer;
pub use self::secret::Secret;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// No source sets it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// The command line, shown without the value.
    CommandLine(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the defaults"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::CommandLine(flag) => write!(f, "{flag} on the command line"),
        }
    }
}

/// One key set on its own.
#[derive(Clone)]
pub struct Override {
    source: Source,
    path: Vec<String>,
    value: String,
}

impl Override {
    /// From the text after `--set`: `SECTION.KEY=VALUE`.
    ///
    /// # Errors
    /// [`ConfigError::Override`] when it has another form.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::Override { key: text.split('=').next().unwrap_or_default().to_owned() };
        let (key, value) = text.split_once('=').ok_or_else(refused)?;
        let path: Vec<String> = key.trim().split('.').map(str::to_owned).collect();
        if path.len() < 2 || path.iter().any(String::is_empty) {
            return Err(refused());
        }
        let source = Source::CommandLine(format!("--set {}", key.trim()));
        Ok(Self { source, path, value: value.to_owned() })
    }

    /// From a flag of its own.
    #[must_use]
    pub fn flag(flag: &str, path: &[&str], value: &str) -> Self {
        Self::new(Source::CommandLine(flag.to_owned()), path, value)
    }

    /// From an environment variable that is not named by its key.
    #[must_use]
    pub fn environment(name: &str, path: &[&str], value: &str) -> Self {
        Self::new(Source::Environment(name.to_owned()), path, value)
    }

    fn new(source: Source, path: &[&str], value: &str) -> Self {
        Self { source, path: path.iter().map(|part| (*part).to_owned()).collect(), value: value.to_owned() }
    }
}

// Values may be secrets, so neither this nor a layer prints them.
impl fmt::Debug for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)
    }
}

/// A configuration that was accepted, and where its values came from.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The configuration.
    pub config: C,
    layers: Vec<Layer>,
}

impl<C> Loaded<C> {
    /// Where the value of `key` (`section.key`) came from.
    #[must_use]
    pub fn source(&self, key: &str) -> Source {
        source_of(&self.layers, &split(key))
    }

    /// Refuses the value of `key` for a reason that the types cannot express.
    #[must_use]
    pub fn refuse(&self, key: &str, problem: &str, accepted: &str) -> ConfigError {
        ConfigError::Value {
            key: key.to_owned(),
            origin: self.source(key),
            problem: problem.to_owned(),
            accepted: accepted.to_owned(),
        }
    }
}

/// Loads a configuration.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn load<C>(
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
    overrides: Vec<Override>,
) -> Result<Loaded<C>, ConfigError>
where
    C: DeserializeOwned + Serialize + Default,
{
    load_over(Vec::new(), file, environment, overrides)
}

/// The same over `weakest`, which every other source wins over but the defaults.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn load_over<C>(
    weakest: Vec<Override>,
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
    overrides: Vec<Override>,
) -> Result<Loaded<C>, ConfigError>
where
    C: DeserializeOwned + Serialize + Default,
{
    let defaults = default_tree::<C>();
    let single = |set: Override| Layer::single(set.source, set.path, set.value);
    let mut layers: Vec<Layer> = weakest.into_iter().map(single).collect();
    if let Some(path) = file {
        layers.push(Layer::file(path)?);
    }
    for (name, value) in environment {
        if let Some(layer) = Layer::environment(name, value, &defaults)? {
            layers.push(layer);
        }
    }
    layers.extend(overrides.into_iter().map(single));

    // A value from the environment or the command line is read as TOML first and as plain text where text is wanted,
    // so each such layer may be read a second time.
    for _attempt in 0..=layers.len() {
        let figment = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer.clone()));
        let error = match figment.extract::<C>() {
            Ok(config) => return Ok(Loaded { config, layers }),
            Err(error) => error,
        };
        if !read_as_text(&mut layers, &error) {
            return Err(ConfigError::from_figment(error, &layers, &defaults));
        }
    }
    Err(ConfigError::Unsettled)
}

/// Prints a configuration as TOML. Secrets appear as `***`.
///
/// # Errors
/// When it holds something that TOML has no form for.
pub fn dump<C: Serialize>(config: &C) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(config)
}

/// The defaults as a tree: what the hints of error messages are made from. Never merged, so a masked secret stays a hint.
fn default_tree<C: Serialize + Default>() -> Dict {
    Value::serialize(C::default()).ok().and_then(Value::into_dict).unwrap_or_default()
}

fn read_as_text(layers: &mut [Layer], error: &figment::Error) -> bool {
    matches!(error.kind, Kind::InvalidType(..) | Kind::InvalidValue(..) | Kind::Unsupported(..))
        && layers
            .iter_mut()
            .rev()
            .find(|layer| layer.find(&error.path).is_some())
            .is_some_and(|layer| layer.reread_as_text(&error.path))
}

fn source_of(layers: &[Layer], path: &[String]) -> Source {
    let set = layers.iter().rev().find(|layer| layer.find(path).is_some());
    set.map_or(Source::Default, |layer| layer.source.clone())
}

fn split(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
