//! What every role's command line has in common, and the lines it prints.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, ConfigError, Loaded, Override};

/// Flags of every role.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets one key, over the file and the environment. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Checks the configuration and exits.
    #[arg(long)]
    pub check: bool,
    /// Prints the configuration in effect (secrets as ***) and exits.
    #[arg(long)]
    pub dump_config: bool,
}

impl Flags {
    /// Loads the configuration: defaults, then the file, then `environment`, then `--set`, then `--listen` for `section`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, its source and the accepted form.
    pub fn load<C>(
        &self,
        section: &str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Loaded<C>, ConfigError>
    where
        C: DeserializeOwned + Serialize + Default,
    {
        self.load_over(section, environment, Vec::new())
    }

    /// The same over `weakest`, which stands only above the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, its source and the accepted form.
    pub fn load_over<C>(
        &self,
        section: &str,
        environment: &BTreeMap<String, String>,
        weakest: Vec<Override>,
    ) -> Result<Loaded<C>, ConfigError>
    where
        C: DeserializeOwned + Serialize + Default,
    {
        let mut overrides =
            self.set.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(address) = &self.listen {
            overrides.push(Override::flag("--listen", &[section, "listen"], address));
        }
        config::load_over(weakest, self.config.as_deref(), environment, overrides)
    }
}

/// Prints the line that says where a role listens: `listening <role> <where>`.
///
/// # Errors
/// When standard output is closed.
pub fn announce(role: &str, address: &str) -> io::Result<()> {
    print(&format!("listening {role} {address}"))
}

/// Prints to standard output, with a line end, at once.
///
/// # Errors
/// When standard output is closed.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
