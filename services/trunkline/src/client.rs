//! Asks an MCP server for somebody at a terminal: `call`, `list`, `read`, `get`.
//!
//! Owns: what a command line becomes as requests, and how it ends. Must not know: the protocol on the wire, which is
//! `upstream`'s, and our mesh: any MCP server will do.

mod arguments;
mod desk;
mod ending;
mod lists;
mod plain;
mod question;
mod results;

use std::io::{self, IsTerminal as _, Read as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::drain::Signals;
use chassis::entry;
use chassis::task::{self, Handle};
use futures::future::BoxFuture;
use http::Uri;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use mcp::{Json, Method, edit};
use upstream::{Ask, Client, Host, Options};

use self::desk::Desk;
use self::ending::Ending;
use crate::cli::requests::{Call, Connection, DEFAULT_URL, Get, Kind, List, Read, named, target};
use crate::process;

/// A subcommand.
#[derive(Debug)]
pub(crate) enum Command {
    Call(Call),
    List(List),
    Read(Read),
    Get(Get),
}

/// Does what a command asks for.
pub(crate) fn run(command: &Command) -> ExitCode {
    let runtime = match process::runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return process::exit_code(Err(failure)),
    };
    let ending = runtime.block_on(perform(command)).unwrap_or_else(|ending| ending);
    // Standard input may still be waited for.
    runtime.shutdown_background();
    ending.leave()
}

async fn perform(command: &Command) -> Result<Ending, Ending> {
    match command {
        Command::Call(call) => call_tool(call).await,
        Command::List(list) => list_all(list).await,
        Command::Read(read) => {
            let (url, uri) = target(&read.target).map_err(Ending::usage)?;
            let params = edit::object([("uri", edit::quote(uri).into())]);
            let asked = Asked { method: Method::ResourcesRead, params, url, connection: &read.connection };
            asked.show(results::contents).await
        }
        Command::Get(get) => {
            let (url, prompt) = named(&get.target, "prompt").map_err(Ending::usage)?;
            let arguments = arguments::texts(&get.args).map_err(Ending::usage)?;
            let params = edit::object([
                ("name", edit::quote(prompt).into()),
                ("arguments", arguments.as_str().to_owned().into()),
            ]);
            let asked = Asked { method: Method::PromptsGet, params, url, connection: &get.connection };
            asked.show(results::messages).await
        }
    }
}

async fn call_tool(call: &Call) -> Result<Ending, Ending> {
    let given = match call.json_args.as_deref() {
        Some("-") => Some(standard_input()?),
        other => other.map(str::to_owned),
    };
    let (url, tool) = named(&call.target, "tool").map_err(Ending::usage)?;
    let base = arguments::object(given.as_deref()).map_err(Ending::usage)?;
    let session = Session::open(url, &call.connection).await?;
    let outcome = call_in(&session, call, tool, &base).await;
    session.close().await;
    outcome
}

async fn call_in(session: &Session, call: &Call, tool: &str, base: &Json) -> Result<Ending, Ending> {
    // The definition types the arguments; without any there is nothing to type.
    let mut known = None;
    let mut schema = None;
    if !call.args.is_empty() {
        let tools = session.list(Method::ToolsList).await?;
        schema = tools
            .iter()
            .find(|known| known.text("name").as_deref() == Some(tool))
            .map(|tool| tool.member("inputSchema").unwrap_or_else(Json::empty_object));
        known = Some(tools);
    }
    let arguments = arguments::typed(base, &call.args, schema.as_ref()).map_err(Ending::usage)?;
    let params = edit::object([
        ("name", edit::quote(tool).into()),
        ("arguments", arguments.as_str().to_owned().into()),
    ]);
    let mut ask = Ask::new(Method::ToolsCall, params, call.connection.timeout);
    ask.progress = session.desk.is_watched();
    ask.log = call.log;
    let result = match session.ask(&ask).await {
        Ok(result) => result,
        Err(ending) => return Err(ending.suggesting(tool, known.as_deref())),
    };
    let is_error = result.member("isError").is_some_and(|flag| flag.as_str() == "true");
    show(&call.connection, &result, results::call)?;
    Ok(if is_error { Ending::tool_error() } else { Ending::done() })
}

