//! What this mesh says of itself to clients.

use std::sync::{Arc, Mutex, PoisonError};

use machines::{Millis, Settings};
use mcp::Json;
use mcp::edit::{self, ObjectEditor};
use mcp::scan::{self, Limits};

use crate::config::Config;
use crate::host::Shared;
use crate::registries::catalogue::Catalogue;

/// Registries come and go, so every feature is always offered; lists are empty while nobody serves them.
const CAPABILITIES: &str = concat!(
    r#"{"completions":{},"logging":{},"prompts":{"listChanged":true},"#,
    r#""resources":{"subscribe":true,"listChanged":true},"tools":{"listChanged":true}}"#
);

/// See the module.
pub(crate) struct Facts {
    settings: Settings,
    /// The settings made for the catalogue that was last asked about.
    made: Mutex<Option<(Arc<Catalogue>, Arc<Settings>)>>,
}

impl Facts {
    pub(crate) fn new(config: &Config) -> Self {
        let info = format!(
            "{{\"name\":{},\"title\":\"Trunkline\",\"version\":{}}}",
            edit::quote(&config.server_name),
            edit::quote(env!("CARGO_PKG_VERSION"))
        );
        let settings = Settings {
            server_info: Json::trusted(info),
            init_timeout_ms: config.init_timeout_s * 1000,
            idle_timeout_ms: config.idle_timeout_s * 1000,
            max_life_ms: if config.max_life_s == 0 {
                Millis::MAX
            } else {
                config.max_life_s.saturating_mul(1000)
            },
            call_timeout_ms: config.call_timeout_s * 1000,
            ask_timeout_ms: config.ask_timeout_s * 1000,
            ..Settings::default()
        };
        Self { settings, made: Mutex::default() }
    }

    /// Settings of a session that begins with this catalogue; shared by all that do.
    pub(crate) fn settings(&self, catalogue: &Arc<Catalogue>) -> Arc<Settings> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, settings)) = made.as_ref().filter(|(known, _)| Arc::ptr_eq(known, catalogue)) {
            let _same: &Arc<Catalogue> = known;
            return settings.clone();
        }
        let settings = Arc::new(Settings {
            capabilities: capabilities(catalogue),
            lists: catalogue.lists(),
            instructions: Some(catalogue.instructions.clone()).filter(|text| !text.is_empty()),
            ..self.settings.clone()
        });
        *made = Some((catalogue.clone(), settings.clone()));
        settings
    }

    /// The server's Implementation object.
    pub(crate) const fn server_info(&self) -> &Json {
        &self.settings.server_info
    }

    /// Result of `server/discover`, without what every modern result gets.
    pub(crate) fn discovery(&self, catalogue: &Arc<Catalogue>) -> Json {
        let settings = self.settings(catalogue);
        let mut result = ObjectEditor::new(r#"{"supportedVersions":["2026-07-28"]}"#);
        result.set("capabilities", settings.capabilities.as_str());
        if let Some(text) = &settings.instructions {
            result.set("instructions", edit::quote(text));
        }
        result.finish_json()
    }
}

impl Shared {
    /// Settings of a session, as this node serves it now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.facts.settings(&self.registries.catalogue())
    }
}

fn capabilities(catalogue: &Catalogue) -> Json {
    let mut all = ObjectEditor::new(CAPABILITIES);
    if let Some(added) = &catalogue.capabilities {
        for member in scan::members(added.as_str()) {
            all.set_default(member.key, member.value);
        }
    }
    let all = all.finish_json();
    // They are looked into with every request: it is noted where each stands.
    Json::parse(all.bytes(), &Limits::RESULT).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_add_is_offered_and_ours_is_not_overridden() {
        let mut catalogue = Catalogue::default();
        catalogue.capabilities = Some(Json::trusted(r#"{"tools":{"x":1},"extensions":{"a/b":{"n":1.0}}}"#));
        let all = capabilities(&catalogue);
        assert_eq!(scan::path(all.as_str(), &["tools"]), Some(r#"{"listChanged":true}"#));
        assert_eq!(scan::path(all.as_str(), &["extensions"]), Some(r#"{"a/b":{"n":1.0}}"#));
    }

    #[test]
    fn sessions_of_one_catalogue_share_their_settings() {
        let facts = Facts::new(&Config::default());
        let catalogue = Arc::new(Catalogue::default());
        assert!(Arc::ptr_eq(&facts.settings(&catalogue), &facts.settings(&catalogue)));
        assert!(!Arc::ptr_eq(&facts.settings(&catalogue), &facts.settings(&Arc::new(Catalogue::default()))));
    }
}
