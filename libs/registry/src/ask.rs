//! Questions to the client in the middle of a call, and its answers.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp::edit::{self, ObjectEditor};
use mcp::method::server_request;
use mcp::rpc::RpcError;
use mcp::{Json, scan};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::input::{self, Input};

/// How long answers are awaited unless said otherwise: a human is asked.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Questions that are asked together. Each has a key under which its answer is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    requests: Vec<Request>,
    pub(crate) patience: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    key: String,
    method: String,
    params: Json,
}

impl Default for Ask {
    fn default() -> Self {
        Self { requests: Vec::new(), patience: PATIENCE }
    }
}

impl Ask {
    /// No question yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the user to fill in a form.
    #[must_use]
    pub fn elicit(self, key: &str, message: &str, inputs: impl IntoIterator<Item = Input>) -> Self {
        let inputs: Vec<Input> = inputs.into_iter().collect();
        self.elicit_schema(key, message, &input::object_schema(&inputs))
    }

    /// Asks the user to fill in a form that a schema describes.
    #[must_use]
    pub fn elicit_schema(self, key: &str, message: &str, schema: &Json) -> Self {
        let message = edit::quote(message);
        let params = edit::object([("message", message.into()), ("requestedSchema", schema.as_str().into())]);
        self.request(key, server_request::ELICIT, params)
    }

    /// Asks the user to open a page.
    #[must_use]
    pub fn elicit_url(self, key: &str, message: &str, url: &str) -> Self {
        let params = edit::object([
            ("mode", "\"url\"".into()),
            ("message", edit::quote(message).into()),
            ("url", edit::quote(url).into()),
        ]);
        self.request(key, server_request::ELICIT, params)
    }

    /// Asks the client's model. `params` are those of `sampling/createMessage`.
    #[must_use]
    pub fn sample(self, key: &str, params: Json) -> Self {
        self.request(key, server_request::SAMPLE, params)
    }

    /// Asks for the client's roots.
    #[must_use]
    pub fn roots(self, key: &str) -> Self {
        self.request(key, server_request::ROOTS, Json::empty_object())
    }

    /// Asks anything.
    #[must_use]
    pub fn request(mut self, key: &str, method: &str, params: Json) -> Self {
        self.requests.retain(|request| request.key != key);
        self.requests.push(Request { key: key.to_owned(), method: method.to_owned(), params });
        self
    }

    /// How long the answers are awaited.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.requests.iter().map(|request| request.key.as_str())
    }

    /// The object key -> {method, params}, of those keys that `wanted` lets through.
    pub(crate) fn to_json(&self, wanted: impl Fn(&str) -> bool) -> Json {
        let mut editor = ObjectEditor::new("{}");
        for request in self.requests.iter().filter(|request| wanted(&request.key)) {
            let body = edit::object([
                ("method", edit::quote(&request.method).into()),
                ("params", request.params.as_str().into()),
            ]);
            editor.set(request.key.as_str(), body.to_string());
        }
        editor.finish_json()
    }

    /// Checks that the client declared what these questions need.
    pub(crate) fn check(&self, capabilities: Option<&Json>) -> Result<(), Error> {
        let declared = capabilities.map_or("{}", Json::as_str);
        let missing: Vec<&'static str> =
            self.requests.iter().filter_map(|request| request.lacks(declared)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut required = ObjectEditor::new("{}");
        for raw in missing {
            for member in scan::members(raw) {
                let merged = match required.get(&member.key) {
                    Some(present) => merge(present, member.value),
                    None => member.value.to_owned(),
                };
                required.set(member.key, merged);
            }
        }
        Err(Error::MissingCapability(required.finish_json()))
    }
}

fn merge(one: &str, other: &str) -> String {
    let mut editor = ObjectEditor::new(one);
    for member in scan::members(other) {
        editor.set(member.key, member.value);
    }
    editor.finish()
}