async fn list_all(list: &List) -> Result<Ending, Ending> {
    let (url, kind) = list.settle();
    let session = Session::open(url.unwrap_or(DEFAULT_URL), &list.connection).await?;
    let outcome = list_in(&session, kind, &list.connection).await;
    session.close().await;
    outcome
}

async fn list_in(session: &Session, kind: Option<Kind>, connection: &Connection) -> Result<Ending, Ending> {
    let server = session.client.server();
    let offers = |kind| match kind {
        Kind::Tools => server.capabilities.member("tools").is_some(),
        Kind::Resources | Kind::Templates => server.capabilities.member("resources").is_some(),
        Kind::Prompts => server.capabilities.member("prompts").is_some(),
    };
    let kinds = [Kind::Tools, Kind::Resources, Kind::Templates, Kind::Prompts];
    let wanted = kinds.into_iter().filter(|each| kind.map_or_else(|| offers(*each), |kind| kind == *each));
    let mut lists = Vec::new();
    for kind in wanted {
        lists.push((kind, session.list(lists::method(kind)).await?));
    }
    let text = match (connection.json, kind) {
        (true, Some(_)) => lists::raw(lists.first().map_or(&[], |(_, entries)| entries)),
        (true, None) => lists::raw_by_kind(&lists),
        (false, Some(_)) => lists::readable(&lists),
        (false, None) => format!("{}\n\n{}", lists::server(server), lists::readable(&lists)),
    };
    print(&text)?;
    Ok(Ending::done())
}

/// One request of a command that makes only one.
struct Asked<'a> {
    method: Method,
    params: Json,
    url: &'a str,
    connection: &'a Connection,
}

impl Asked<'_> {
    async fn show(self, readable: fn(&Json) -> String) -> Result<Ending, Ending> {
        let session = Session::open(self.url, self.connection).await?;
        let mut ask = Ask::new(self.method, self.params, self.connection.timeout);
        ask.progress = session.desk.is_watched();
        let result = session.ask(&ask).await;
        session.close().await;
        show(self.connection, &result?, readable)?;
        Ok(Ending::done())
    }
}

/// A connection, and somebody who listens.
struct Session {
    client: Client,
    desk: Desk,
    url: String,
    timeout: Duration,
}

impl Session {
    async fn open(url: &str, connection: &Connection) -> Result<Self, Ending> {
        let url = url.to_owned();
        let desk = Desk::new();
        let options = options(&url, connection)?;
        if is_exposed(&options) {
            desk.say("the token goes over the network for everybody on the way to read: use https");
        }
        let client = {
            let _waiting = desk.waiting("connecting");
            let connected = Client::connect(&options, Arc::new(Process::default()));
            until_stopped(connected).await.unwrap_or(Err(upstream::Error::Cancelled))
        };
        let client = client.map_err(|error| Ending::of(&error, &url))?;
        Ok(Self { client, desk, url, timeout: connection.timeout })
    }

    /// Asks, until it is answered or Ctrl-C is pressed.
    async fn ask(&self, ask: &Ask) -> Result<Json, Ending> {
        let mut signals = Signals::install().map_err(Ending::failed)?;
        let _waiting = self.desk.waiting(ask.method.as_str());
        let stopped = async move {
            signals.next().await;
        };
        self.client.ask(ask, &self.desk, stopped).await.map_err(|error| Ending::of(&error, &self.url))
    }

