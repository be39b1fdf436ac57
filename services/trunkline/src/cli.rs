//! The command line, written to be learned from.

pub(crate) mod requests;

use std::io::{self, Write as _};
use std::path::PathBuf;

use chassis::entry::Flags;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use self::requests::{Call, Get, List, Read};

use crate::certificates::{self, Certificates};
use crate::health::{self, Health};
use crate::key::{self, Key};
use crate::move_slot::{self, Move};
use crate::trace_ui;

const ABOUT: &str = "\
Runs the Model Context Protocol at scale: clients speak MCP to one URL, tools, resources and prompts live in registries behind it.

Start with `trunkline up`: everything in one process, nothing else needed. Run the roles as processes of their own when you \
want more than one of them, or want to ship them separately.";

const CONFIGURATION: &str = "\
Configuration: one TOML file with a section for each role, the same file for all of them.
  [gateway]
  listen = \"127.0.0.1:8080\"
Each key can also be set by the environment, TRUNKLINE_GATEWAY__LISTEN=.., and by --set gateway.listen=..; later ones win:
default < file < environment < command line. `--dump-config` prints what is in effect, `--check` says what is wrong, and
`trunkline config --example` prints every key with its meaning.

Exit codes: 0 stopped when asked to, 1 failed, 2 wrong command line or configuration, 130 stopped at once by a second signal.";

const UP: &str = "\
Examples:
  trunkline up
      Serves MCP on http://127.0.0.1:8080/mcp, with sample content in ./.trunkline. Clients that only know HTTP+SSE
      (2024-11-05) use http://127.0.0.1:8080/sse
  trunkline up --listen 127.0.0.1:9000 --data /var/lib/trunkline
      Elsewhere, with its own data. Sessions are kept in it: clients go on where they were after a restart
  trunkline up --registry 127.0.0.1:7301 --registry 127.0.0.1:7302=billing
      Also offers what two registry processes hold, the second one's names as billing__NAME
  trunkline up --set 'resource-registry.directories=[{path=\"./docs\", uri=\"file:///docs/\"}]'
      Serves your own directory
  trunkline up --trace-ui
      Shows each call, hop by hop, on a Jaeger page: http://127.0.0.1:16686";

const GATEWAY: &str = "\
Example:
  trunkline gateway --config mesh.toml