impl Request {
    /// The capabilities object that would be needed, if the client did not declare it.
    fn lacks(&self, declared: &str) -> Option<&'static str> {
        let has = |path: &[&str]| scan::path(declared, path).is_some();
        match self.method.as_str() {
            server_request::ELICIT if self.is_url() => {
                (!has(&["elicitation", "url"])).then_some(r#"{"elicitation":{"url":{}}}"#)
            }
            server_request::ELICIT => {
                let url_only = has(&["elicitation", "url"]) && !has(&["elicitation", "form"]);
                (!has(&["elicitation"]) || url_only).then_some(r#"{"elicitation":{"form":{}}}"#)
            }
            server_request::SAMPLE if scan::member(self.params.as_str(), "tools").is_some() => {
                (!has(&["sampling", "tools"])).then_some(r#"{"sampling":{"tools":{}}}"#)
            }
            server_request::SAMPLE => (!has(&["sampling"])).then_some(r#"{"sampling":{}}"#),
            server_request::ROOTS => (!has(&["roots"])).then_some(r#"{"roots":{}}"#),
            _ => None,
        }
    }

    fn is_url(&self) -> bool {
        self.params.text("mode").as_deref() == Some("url")
    }
}

/// What the user did with a form or a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elicited<T> {
    /// Filled in, or agreed to.
    Accepted(T),
    /// Said no.
    Declined,
    /// Went away without an answer.
    Cancelled,
}

/// The client's answers, one for each question.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers(pub(crate) BTreeMap<String, Result<Json, RpcError>>);

impl Answers {
    /// The result object of one question.
    ///
    /// # Errors
    /// [`Error::Failed`] if the client refused it, or if there was no such question.
    pub fn result(&self, key: &str) -> Result<&Json, Error> {
        match self.0.get(key) {
            Some(Ok(result)) => Ok(result),
            Some(Err(refusal)) => Err(Error::Failed(format!("the client refused: {}", refusal.message))),
            None => Err(Error::Failed(format!("there is no answer `{key}`"))),
        }
    }

    /// Those answers that were asked for.
    pub(crate) fn of(mut self, ask: &Ask) -> Self {
        self.0.retain(|key, _| ask.keys().any(|asked| asked == key));
        self
    }

    /// Whether this key was answered with an object, which every kind of answer is.
    pub(crate) fn has_object(&self, key: &str) -> bool {
        matches!(self.0.get(key), Some(Ok(result)) if scan::is_object(result.as_str()))
    }

    /// The refusal of one question, if the client refused it.
    #[must_use]
    pub fn refusal(&self, key: &str) -> Option<&RpcError> {
        self.0.get(key)?.as_ref().err()
    }

    /// What the user filled into a form. A page has no content: use `Elicited<serde::de::IgnoredAny>`.
    ///
    /// # Errors
    /// [`Error::Failed`] if the client refused the question or its answer does not have the form.
    pub fn elicited<T: DeserializeOwned>(&self, key: &str) -> Result<Elicited<T>, Error> {
        let result = self.result(key)?;
        match result.text("action").as_deref() {
            Some("accept") => {
                let content = result.member("content").unwrap_or_else(Json::empty_object);
                let content =
                    content.read().map_err(|e| Error::Failed(format!("unusable answer `{key}`: {e}")))?;
                Ok(Elicited::Accepted(content))
            }
            Some("decline") => Ok(Elicited::Declined),
            Some("cancel") => Ok(Elicited::Cancelled),
            _ => Err(Error::Failed(format!(
                "unusable answer `{key}`: `action` is not accept, decline or cancel"
            ))),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Result<Json, RpcError>)> {
        self.0.iter().map(|(key, answer)| (key.as_str(), answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(ask: &Ask, declared: &'static str) -> Option<String> {
        match ask.check(Some(&Json::trusted(declared))) {
            Ok(()) => None,
            Err(Error::MissingCapability(required)) => Some(required.to_string()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn only_what_the_client_declared_is_asked() {
        let form = Ask::new().elicit("a", "?", [Input::string("x")]);
        let url = Ask::new().elicit_url("a", "?", "https://x");
        let sample = Ask::new().sample("a", Json::empty_object());
        let with_tools = Ask::new().sample("a", Json::trusted(r#"{"tools":[]}"#));
        let roots = Ask::new().roots("a");
        for (ask, good, bad, required) in [
            (&form, r#"{"elicitation":{}}"#, "{}", r#"{"elicitation":{"form":{}}}"#),
            (
                &form,
                r#"{"elicitation":{"form":{}}}"#,
                r#"{"elicitation":{"url":{}}}"#,
                r#"{"elicitation":{"form":{}}}"#,
            ),
            (&url, r#"{"elicitation":{"url":{}}}"#, r#"{"elicitation":{}}"#, r#"{"elicitation":{"url":{}}}"#),
            (&sample, r#"{"sampling":{}}"#, "{}", r#"{"sampling":{}}"#),
            (
                &with_tools,
                r#"{"sampling":{"tools":{}}}"#,
                r#"{"sampling":{}}"#,
                r#"{"sampling":{"tools":{}}}"#,
            ),
            (&roots, r#"{"roots":{}}"#, "{}", r#"{"roots":{}}"#),
        ] {
            assert_eq!(missing(ask, good), None, "{good}");
            assert_eq!(missing(ask, bad).as_deref(), Some(required));
        }
        let both = form.clone().elicit_url("b", "?", "https://x").roots("c");
        assert_eq!(
            missing(&both, "{}").as_deref(),
            Some(r#"{"elicitation":{"form":{},"url":{}},"roots":{}}"#)
        );
        assert!(form.check(None).is_err(), "nothing declared");
    }

    #[test]
    fn answers_are_read() {
        let answers = Answers(BTreeMap::from([
            ("yes".to_owned(), Ok(Json::trusted(r#"{"action":"accept","content":{"n":1}}"#))),
            ("no".to_owned(), Ok(Json::trusted(r#"{"action":"decline"}"#))),
            ("odd".to_owned(), Ok(Json::trusted(r#"{"action":7}"#))),
            ("err".to_owned(), Err(RpcError::new(-1, "not allowed"))),
        ]));
        let content = BTreeMap::from([("n".to_owned(), 1)]);
        assert_eq!(answers.elicited("yes"), Ok(Elicited::Accepted(content)));
        assert_eq!(answers.elicited::<Json>("no"), Ok(Elicited::Declined));
        for (key, word) in [("odd", "action"), ("err", "not allowed"), ("none", "no answer")] {
            assert!(answers.elicited::<Json>(key).unwrap_err().to_string().contains(word), "{key}");
        }
    }
}
