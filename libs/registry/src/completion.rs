//! Completion of arguments: what is asked and what is answered.

use std::collections::BTreeMap;

use api::Principal;
use mcp::edit::{self, ObjectEditor};
use mcp::rpc::RpcError;
use mcp::{Json, code, scan};

/// Most values one answer may hold.
pub(crate) const MAX_VALUES: usize = 100;

/// What is to be completed.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// Name of the prompt, or text of the URI template.
    pub reference: String,
    /// Whether `reference` is a URI template.
    pub is_template: bool,
    /// Name of the argument or variable.
    pub argument: String,
    /// What has been typed so far.
    pub value: String,
    /// Arguments that are known already.
    pub known: BTreeMap<String, String>,
    /// Who asks.
    pub principal: Principal,
    /// The request's params as they came.
    pub params: Json,
}

impl CompletionRequest {
    /// Reads the params of `completion/complete`.
    pub(crate) fn read(params: Json, principal: Principal) -> Result<Self, RpcError> {
        let invalid = |what: &str| RpcError::new(code::INVALID_PARAMS, format!("completion: {what}"));
        let text = |path: &[&str]| {
            scan::path(params.as_str(), path).and_then(scan::string).map(std::borrow::Cow::into_owned)
        };
        let kind = text(&["ref", "type"]).ok_or_else(|| invalid("`ref.type` is missing"))?;
        let (is_template, reference) = match kind.as_str() {
            "ref/prompt" => (false, text(&["ref", "name"]).ok_or_else(|| invalid("`ref.name` is missing"))?),
            "ref/resource" => (true, text(&["ref", "uri"]).ok_or_else(|| invalid("`ref.uri` is missing"))?),
            _ => return Err(invalid("`ref.type` must be ref/prompt or ref/resource")),
        };
        let argument = text(&["argument", "name"]).ok_or_else(|| invalid("`argument.name` is missing"))?;
        let value = text(&["argument", "value"]).ok_or_else(|| invalid("`argument.value` is missing"))?;
        let known = scan::path(params.as_str(), &["context", "arguments"])
            .map(|raw| {
                scan::members(raw)
                    .filter_map(|m| Some((m.key.into_owned(), scan::string(m.value)?.into_owned())))
            })
            .map(Iterator::collect)
            .unwrap_or_default();
        Ok(Self { reference, is_template, argument, value, known, principal, params })
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completion {
    values: Vec<String>,
    total: Option<usize>,
    raw: Option<Json>,
}

impl Completion {
    /// These values, best first. Those beyond the first 100 are counted, not sent.
    #[must_use]
    pub fn values<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Self {
        let mut values: Vec<String> = values.into_iter().map(Into::into).collect();
        let total = values.len();
        values.truncate(MAX_VALUES);
        Self { values, total: Some(total), raw: None }
    }

    /// Those of `candidates` that begin with what has been typed, upper and lower case alike.
    #[must_use]
    pub fn matching<T: AsRef<str>>(candidates: impl IntoIterator<Item = T>, typed: &str) -> Self {
        let typed = typed.to_lowercase();
        let fits = |c: &T| c.as_ref().to_lowercase().starts_with(&typed);
        Self::values(candidates.into_iter().filter(fits).map(|c| c.as_ref().to_owned()))
    }

    /// A whole result object, sent as it is.
    #[must_use]
    pub fn raw(result: Json) -> Self {
        Self { raw: Some(result), ..Self::default() }
    }

    pub(crate) fn into_result(self) -> Json {
        if let Some(raw) = self.raw {
            return raw;
        }
        let values = Json::of(&self.values);
        let total = self.total.unwrap_or(self.values.len());
        let mut inner = ObjectEditor::new("{}");
        inner.set("values", values.as_str()).set("total", total.to_string());
        inner.set("hasMore", if total > self.values.len() { "true" } else { "false" });
        edit::object([("completion", inner.finish().into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<CompletionRequest, RpcError> {
        CompletionRequest::read(Json::trusted(text), Principal::default())
    }

    #[test]
    fn both_kinds_of_reference_are_read() {
        let prompt = read(
            r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"x"},"context":{"arguments":{"b":"y"}}}"#,
        )
        .unwrap();
        assert_eq!(
            (prompt.reference.as_str(), prompt.is_template, prompt.argument.as_str()),
            ("p", false, "a")
        );
        assert_eq!(prompt.known, BTreeMap::from([("b".to_owned(), "y".to_owned())]));
        let template =
            read(r#"{"ref":{"type":"ref/resource","uri":"a://{b}"},"argument":{"name":"b","value":""}}"#)
                .unwrap();
        assert_eq!((template.reference.as_str(), template.is_template), ("a://{b}", true));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, word) in [
            ("{}", "ref.type"),
            (r#"{"ref":{"type":"x"}}"#, "ref.type"),
            (r#"{"ref":{"type":"ref/prompt"}}"#, "ref.name"),
            (r#"{"ref":{"type":"ref/resource"}}"#, "ref.uri"),
            (r#"{"ref":{"type":"ref/prompt","name":"p"}}"#, "argument.name"),
            (r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a"}}"#, "argument.value"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code, code::INVALID_PARAMS);
            assert!(error.message.contains(word), "{text}: {}", error.message);
        }
    }

    #[test]
    fn at_most_a_hundred_values_are_sent() {
        let result = Completion::values((0..150).map(|n| n.to_string())).into_result();
        assert_eq!(
            scan::elements(scan::path(result.as_str(), &["completion", "values"]).unwrap()).count(),
            100
        );
        assert!(result.as_str().ends_with(r#""total":150,"hasMore":true}}"#));
        let few = Completion::matching(["Paris", "Park", "Rome"], "pAr").into_result();
        assert_eq!(few.as_str(), r#"{"completion":{"values":["Paris","Park"],"total":2,"hasMore":false}}"#);
    }
}
