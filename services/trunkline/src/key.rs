//! `trunkline key`: API keys for callers of the gateway.

use std::io::{self, Write as _};

use chassis::{clock, entry};
use clap::{Args, Subcommand};
use gateway::auth::{self, Gate, NewKey};

use crate::process::Failure;

pub(crate) const EXAMPLES: &str = "\
Example:
  trunkline key new --name team-a
      Prints a key, which is not shown again, and the line that lets it in:
  [auth]
  keys = [
    { name = \"team-a\", hash = \"sha256:...\" },
  ]
The caller sends it with every request: Authorization: Bearer tlk_...";

/// Arguments of `key`.
#[derive(Debug, Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a key. Prints it, then the line for auth.keys; the key itself is kept nowhere.
    #[command(after_help = EXAMPLES)]
    New(New),
}

#[derive(Debug, Args)]
struct New {
    /// Whose key it is: a team, or a program.
    #[arg(long)]
    name: String,
    /// Tenant its owner belongs to.
    #[arg(long, default_value = "")]
    tenant: String,
    /// When it ends, in UTC: 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME", default_value = "")]
    expires: String,
}

/// Runs `key`.
pub(crate) fn run(key: &Key) -> Result<(), Failure> {
    match &key.command {
        Command::New(new) => make(new),
    }
}

fn make(new: &New) -> Result<(), Failure> {
    let random = clock::random().map_err(Failure::failed)?;
    let NewKey { key, entry: kept, line } = auth::new_key(&new.name, &new.tenant, &new.expires, random);
    // What the gateway would refuse is not worth a key.
    Gate::new(&auth::Config { keys: vec![kept], ..auth::Config::default() }).map_err(Failure::refused)?;
    entry::print(&format!("{key}\n{line}")).map_err(Failure::failed)?;
    let hint = "The first line is the key: give it to its owner, it is not shown again. The second belongs into auth.keys of \
                the gateways.";
    // Whoever reads the two lines does without.
    let _told = writeln!(io::stderr(), "{hint}").is_ok();
    Ok(())
}
