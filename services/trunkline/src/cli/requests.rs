//! The command line of the commands that ask an MCP server.

use std::time::Duration;

use clap::{Args, ValueEnum};
use mcp::log::Level;
use mcp::{Era, Revision};
use upstream::Speak;

/// Where `trunkline up` listens unless told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080/mcp";

const EXIT: &str = "\
Without URL it is http://127.0.0.1:8080/mcp, where `trunkline up` listens. A token is taken from the environment variable
TRUNKLINE_TOKEN, or from the one that --bearer-env names. With https, SSL_CERT_FILE names authorities to trust instead of
those of this machine.

Exit codes: 0 done, 1 the tool reports an error, 2 wrong command line, 3 the server cannot be reached or does not answer,
4 the server refuses, 130 cancelled with Ctrl-C.";

pub(crate) fn call_help() -> String {
    format!(
        "\
Examples:
  trunkline call calculator --arg operation=add --arg a=2 --arg b=40
  trunkline call https://mesh.example.com/mcp team__deploy --json-args '{{\"service\": \"web\", \"replicas\": 3}}'
      Another server; arguments as JSON
  TRUNKLINE_TOKEN=... trunkline call https://mesh.example.com/mcp report --json | jq .structuredContent
      With a token; the result as the server gave it

Arguments are typed by the tool's input schema: --arg n=5 is a number where the tool wants a number, and text where it wants
text. Of a list, repeat the argument. While the tool runs, its progress is shown; its questions are asked on the terminal,
and declined where there is none. Ctrl-C cancels the call.

{EXIT}"
    )
}

pub(crate) fn list_help() -> String {
    format!(
        "\
Examples:
  trunkline list
      All that the server offers
  trunkline list tools
  trunkline list https://mesh.example.com/mcp prompts --json

{EXIT}"
    )
}

pub(crate) fn read_help() -> String {
    format!(
        "\
Examples:
  trunkline read file:///docs/welcome.md
  trunkline read https://mesh.example.com/mcp file:///docs/welcome.md

{EXIT}"
    )
}

pub(crate) fn get_help() -> String {
    format!(
        "\
Examples:
  trunkline get greet --arg who=Ada --arg manner=formal
  trunkline get https://mesh.example.com/mcp greet --arg who=Ada --json

{EXIT}"
    )
}

/// What all of them have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// Protocol to speak: `auto` tries 2026-07-28 first, `modern` is only that, `older` is a session of 2025-11-25; a revision
    /// can be named too.
    #[arg(long, value_name = "auto|modern|older|REVISION", default_value = "auto", value_parser = speak)]
    pub(crate) era: Speak,
    /// A header to send with every request; may be repeated. Others can see a command line: for secrets there is --bearer-env.
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// The environment variable that holds the bearer token; without it TRUNKLINE_TOKEN, if that is set.
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) bearer_env: Option<String>,
    /// Seconds to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Prints what the server answered, as it came.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `call`.
#[derive(Debug, Args)]
#[command(override_usage = "trunkline call [OPTIONS] [URL] TOOL")]
pub(crate) struct Call {
    /// URL of the MCP endpoint [default: http://127.0.0.1:8080/mcp], and name of the tool.
    #[arg(value_name = "[URL] TOOL", required = true)]
    pub(crate) target: Vec<String>,
    /// An argument, typed by the tool's input schema; may be repeated.
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    pub(crate) args: Vec<String>,
    /// All arguments as one JSON object; `-` reads it from standard input. Those of --arg are added to it.
    #[arg(long, value_name = "JSON")]
    pub(crate) json_args: Option<String>,
    /// Shows the server's log messages from this level on: debug, info, notice, warning, error, ..
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub(crate) log: Option<Level>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Of the MCP endpoint [default: http://127.0.0.1:8080/mcp].
    pub(crate) url: Option<String>,
    /// What to list [default: everything].
    #[arg(value_enum)]
    pub(crate) kind: Option<Kind>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Tools,
    Resources,
    Templates,
    Prompts,
}

/// Arguments of `read`.
#[derive(Debug, Args)]
#[command(override_usage = "trunkline read [OPTIONS] [URL] URI")]
pub(crate) struct Read {
    /// URL of the MCP endpoint [default: http://127.0.0.1:8080/mcp], and uRI of the resource.
    #[arg(value_name = "[URL] URI", required = true)]
    pub(crate) target: Vec<String>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
#[command(override_usage = "trunkline get [OPTIONS] [URL] PROMPT")]
pub(crate) struct Get {
    /// URL of the MCP endpoint [default: http://127.0.0.1:8080/mcp], and name of the prompt.
    #[arg(value_name = "[URL] PROMPT", required = true)]
    pub(crate) target: Vec<String>,
    /// An argument; may be repeated.
    #[arg(long = "arg", value_name = "NAME=VALUE")]
    pub(crate) args: Vec<String>,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// The same of what no URL can be the name of.
pub(crate) fn named<'a>(words: &'a [String], what: &str) -> Result<(&'a str, &'a str), String> {
    match words {
        [url] if url.contains("://") => Err(format!("{url} is a server: name the {what} after it")),
        words => target(words),
    }
}

/// What one or two words name: a thing, perhaps of another server than the usual one.
pub(crate) fn target(words: &[String]) -> Result<(&str, &str), String> {
    match words {
        [name] => Ok((DEFAULT_URL, name)),
        [url, name] => Ok((url, name)),
        more => Err(format!("{} words, where one name and perhaps a URL before it belong", more.len())),
    }
}

impl List {
    /// A single word may be the kind.
    pub(crate) fn settle(&self) -> (Option<&str>, Option<Kind>) {
        match (&self.url, self.kind) {
            (Some(word), None) => match Kind::from_str(word, false) {
                Ok(kind) => (None, Some(kind)),
                Err(_url) => (Some(word), None),
            },
            (url, kind) => (url.as_deref(), kind),
        }
    }
}

fn speak(text: &str) -> Result<Speak, String> {
    match text {
        "auto" => Ok(Speak::Auto),
        "modern" => Ok(Speak::Modern),
        "older" => Ok(Speak::Older(Revision::LATEST_OLDER)),
        _ => match Revision::parse(text).map(|revision| (revision, revision.era())) {
            Some((_, Era::Modern)) => Ok(Speak::Modern),
            Some((revision, Era::Older)) => Ok(Speak::Older(revision)),
            None => Err("use auto, modern, older or a revision such as 2025-06-18".to_owned()),
        },
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds > 0);
    seconds
        .map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| "use a whole number from 1".to_owned())
}

fn level(text: &str) -> Result<Level, String> {
    let known = || Level::ALL.map(Level::as_str).join(", ");
    Level::parse(text).ok_or_else(|| format!("use one of {}", known()))
}
