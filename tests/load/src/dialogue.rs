//! What clients say, and the check that every answer is the right one.
//!
//! The first answer of its kind is read and judged by its meaning. From it a template is made, and every further answer has
//! to be the same byte for byte but for its id and its text; one that is not is judged by its meaning again.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::Value;

use crate::connection::{Connection, Target, response_in};

/// The header that names a session.
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

const MODERN: &str = "2026-07-28";
/// Revision of the older sessions.
pub const OLDER: &str = "2025-11-25";
macro_rules! meta {
    () => {
        concat!(
            r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
            r#""io.modelcontextprotocol/clientCapabilities":{}}"#
        )
    };
}
const META: &str = meta!();
/// Bytes of the text that `echo` is given.
const TEXT: usize = 128;

/// What one client does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Posts a modern call and expects the same bytes back: what the floors do.
    Raw,
    /// `tools/call` of `echo`, 2026-07-28.
    Modern,
    /// `tools/call` of `echo` in a session.
    Older,
    /// `tools/call` of `echo` of an older revision, without any session.
    Stateless,
    /// `tools/list`, all pages, 2026-07-28.
    List,
    /// Creates a session: `initialize` and `notifications/initialized`.
    Create,
}

/// One client: says the next thing and judges what comes back.
pub struct Client {
    kind: Kind,
    number: usize,
    target: Target,
    headers: HeaderMap,
    /// What `tools/list` has to bring.
    pub expected_tools: usize,
    tool: String,
    template: Option<Template>,
    /// Calls that were judged by their meaning.
    pub judged: u64,
    /// Sessions it uses in turn, or has made.
    pub sessions: Vec<HeaderValue>,
}

impl Client {
    /// A client that has said nothing yet. The number tells its texts from the others'.
    #[must_use]
    pub fn new(kind: Kind, number: usize, target: Target, tool: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let tool_header = HeaderValue::from_str(tool).ok();
        match kind {
            Kind::Raw | Kind::Modern | Kind::List => {
                let method = if kind == Kind::List { "tools/list" } else { "tools/call" };
                headers.insert(VERSION, HeaderValue::from_static(MODERN));
                headers.insert(METHOD, HeaderValue::from_static(method));
                if kind != Kind::List {
                    headers.extend(tool_header.map(|tool| (NAME, tool)));
                }
            }
            Kind::Older | Kind::Stateless => {
                headers.insert(VERSION, HeaderValue::from_static(OLDER));
            }
            Kind::Create => {}
        }
        let (tool, template) = (tool.to_owned(), None);
        Self {
            kind,
            number,
            target,
            headers,
            expected_tools: 0,
            tool,
            template,
            judged: 0,
            sessions: Vec::new(),
        }
    }

    /// Says the next thing, the `turn`-th, and reads the answer.
    ///
    /// # Errors
    /// When there is none, or a wrong one.
    pub async fn turn(&mut self, connection: &mut Connection, turn: u64) -> Result<()> {
        match self.kind {
            Kind::Raw | Kind::Modern | Kind::Stateless => self.call(connection, turn).await,
            Kind::Older => {
                let session = usize::try_from(turn)? % self.sessions.len().max(1);
                let session = self.sessions.get(session).context("a client without a session")?.clone();
                self.headers.insert(SESSION, session);
                self.call(connection, turn).await
            }
            Kind::List => self.list(connection, turn).await,
            Kind::Create => {
                let session = create(connection, &self.target, &self.headers).await?;
                self.sessions.push(session);
                Ok(())
            }
        }
    }

    async fn call(&mut self, connection: &mut Connection, turn: u64) -> Result<()> {
        let text = self.text(turn);
        let meta = match self.kind {
            Kind::Raw | Kind::Modern | Kind::List => concat!(",", meta!()),
            Kind::Older | Kind::Stateless | Kind::Create => "",
        };
        let body = Bytes::from(format!(
            r#"{{"jsonrpc":"2.0","id":{turn},"method":"tools/call","params":{{"name":"{}","arguments":{{"message":"{text}"}}{meta}}}}}"#,
            self.tool
        ));
        let request = self.target.request(Method::POST, &self.headers, body.clone());
        let answer = connection.send(request).await?;
        ensure!(answer.status() == StatusCode::OK, "{}: {}", answer.status(), shown(answer.body()));
        if self.kind == Kind::Raw {
            ensure!(*answer.body() == body, "not what was sent: {}", shown(answer.body()));
            return Ok(());
        }
        let modern = self.kind == Kind::Modern;
        self.judge(turn, &text, &answer, |answer| is_echo(answer, &text, modern))
    }

    async fn list(&mut self, connection: &mut Connection, turn: u64) -> Result<()> {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{turn},"method":"tools/list","params":{{{META}}}}}"#);
        let request = self.target.request(Method::POST, &self.headers, body.into());
        let answer = connection.send(request).await?;
        ensure!(answer.status() == StatusCode::OK, "{}: {}", answer.status(), shown(answer.body()));
        let expected = self.expected_tools;
        self.judge(turn, "", &answer, |answer| is_list(answer, expected))
    }

    fn judge(
        &mut self,
        turn: u64,
        text: &str,
        answer: &Response<Bytes>,
        means: impl FnOnce(&Value) -> Result<()>,
    ) -> Result<()> {
        let response = response_in(answer)?;
        if self.template.as_ref().is_some_and(|template| template.fits(&response, turn, text)) {
            return Ok(());
        }
        let value: Value = serde_json::from_slice(&response)?;
        ensure!(value["jsonrpc"] == "2.0" && value["id"] == turn, "another id: {}", shown(&response));
        means(&value).with_context(|| shown(&response))?;
        self.judged += 1;
        self.template = Template::of(&response, turn, text);
        Ok(())
    }

    /// A text that no other turn of no other client has.
    fn text(&self, turn: u64) -> String {
        let mut text = format!("{:06}-{turn:012}-", self.number);
        while text.len() < TEXT {
            text.push(char::from(b'a' + u8::try_from(text.len() % 26).unwrap_or(0)));
        }
        text
    }
}

