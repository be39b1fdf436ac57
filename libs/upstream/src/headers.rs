//! The headers of the protocol, made from what the body says.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use mcp::header::{self, ParamHeader};
use mcp::method::Target;
use mcp::{Json, Method, Revision, scan};

use crate::client::State;

/// Of a modern request.
pub(crate) fn modern(method: Method, params: &Json, tool: &[ParamHeader]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    set(&mut headers, header::PROTOCOL_VERSION, Revision::LATEST.as_str());
    set(&mut headers, header::METHOD, method.as_str());
    let target = match method.target() {
        Target::Name => params.text("name"),
        Target::Uri => params.text("uri"),
        Target::None => None,
    };
    if let Some(target) = target {
        set(&mut headers, header::NAME, &header::encode(&target));
    }
    let arguments = scan::member(params.as_str(), "arguments");
    for param in tool {
        if let Some(text) = arguments.and_then(|arguments| value(arguments, &param.path)) {
            set(&mut headers, &param.header, &header::encode(&text));
        }
    }
    headers
}

/// Of everything that is sent in a session.
pub(crate) fn older(state: &State) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(session) = &state.session {
        headers.insert(header::SESSION_ID, session.clone());
    }
    if state.revision >= Revision::V2025_06_18 {
        set(&mut headers, header::PROTOCOL_VERSION, state.revision.as_str());
    }
    headers
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    // Values are encoded, and names come from checked schemas; one that is no header name is one the server cannot want.
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}

/// The text of the argument at `path`, if it is there and not null.
fn value(arguments: &str, path: &[String]) -> Option<String> {
    let raw = path.iter().try_fold(arguments, |value, name| scan::member(value, name))?;
    match raw.as_bytes().first()? {
        b'n' | b'{' | b'[' => None,
        b'"' => scan::string(raw).map(std::borrow::Cow::into_owned),
        _ => Some(raw.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &HeaderMap) -> Vec<(&str, &str)> {
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        shown.sort_unstable();
        shown
    }

    #[test]
    fn a_modern_call_repeats_name_and_annotated_arguments() {
        let schema = r#"{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},"dry":{"type":"boolean","x-mcp-header":"Dry"},
            "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}},
            "gone":{"type":"string","x-mcp-header":"Gone"}}}"#;
        let tool = header::param_headers(schema).unwrap();
        let params = Json::trusted(
            r#"{"name":"größe","arguments":{"region":" eu","dry":true,"deep":{"n":-7},"gone":null}}"#,
        );
        assert_eq!(
            shown(&modern(Method::ToolsCall, &params, &tool)),
            [
                ("mcp-method", "tools/call"),
                ("mcp-name", "=?base64?Z3LDtsOfZQ==?="),
                ("mcp-param-dry", "true"),
                ("mcp-param-n", "-7"),
                ("mcp-param-region", "=?base64?IGV1?="),
                ("mcp-protocol-version", "2026-07-28"),
            ]
        );
        let given: Vec<_> = modern(Method::ToolsCall, &params, &tool)
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec().into()))
            .collect();
        let arguments = params.member("arguments").unwrap();
        assert_eq!(header::check_params(&given, Some(arguments.as_str()), &tool), Ok(()));
    }

    #[test]
    fn the_revision_is_sent_since_there_is_a_header_for_it() {
        let session = Some(HeaderValue::from_static("s1"));
        let of = |revision| older(&State { revision, session: session.clone() });
        assert_eq!(shown(&of(Revision::V2025_03_26)), [("mcp-session-id", "s1")]);
        assert_eq!(
            shown(&of(Revision::V2025_11_25)),
            [("mcp-protocol-version", "2025-11-25"), ("mcp-session-id", "s1")]
        );
    }
}