    async fn list(&self, method: Method) -> Result<Vec<Json>, Ending> {
        let _waiting = self.desk.waiting(method.as_str());
        let listed = until_stopped(self.client.list(method, self.timeout)).await;
        let listed = listed.unwrap_or(Err(upstream::Error::Cancelled));
        let listed = listed.map_err(|error| Ending::of(&error, &self.url))?;
        for (name, reason) in &listed.dropped {
            self.desk.say(&format!("tool {name} is left out: {reason}"));
        }
        Ok(listed.entries)
    }

    async fn close(self) {
        self.client.close().await;
    }
}

/// `None` if Ctrl-C was pressed first.
async fn until_stopped<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut signals = Signals::install().ok()?;
    tokio::select! {
        done = work => Some(done),
        _signal = signals.next() => None,
    }
}

fn options(url: &str, connection: &Connection) -> Result<Options, Ending> {
    let uri: Uri = url
        .parse()
        .ok()
        .filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
        .ok_or_else(|| Ending::usage(format!("{url:?} is not a URL: use the form http://HOST:PORT/mcp")))?;
    let mut options = Options::new(uri, "trunkline", env!("CARGO_PKG_VERSION"));
    options.speak = connection.era;
    options.headers = headers(connection)?;
    options.capabilities = Json::trusted(question::CAPABILITIES);
    // Somebody waits for it and sees what comes: a long answer is welcome.
    options.limits.line = options.limits.body;
    options.limits.event = options.limits.body;
    Ok(options)
}

/// Whether credentials leave this machine unencrypted.
fn is_exposed(options: &Options) -> bool {
    let host = options.url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    options.headers.contains_key(AUTHORIZATION) && options.url.scheme_str() == Some("http") && !is_local
}

fn headers(connection: &Connection) -> Result<HeaderMap, Ending> {
    let mut headers = HeaderMap::new();
    for text in &connection.header {
        let refused = || {
            Ending::usage(format!(
                "--header {}: use 'NAME: VALUE'",
                text.split(':').next().unwrap_or_default()
            ))
        };
        let (name, value) = text.split_once(':').ok_or_else(refused)?;
        let name: HeaderName = name.trim().parse().map_err(|_| refused())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| refused())?;
        headers.append(name, value);
    }
    let token = match &connection.bearer_env {
        Some(name) => Some(std::env::var(name).map_err(|_| {
            Ending::usage(format!(
                "--bearer-env {name}: there is no such environment variable, or it is not text"
            ))
        })?),
        None => std::env::var("TRUNKLINE_TOKEN").ok(),
    };
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| Ending::usage("the token holds characters that no header may hold".to_owned()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn standard_input() -> Result<String, Ending> {
    if io::stdin().is_terminal() {
        return Err(Ending::usage(
            "--json-args -: standard input is a terminal; pipe the arguments into it".to_owned(),
        ));
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(Ending::failed)?;
    Ok(text)
}

fn show(connection: &Connection, result: &Json, readable: fn(&Json) -> String) -> Result<(), Ending> {
    if connection.json { print(result.as_str()) } else { print(&readable(result)) }
}

fn print(text: &str) -> Result<(), Ending> {
    entry::print(text.trim_end_matches('\n')).map_err(Ending::failed)
}

/// What `upstream` needs of this process.
#[derive(Default)]
struct Process {
    tasks: Mutex<Vec<Handle<()>>>,
}

impl Host for Process {
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task::spawn(task::Kind::Call, "connection", work));
    }

    fn sleep(&self, period: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_exposed_beyond_this_machine_only() {
        let table = [
            ("http://localhost:1/mcp", false),
            ("http://127.0.0.1/mcp", false),
            ("http://[::1]:8080/mcp", false),
            ("https://mesh.example.com/mcp", false),
            ("http://mesh.example.com/mcp", true),
            ("http://10.0.0.1/mcp", true),
        ];
        for (url, exposed) in table {
            let mut options = Options::new(url.parse().unwrap(), "t", "1");
            assert!(!is_exposed(&options), "{url}");
            options.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer t"));
            assert_eq!(is_exposed(&options), exposed, "{url}");
        }
    }
}
