//! Lists, page by page, within bounds.

use std::time::Duration;

use mcp::edit::ObjectEditor;
use mcp::{Era, Json, Method, header, scan};

use crate::client::{Ask, Client, broken};
use crate::error::Error;
use crate::listener::Silent;

/// A whole list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its entries, as the server gave them.
    pub entries: Vec<Json>,
    /// Tools that are left out, because their definition asks for headers in a way that is not allowed: name and reason.
    pub dropped: Vec<(String, String)>,
}

impl Client {
    /// Reads a list to its end. `deadline` is for each page.
    ///
    /// # Errors
    /// [`Error`]; also when the list has no end.
    pub async fn list(&self, method: Method, deadline: Duration) -> Result<Listed, Error> {
        let member = member(method)?;
        let mut listed = Listed::default();
        let mut cursor: Option<Json> = None;
        for _page in 0..self.wire.limits.pages {
            let mut params = ObjectEditor::new("{}");
            if let Some(cursor) = &cursor {
                params.set("cursor", cursor.as_str());
            }
            let ask = Ask::new(method, params.finish_json(), deadline);
            let result = self.ask(&ask, &Silent, std::future::pending()).await?;
            let entries = result.member(member).ok_or_else(|| broken("a page without entries"))?;
            for entry in scan::elements(entries.as_str()) {
                self.take(method, entries.slice(entry), &mut listed);
            }
            if listed.entries.len() > self.wire.limits.entries {
                return Err(Error::TooLarge(format!("more than {} entries", self.wire.limits.entries)));
            }
            let next = result.member("nextCursor").filter(|next| next.as_str() != "null");
            match next {
                None => return Ok(listed),
                same if same == cursor => return Err(broken("a page leads to itself")),
                next => cursor = next,
            }
        }
        Err(Error::TooLarge(format!("more than {} pages", self.wire.limits.pages)))
    }

    /// Takes an entry in; of a tool, also which arguments are repeated in headers.
    fn take(&self, method: Method, entry: Json, listed: &mut Listed) {
        if method == Method::ToolsList && self.era() == Era::Modern {
            let name = entry.text("name").unwrap_or_default();
            let schema = scan::member(entry.as_str(), "inputSchema").unwrap_or("{}");
            match header::param_headers(schema) {
                Ok(headers) => self.learn(name, headers),
                Err(illegal) => {
                    listed.dropped.push((name, illegal.to_string()));
                    return;
                }
            }
        }
        listed.entries.push(entry);
    }
}

fn member(method: Method) -> Result<&'static str, Error> {
    match method {
        Method::ToolsList => Ok("tools"),
        Method::ResourcesList => Ok("resources"),
        Method::ResourceTemplatesList => Ok("resourceTemplates"),
        Method::PromptsList => Ok("prompts"),
        Method::Initialize
        | Method::Ping
        | Method::Discover
        | Method::ToolsCall
        | Method::ResourcesRead
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
        | Method::Listen
        | Method::PromptsGet
        | Method::Complete
        | Method::SetLevel => Err(broken("this method gives no list")),
    }
}
