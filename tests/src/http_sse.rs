//! A raw client of 2024-11-05's transport: one stream that everything comes back on, and POSTs beside it.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::client::{Answer, Client, Events};

/// A client whose stream is open. Dropping the stream ends the session.
pub struct HttpSse {
    /// Speaks to each gateway in turn.
    pub client: Client,
    /// Where to post, as the stream said.
    pub endpoint: String,
    /// The stream, behind its first event.
    pub events: Events,
}

impl HttpSse {
    /// Opens the stream and reads where to post.
    pub async fn open(client: Client) -> Result<Self> {
        let answer =
            client.send_to("/sse", Method::GET, &[("accept", "text/event-stream")], Bytes::new()).await?;
        ensure!(answer.status == StatusCode::OK, "GET /sse: {}", answer.status);
        ensure!(answer.is_stream(), "GET /sse is no event stream");
        ensure!(!answer.headers.contains_key("mcp-session-id"), "the session stands in the endpoint alone");
        let mut events = answer.events();
        let first = events.next().await?.context("the stream ended at once")?;
        ensure!(first.name.as_deref() == Some("endpoint") && events.comments == 0, "not first: {first:?}");
        Ok(Self { client, endpoint: first.data, events })
    }

    /// The session's id, out of the endpoint.
    #[must_use]
    pub fn session(&self) -> &str {
        self.endpoint.split_once("sessionId=").map_or("", |(_, id)| id)
    }

    /// Posts a body.
    pub async fn post(&self, body: impl Into<Bytes>) -> Result<Answer> {
        self.post_to(&self.endpoint, body).await
    }

    /// Posts a body to another place.
    pub async fn post_to(&self, endpoint: &str, body: impl Into<Bytes>) -> Result<Answer> {
        self.client.send_to(endpoint, Method::POST, &[("content-type", "application/json")], body).await
    }

    /// Posts a body that is taken.
    pub async fn tell(&self, body: impl Into<Bytes>) -> Result<()> {
        let answer = self.post(body).await?;
        let (status, text) = (answer.status, answer.text().await?);
        ensure!(status == StatusCode::ACCEPTED && text.is_empty(), "{status} {text}");
        Ok(())
    }

    /// The next message.
    pub async fn next(&mut self) -> Result<String> {
        let event = self.events.next().await?.context("the stream ended")?;
        if event.name.as_deref() != Some("message") || event.id.is_some() || event.retry.is_some() {
            bail!("not an event of this transport: {event:?}");
        }
        Ok(event.data)
    }

    /// Posts a request; the next message that does not merely say that a list has changed, as it may have while the mesh
    /// was starting.
    pub async fn ask(&mut self, body: impl Into<Bytes>) -> Result<String> {
        self.tell(body).await?;
        loop {
            let message = self.next().await?;
            if !message.contains("/list_changed\"") {
                return Ok(message);
            }
        }
    }

    /// Shakes hands; the answer to `initialize`.
    pub async fn initialize(&mut self, revision: &str, capabilities: &str) -> Result<String> {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"init","method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"raw","version":"1"}}}}}}"#
        );
        let greeting = self.ask(body).await?;
        self.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await?;
        Ok(greeting)
    }
}
