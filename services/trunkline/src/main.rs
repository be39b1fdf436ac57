//! The one binary: `up` is the whole mesh in one process, every other subcommand one role of it.
//!
//! Owns: the command line, the one configuration, and how roles are put together ([`up`] in one process, [`role`] each in its
//! own), and the commands that ask an MCP server ([`client`]). Must not know: what a role does. Every role is built by the same
//! `App::build` in both cases; only its `Deps` differ.

mod certificates;
mod cli;
mod client;
mod cluster;
mod config;
mod data;
mod example;
mod health;
mod key;
mod move_slot;
mod named;
mod process;
mod reload;
mod role;
mod scoped;
mod seeds;
mod trace_ui;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

use self::cli::{Cli, Command};
use self::process::Failure;
use self::role::Role;

/// A call makes and drops some hundred small pieces of memory, on one thread; this allocator needs a tenth less CPU for a call than
/// the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(up) => up::run(&up),
        Command::Gateway(flags) => role::run(Role::Gateway, &flags),
        Command::Session(flags) => role::run(Role::Session, &flags),
        Command::ToolRegistry(flags) => role::run(Role::Tools, &flags),
        Command::ResourceRegistry(flags) => role::run(Role::Resources, &flags),
        Command::PromptRegistry(flags) => role::run(Role::Prompts, &flags),
        Command::Certificates(arguments) => certificates::run(&arguments),
        Command::Key(arguments) => key::run(&arguments),
        Command::Move(asked) => move_slot::run(&asked),
        Command::Health(arguments) => health::run(&arguments),
        Command::Call(call) => return client::run(&client::Command::Call(call)),
        Command::List(list) => return client::run(&client::Command::List(list)),
        Command::Read(read) => return client::run(&client::Command::Read(read)),
        Command::Get(get) => return client::run(&client::Command::Get(get)),
        Command::Config(asked) => process::describe(&asked),
        Command::Completions { shell } => cli::completions(shell).map_err(Failure::failed),
    };
    process::exit_code(outcome)
}
