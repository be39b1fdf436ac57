//! Reading the configuration again while the process runs: on SIGHUP, and when a file it came from has changed.
//!
//! Owns: what can be taken over without a restart, and the word about what cannot. Must not know: how a configuration is made
//! up; it is loaded as at the start, from the same file, environment and command line. One that is wrong changes nothing.
//!
//! Deliberately absent: the certificates of TLS, which are files of their own and are read again by those who use them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::KeyRing;
use chassis::config::ConfigError;
use chassis::drain::Shutdown;
use chassis::entry::Flags;
use chassis::serve::RoleResult;
use chassis::telemetry::{self, Levels};
use gateway::auth::Gate;
use mcp::scan;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use crate::config::{Config, Keys};
use crate::data::DataDir;
use crate::process;

/// How often files are looked at. They may be links that a platform swaps, of which it tells nobody.
const LOOK: Duration = Duration::from_secs(2);

/// Keys of the configuration, or their beginnings, that take effect without a restart.
const TAKEN_OVER: [&str; 5] =
    ["keys.", "auth.", "telemetry.log", "gateway.allowed_hosts", "gateway.allowed_origins"];

/// What a running process can be told of another configuration by.
#[derive(Default)]
pub(crate) struct Hands {
    pub(crate) keys: Option<KeyRing>,
    /// Where keys come from that are not configured.
    pub(crate) data: Option<PathBuf>,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) edge: Option<gateway::App>,
    pub(crate) levels: Option<Levels>,
}

/// SIGHUP. From its installation on it no longer ends the process.
pub(crate) struct Hangup(Signal);

impl Hangup {
    /// Takes the signal over.
    pub(crate) fn install() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }
}

/// See the module.
pub(crate) struct Reload {
    flags: Flags,
    section: &'static str,
    now: Config,
    /// The file as it was when `now` was loaded.
    seen: Option<Vec<u8>>,
}

impl Reload {
    /// Of a process that is about to start with what these flags lead to.
    ///
    /// # Errors
    /// As the start itself.
    pub(crate) fn new(flags: &Flags, section: &'static str) -> Result<Self, ConfigError> {
        let seen = flags.config.as_ref().and_then(|file| std::fs::read(file).ok());
        let now = process::load(flags, section)?.config;
        Ok(Self { flags: flags.clone(), section, now, seen })
    }

    /// Reads again whenever there is a reason, until shutdown.
    pub(crate) async fn run(mut self, hands: Hands, mut hangup: Hangup, stop: Shutdown) -> RoleResult {
        let keys = hands.data.as_ref().map(|data| data.join("keys.toml"));
        let mut seen = (self.seen.take(), content(keys.as_ref()).await);
        loop {
            let called = tokio::select! {
                () = stop.requested() => return Ok(()),
                _ = hangup.0.recv() => true,
                () = sleep(LOOK) => false,
            };
            let found = (content(self.flags.config.as_ref()).await, content(keys.as_ref()).await);
            if called || found != seen {
                seen = found;
                self.again(&hands);
            }
        }
    }

    fn again(&mut self, hands: &Hands) {
        let config = match process::load(&self.flags, self.section) {
            Ok(loaded) => loaded.config,
            Err(error) => {
                tracing::warn!(%error, "the configuration is wrong; nothing of it is taken over");
                return;
            }
        };
        let changed = changed(&self.now, &config);
        let (taken, left): (Vec<String>, Vec<String>) =
            changed.into_iter().partition(|key| is_taken_over(key));
        let has = |prefix: &str| taken.iter().any(|key| key.starts_with(prefix));
        if let Err(error) = hands.try_on(&config, has) {
            // What is known stays what it was, so that the same file is taken over once what it names is there.
            tracing::warn!(error, "the configuration is wrong; nothing of it is taken over");
            return;
        }
        let mut refused = Vec::new();
        // Keys of a data directory do not show in the configuration.
        if has("keys.") || config.keys.is_empty() {
            refused.extend(hands.renew(&config.keys).err());
        }
        if has("telemetry.log")
            && let Some(levels) = &hands.levels
        {
            refused.extend(levels.replace(&config.telemetry.log).err().map(|error| error.to_string()));
        }
        if has("gateway.allowed_")
            && let Some(edge) = &hands.edge
        {
            refused.extend(edge.replace_names(&config.gateway).err().map(|error| error.to_string()));
        }
        if has("auth.")
            && let Some(gate) = &hands.gate
        {
            refused.extend(gate.replace(&config.auth).err().map(|error| error.to_string()));
        }
        let is_whole = refused.is_empty();
        for error in refused {
            tracing::warn!(error, "a part of the configuration is not taken over");
        }
        if !left.is_empty() {
            tracing::warn!(keys = left.join(", "), "changed keys take effect at the next start");
        }
        if is_whole {
            tracing::info!(keys = taken.join(", "), "the configuration was read again");
            self.now = config;
        }
    }
}