/// Creates a session and finishes its handshake. `headers` are those every client sends.
///
/// # Errors
/// When it is refused.
pub async fn create(
    connection: &mut Connection,
    target: &Target,
    headers: &HeaderMap,
) -> Result<HeaderValue> {
    let answer = connection.send(initialize(target, headers)).await?;
    let session = created(&answer)?;
    initialized(connection, target, headers, &session).await?;
    Ok(session)
}

/// Finishes the handshake of a session.
///
/// # Errors
/// When that is refused.
pub async fn initialized(
    connection: &mut Connection,
    target: &Target,
    headers: &HeaderMap,
    session: &HeaderValue,
) -> Result<()> {
    let mut headers = headers.clone();
    headers.insert(SESSION, session.clone());
    headers.insert(VERSION, HeaderValue::from_static(OLDER));
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let answer = connection.send(target.request(Method::POST, &headers, body)).await?;
    ensure!(answer.status() == StatusCode::ACCEPTED, "initialized: {}", answer.status());
    Ok(())
}

/// The request that a session begins with.
#[must_use]
pub fn initialize(target: &Target, headers: &HeaderMap) -> http::Request<http_body_util::Full<Bytes>> {
    let body = Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{OLDER}","capabilities":{{}},"clientInfo":{{"name":"load","version":"1"}}}}}}"#
    ));
    target.request(Method::POST, headers, body)
}

/// The session that an answer to `initialize` made.
///
/// # Errors
/// When it made none.
pub fn created(answer: &Response<Bytes>) -> Result<HeaderValue> {
    if answer.status() != StatusCode::OK {
        bail!("initialize: {} {}", answer.status(), shown(answer.body()));
    }
    let response = response_in(answer)?;
    let value: Value = serde_json::from_slice(&response)?;
    let right = value["id"] == 0 && value["result"]["protocolVersion"] == OLDER;
    ensure!(right, "initialize: {}", shown(&response));
    answer.headers().get(SESSION).cloned().context("initialize: no session id")
}

/// The headers that every POST of a client has.
#[must_use]
pub fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

fn is_echo(answer: &Value, text: &str, modern: bool) -> Result<()> {
    let result = &answer["result"];
    ensure!(result["structuredContent"]["echo"] == text, "another text");
    ensure!(result["isError"] != true, "a failure");
    let content = result["content"][0]["text"].as_str().context("no text")?;
    let content: Value = serde_json::from_str(content)?;
    ensure!(content["echo"] == text, "another text for the model");
    ensure!(!modern || result["resultType"] == "complete", "not complete");
    Ok(())
}

fn is_list(answer: &Value, expected: usize) -> Result<()> {
    let tools = answer["result"]["tools"].as_array().context("no tools")?;
    let mut names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == expected, "{} tools, not {expected}", names.len());
    ensure!(answer["result"]["nextCursor"].is_null(), "more than one page");
    Ok(())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..400).unwrap_or(bytes)).into_owned()
}

/// A right answer with gaps for its id and its text.
struct Template {
    /// What stands before the id.
    head: Vec<u8>,
    /// What stands behind it, split where the text was.
    rest: Vec<Vec<u8>>,
}

impl Template {
    fn of(answer: &[u8], id: u64, text: &str) -> Option<Self> {
        let answer = std::str::from_utf8(answer).ok()?;
        let member = format!(r#""id":{id}"#);
        let at = answer.find(&member)?;
        let (head, rest) = (answer.get(..at + 5)?, answer.get(at + member.len()..)?);
        let pieces: Vec<&str> = if text.is_empty() { vec![rest] } else { rest.split(text).collect() };
        let rest = pieces.into_iter().map(|piece| piece.as_bytes().to_vec()).collect();
        Some(Self { head: head.as_bytes().to_vec(), rest })
    }

    fn fits(&self, answer: &[u8], id: u64, text: &str) -> bool {
        let mut left = answer;
        let mut take = |piece: &[u8]| left.strip_prefix(piece).map(|rest| left = rest).is_some();
        let begins = take(&self.head) && take(id.to_string().as_bytes());
        let follows = self
            .rest
            .iter()
            .enumerate()
            .all(|(index, piece)| (index == 0 || take(text.as_bytes())) && take(piece));
        begins && follows && left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_fits_the_same_answer_to_another_question_and_nothing_else() {
        let template = Template::of(br#"{"id":7,"a":"xyz","b":"xyz"}"#, 7, "xyz").unwrap();
        assert!(template.fits(br#"{"id":12,"a":"uvw","b":"uvw"}"#, 12, "uvw"));
        assert!(!template.fits(br#"{"id":12,"a":"uvw","b":"uvx"}"#, 12, "uvw"));
        assert!(!template.fits(br#"{"id":13,"a":"uvw","b":"uvw"}"#, 12, "uvw"));
        assert!(!template.fits(br#"{"id":12,"a":"uvw","b":"uvw"}}"#, 12, "uvw"));
    }

    #[test]
    fn texts_have_their_length_and_are_never_the_same() {
        let target = Target::parse("http://127.0.0.1:1/mcp").unwrap();
        let client = |number| Client::new(Kind::Modern, number, target.clone(), "echo");
        let texts = [client(1).text(1), client(1).text(2), client(2).text(1)];
        assert!(texts.iter().all(|text| text.len() == TEXT));
        assert!(texts[0] != texts[1] && texts[0] != texts[2] && texts[1] != texts[2]);
    }
}
