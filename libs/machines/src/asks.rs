//! What a registry wants from the client, and whether this client can do it.

use std::collections::BTreeSet;

use mcp::edit;
use mcp::method::server_request;
use mcp::{Json, Revision, scan};

/// One entry of `inputRequests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) key: String,
    pub(crate) method: String,
    pub(crate) params: Option<Json>,
}

/// What a client must have declared to be asked something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Form,
    Url,
    Sampling,
    SamplingTools,
    Roots,
}

/// The entries of `inputRequests`, in order; `None` if one of them is not a request.
pub(crate) fn read(requests: &Json) -> Option<Vec<Wanted>> {
    if !scan::is_object(requests.as_str()) {
        return None;
    }
    let entry = |member: scan::Member<'_>| {
        let method = scan::string(scan::member(member.value, "method")?)?.into_owned();
        let params = scan::member(member.value, "params");
        if params.is_some_and(|raw| !scan::is_object(raw)) {
            return None;
        }
        let key = member.key.into_owned();
        Some(Wanted { key, method, params: params.map(|raw| requests.slice(raw)) })
    };
    scan::members(requests.as_str()).map(entry).collect()
}

impl Wanted {
    fn param(&self, key: &str) -> Option<&str> {
        self.params.as_ref().and_then(|params| scan::member(params.as_str(), key))
    }

    /// Whether this is an elicitation by URL.
    pub(crate) fn is_url(&self) -> bool {
        self.need() == Some(Need::Url)
    }

    /// What it needs; `None` if it is not a kind of request that exists.
    pub(crate) fn need(&self) -> Option<Need> {
        match self.method.as_str() {
            server_request::ELICIT => match self.param("mode").and_then(scan::string).as_deref() {
                None | Some("form") => Some(Need::Form),
                Some("url") => Some(Need::Url),
                Some(_) => None,
            },
            server_request::SAMPLE if self.param("tools").is_some() || self.param("toolChoice").is_some() => {
                Some(Need::SamplingTools)
            }
            server_request::SAMPLE => Some(Need::Sampling),
            server_request::ROOTS => Some(Need::Roots),
            _ => None,
        }
    }
}

impl Need {
    /// Whether a client of `revision` with these capabilities can be asked.
    pub(crate) fn is_met(self, capabilities: &str, revision: Revision) -> bool {
        let declared = |path: &[&str]| scan::path(capabilities, path).is_some_and(scan::is_object);
        let two_modes = revision >= Revision::V2025_11_25;
        match self {
            // An empty object declares the form mode, as it did when there was no other.
            Self::Form => {
                revision >= Revision::V2025_06_18
                    && declared(&["elicitation"])
                    && (!two_modes
                        || declared(&["elicitation", "form"])
                        || !declared(&["elicitation", "url"]))
            }
            Self::Url => two_modes && declared(&["elicitation", "url"]),
            Self::Sampling => declared(&["sampling"]),
            Self::SamplingTools => two_modes && declared(&["sampling", "tools"]),
            Self::Roots => declared(&["roots"]),
        }
    }

    const fn path(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Form => ("elicitation", Some("form")),
            Self::Url => ("elicitation", Some("url")),
            Self::Sampling => ("sampling", None),
            Self::SamplingTools => ("sampling", Some("tools")),
            Self::Roots => ("roots", None),
        }
    }
}

/// The capabilities object a client would have to declare, for `data.requiredCapabilities`.
pub(crate) fn required(needs: &BTreeSet<Need>) -> Json {
    let mut text = String::from("{}");
    for need in needs {
        let (name, part) = need.path();
        let inner: Vec<(&str, &str)> = part.map(|p| (p, "{}")).into_iter().collect();
        text = edit::set_inside(&text, name, &inner);
    }
    Json::trusted(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(method: &str, params: &str) -> Wanted {
        let requests = format!("{{\"k\":{{\"method\":\"{method}\",\"params\":{params}}}}}");
        read(&Json::trusted(requests)).unwrap().remove(0)
    }

    #[test]
    fn each_kind_needs_its_capability_and_its_revision() {
        let form = wanted("elicitation/create", "{}");
        let url = wanted("elicitation/create", r#"{"mode":"url"}"#);
        let sample = wanted("sampling/createMessage", "{}");
        let tools = wanted("sampling/createMessage", r#"{"tools":[]}"#);
        let roots = wanted("roots/list", "{}");
        let (v24, v06, v11, v26) =
            (Revision::V2024_11_05, Revision::V2025_06_18, Revision::V2025_11_25, Revision::V2026_07_28);
        let table = [
            (&form, "{}", v11, false),
            (&form, r#"{"elicitation":{}}"#, v24, false),
            (&form, r#"{"elicitation":{}}"#, v06, true),
            (&form, r#"{"elicitation":{}}"#, v11, true),
            (&form, r#"{"elicitation":{"url":{}}}"#, v06, true),
            (&form, r#"{"elicitation":{"url":{}}}"#, v11, false),
            (&form, r#"{"elicitation":{"form":{},"url":{}}}"#, v26, true),
            (&url, r#"{"elicitation":{}}"#, v11, false),
            (&url, r#"{"elicitation":{"url":{}}}"#, v06, false),
            (&url, r#"{"elicitation":{"url":{}}}"#, v11, true),
            (&sample, r#"{"sampling":{}}"#, v24, true),
            (&sample, r#"{"sampling":null}"#, v24, false),
            (&tools, r#"{"sampling":{}}"#, v11, false),
            (&tools, r#"{"sampling":{"tools":{}}}"#, v11, true),
            (&tools, r#"{"sampling":{"tools":{}}}"#, v06, false),
            (&roots, r#"{"roots":{}}"#, v24, true),
            (&roots, "{}", v24, false),
        ];
        for (ask, capabilities, revision, met) in table {
            let need = ask.need().unwrap();
            assert_eq!(need.is_met(capabilities, revision), met, "{need:?} {capabilities} {revision}");
        }
        assert_eq!(wanted("tools/call", "{}").need(), None);
        assert_eq!(wanted("elicitation/create", r#"{"mode":"smell"}"#).need(), None);
    }

    #[test]
    fn required_capabilities_are_one_object() {
        let needs = BTreeSet::from([Need::Form, Need::Url, Need::Sampling, Need::SamplingTools, Need::Roots]);
        assert_eq!(
            required(&needs).as_str(),
            r#"{"elicitation":{"form":{},"url":{}},"sampling":{"tools":{}},"roots":{}}"#
        );
        assert_eq!(required(&BTreeSet::from([Need::Sampling])).as_str(), r#"{"sampling":{}}"#);
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for bad in [
            "[]",
            r#"{"k":1}"#,
            r#"{"k":{}}"#,
            r#"{"k":{"method":1}}"#,
            r#"{"k":{"method":"m","params":[]}}"#,
        ] {
            assert_eq!(read(&Json::trusted(bad)), None, "{bad}");
        }
    }
}
