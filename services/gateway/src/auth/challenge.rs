//! `WWW-Authenticate`: what a client is told that has to authenticate, and where it finds out how.

use axum::http::HeaderValue;
use chassis::outbound::Target;

/// What every challenge of a gateway says.
#[derive(Debug, Clone, Default)]
pub(super) struct Challenge {
    /// Where the protected-resource metadata is.
    metadata: Option<String>,
    /// What a token has to have, separated by blanks.
    scope: String,
}

impl Challenge {
    /// `resource` is the URL of the MCP endpoint, where tokens of issuers are taken.
    pub(super) fn new(resource: Option<&Target>, scope: String) -> Self {
        Self { metadata: resource.map(metadata_url), scope }
    }

    /// Nothing was shown.
    pub(super) fn missing(&self) -> HeaderValue {
        self.text(None, &self.scope)
    }

    /// What was shown is not good here. Why, is nobody's business.
    pub(super) fn invalid(&self) -> HeaderValue {
        self.text(Some("invalid_token"), &self.scope)
    }

    /// The token lacks scopes. All that are needed are named, those that it lacks among them: a client that asks for
    /// what it is told gets a token that passes.
    pub(super) fn insufficient(&self, needed: &[String]) -> HeaderValue {
        self.text(Some("insufficient_scope"), &needed.join(" "))
    }

    fn text(&self, error: Option<&str>, scope: &str) -> HeaderValue {
        let scope = Some(scope).filter(|scope| !scope.is_empty());
        let parts = [("error", error), ("resource_metadata", self.metadata.as_deref()), ("scope", scope)];
        let parts: Vec<String> =
            parts.iter().filter_map(|(name, value)| Some(format!("{name}=\"{}\"", (*value)?))).collect();
        // Scopes and the resource were checked when they were configured.
        let text =
            if parts.is_empty() { "Bearer".to_owned() } else { format!("Bearer {}", parts.join(", ")) };
        HeaderValue::try_from(text).unwrap_or_else(|_unfit| HeaderValue::from_static("Bearer"))
    }
}

/// Path of the metadata of a resource at this path.
pub(crate) fn metadata_path(path: &str) -> String {
    format!("/.well-known/oauth-protected-resource{}", path.trim_end_matches('/'))
}

fn metadata_url(resource: &Target) -> String {
    format!("{}{}", resource.origin(), metadata_path(resource.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_where_to_find_out_and_what_is_needed() {
        let resource = Target::parse("https://mesh.example.com/mcp").unwrap();
        let challenge = Challenge::new(Some(&resource), "mcp:use mcp:more".to_owned());
        let metadata =
            "resource_metadata=\"https://mesh.example.com/.well-known/oauth-protected-resource/mcp\"";
        assert_eq!(challenge.missing(), format!("Bearer {metadata}, scope=\"mcp:use mcp:more\"").as_str());
        assert_eq!(
            challenge.invalid(),
            format!("Bearer error=\"invalid_token\", {metadata}, scope=\"mcp:use mcp:more\"").as_str()
        );
        assert_eq!(
            challenge.insufficient(&["a".into(), "b".into()]),
            format!("Bearer error=\"insufficient_scope\", {metadata}, scope=\"a b\"").as_str()
        );
        assert_eq!(Challenge::default().missing(), "Bearer");
        assert_eq!(Challenge::default().invalid(), "Bearer error=\"invalid_token\"");
    }
}