impl Hands {
    /// Whether everything that is to be taken over can be. Changes nothing.
    fn try_on(&self, config: &Config, has: impl Fn(&str) -> bool) -> Result<(), String> {
        if has("keys.") && !config.keys.is_empty() {
            drop(config.keys.ring().map_err(|error| error.to_string())?);
        }
        if has("telemetry.log") {
            telemetry::check(&config.telemetry).map_err(|error| error.to_string())?;
        }
        if has("gateway.allowed_")
            && let Some(edge) = &self.edge
        {
            edge.check_names(&config.gateway).map_err(|error| error.to_string())?;
        }
        if has("auth.") && self.gate.is_some() {
            let gate = Gate::new(&config.auth).map_err(|error| error.to_string())?;
            if let Some(edge) = &self.edge {
                edge.check_auth(&gate).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Signs and seals with these keys from now on, or with those of the data directory.
    fn renew(&self, keys: &Keys) -> Result<(), String> {
        let Some(ring) = &self.keys else { return Ok(()) };
        let new = match (&self.data, keys.is_empty()) {
            (Some(data), true) => {
                let kept =
                    DataDir::open(data).and_then(|data| data.keys()).map_err(|error| error.to_string())?;
                kept.ring()
            }
            _ => keys.ring(),
        };
        ring.replace(&new.map_err(|error| error.to_string())?);
        Ok(())
    }
}

async fn content(file: Option<&PathBuf>) -> Option<Vec<u8>> {
    tokio::fs::read(file?).await.ok()
}

fn is_taken_over(key: &str) -> bool {
    TAKEN_OVER.iter().any(|known| key == *known || (known.ends_with('.') && key.starts_with(known)))
}

/// Keys whose values differ, as `section.key`.
fn changed(was: &Config, now: &Config) -> Vec<String> {
    let (old, new) = (mcp::Json::of(was), mcp::Json::of(now));
    let mut changed = Vec::new();
    for section in scan::members(new.as_str()) {
        for key in scan::members(section.value) {
            let before = scan::path(old.as_str(), &[section.key.as_ref(), key.key.as_ref()]);
            // Secrets are written as a mask.
            let is_secret = section.key == "keys" && was.keys != now.keys;
            if before != Some(key.value) || is_secret {
                changed.push(format!("{}.{}", section.key, key.key));
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use chassis::config::Secret;

    use super::*;

    #[test]
    fn what_changed_is_named_also_where_it_is_secret() {
        let was = Config::default();
        assert_eq!(changed(&was, &Config::default()), Vec::<String>::new());
        let mut now = Config::default();
        now.gateway.keep_alive_s = 1;
        now.gateway.allowed_hosts.push("a.example".to_owned());
        assert_eq!(changed(&was, &now), ["gateway.allowed_hosts", "gateway.keep_alive_s"]);
        let with = |key: &str| {
            let mut config = Config::default();
            config.keys.ring.insert("k1".to_owned(), Secret::new(key.to_owned()));
            config
        };
        assert_eq!(changed(&with("a"), &with("b")), ["keys.current", "keys.ring"]);
    }

    #[test]
    fn keys_that_are_taken_over_exist() {
        let all = mcp::Json::of(&Config::default());
        for known in TAKEN_OVER {
            let (section, key) = known.split_once('.').unwrap();
            let section = all.member(section).unwrap_or_else(|| panic!("{known}"));
            assert!(key.is_empty() || section.member(key).is_some(), "{known}");
        }
        assert!(is_taken_over("keys.ring") && is_taken_over("gateway.allowed_hosts"));
        assert!(!is_taken_over("gateway.listen") && !is_taken_over("telemetry.log_more"));
    }
}