with
  [gateway]
  listen = \"0.0.0.0:8080\"
  allowed_hosts = [\"mesh.example.com\"]
  sessions = [{ address = \"10.0.0.1:7101\", slots = \"0-2047\" }, { address = \"10.0.0.2:7101\", slots = \"2048-4095\" }]
  [mtls]                      # where other machines take part: trunkline certificates --help
  certificate = \"gateway.pem\"
  key = \"gateway.key\"
  ca = \"ca.pem\"
  [keys]
  current = \"k1\"
  ring = { k1 = \"...\" }     # openssl rand -base64 32, the same in every process

Endpoints: /mcp (sessions of 2025-03-26 may send batches of up to 50 messages), and for clients that only know HTTP+SSE
(2024-11-05) /sse and /messages. gateway.mcp_path, gateway.sse_path and gateway.message_path move them.";

const SESSION: &str = "\
Example:
  trunkline session --config mesh.toml --listen 0.0.0.0:7101 --set session.node=session-2 --set session.slots=2048-4095
with
  [session]
  registries = [{ address = \"10.0.0.3:7201\" }, { address = \"10.0.0.4:7201\", namespace = \"billing\" }]
  [mtls]                      # where other machines take part: trunkline certificates --help
  certificate = \"session.pem\"
  key = \"session.key\"
  ca = \"ca.pem\"
  [keys]
  current = \"k1\"
  ring = { k1 = \"...\" }     # openssl rand -base64 32, the same in every process";

const TOOLS: &str = "\
Example:
  trunkline tool-registry --listen 127.0.0.1:7201 --set 'tool-registry.tools=[\"echo\", \"calculator\"]'";

const RESOURCES: &str = "\
Example:
  trunkline resource-registry --listen 127.0.0.1:7202 \\
      --set 'resource-registry.directories=[{path=\"./docs\", uri=\"file:///docs/\"}]'";

const PROMPTS: &str = "\
Example:
  trunkline prompt-registry --listen 127.0.0.1:7203 --set prompt-registry.directory=./prompts";

const SETTINGS: &str = "\
Examples:
  trunkline config --example > mesh.toml
      Every setting with its meaning, default and environment variable
  trunkline config --from-seeds
      What settings of the founding documents (NODE_ID, PORT, stickySession, ..) are here
  trunkline config --from-seeds mcp_settings.json > mesh.toml
      Translates such a file; what has no place here stands in it as comments, with the reason";

const COMPLETIONS: &str = "\
Examples:
  source <(trunkline completions bash)
      For this shell; the same line in ~/.bashrc is for every one
  trunkline completions zsh > \"${fpath[1]}/_trunkline\"
  trunkline completions fish > ~/.config/fish/completions/trunkline.fish";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "trunkline", version, about = ABOUT, after_help = CONFIGURATION)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process: gateway, session and the three built-in registries.
    #[command(after_help = UP)]
    Up(Up),
    /// The edge: terminates MCP over HTTP and forwards it to session nodes. Holds no state; run as many as you like.
    #[command(after_help = GATEWAY)]
    Gateway(Flags),
    /// Hosts the conversations whose slots it owns, and asks the registries.
    #[command(after_help = SESSION)]
    Session(Flags),
    /// A registry of the built-in tools.
    #[command(after_help = TOOLS)]
    ToolRegistry(Flags),
    /// A registry that serves directories as resources.
    #[command(after_help = RESOURCES)]
    ResourceRegistry(Flags),
    /// A registry that serves a directory of prompt files.
    #[command(after_help = PROMPTS)]
    PromptRegistry(Flags),
    /// Makes certificates for a first mesh, in which each role proves what it is to the others.
    #[command(after_help = certificates::EXAMPLES)]
    Certificates(Certificates),
    /// Makes API keys that callers of the gateway show.
    #[command(after_help = key::EXAMPLES)]
    Key(Key),
    /// Gives a slot, with the sessions in it, to a node of your choice; where slots are shared through etcd.
    #[command(after_help = move_slot::EXAMPLES)]
    Move(Move),
    /// Asks a running process whether it is ready; for health checks of containers.
    #[command(after_help = health::EXAMPLES)]
    Health(Health),
    /// Calls a tool of any MCP server.
    #[command(after_help = requests::call_help())]
    Call(Call),
    /// Lists what an MCP server offers: tools, resources, resource templates, prompts.
    #[command(after_help = requests::list_help())]
    List(List),
    /// Reads a resource of any MCP server.
    #[command(after_help = requests::read_help())]
    Read(Read),
    /// Gets a prompt of any MCP server.
    #[command(after_help = requests::get_help())]
    Get(Get),
    /// Prints all settings, or what settings of the founding documents are here.
    #[command(after_help = SETTINGS)]
    Config(Settings),
    /// Prints a script that completes this command line in a shell.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell it is for.
        shell: Shell,
    },
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// Keeps sessions in DIR: they outlive the process, however it ends. Keys are there too, and resources and prompts unless they
    /// are configured; all of it is made on the first start. Without --data, keys and samples are in ./.trunkline, and sessions
    /// live in memory.
    #[arg(long, value_name = "DIR", env = "TRUNKLINE_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Also offers what the registry process at this address holds; may be repeated. It may start and stop at any time.
    #[arg(long, value_name = "HOST:PORT[=NAMESPACE]")]
    pub(crate) registry: Vec<String>,
    /// Shows every call on a Jaeger page in the browser; what it shows is kept in memory only. Other processes may send
    /// their spans to it.
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = trace_ui::DEFAULT)]
    pub(crate) trace_ui: Option<String>,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Settings {
    /// Prints an annotated configuration file with all defaults.
    #[arg(long)]
    pub(crate) example: bool,
    /// Prints the table of the founding documents' settings, or translates an mcp_settings.json (comments are accepted).
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "the flag may stand without a file")]
    pub(crate) from_seeds: Option<Option<PathBuf>>,
}

/// Prints the completions of a shell.
pub(crate) fn completions(shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "trunkline", &mut script);
    io::stdout().write_all(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_an_example() {
        for subcommand in Cli::command().get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = subcommand.get_name();
            assert!(help.contains(&format!("trunkline {name}")), "{name}: {help}");
        }
    }
}
