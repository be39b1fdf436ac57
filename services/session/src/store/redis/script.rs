//! The scripts, named by their hash, and how one is called.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script};

/// A script, and what a server that has seen it knows it by.
pub(super) struct Source {
    code: &'static str,
    hash: String,
}

/// All of them.
pub(super) struct Scripts {
    pub(super) fence: Source,
    pub(super) create: Source,
    pub(super) commit: Source,
    pub(super) rewrite: Source,
    pub(super) remove: Source,
    pub(super) answered: Source,
    pub(super) slots: Source,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    fence: Source::of(concat!(include_str!("check.lua"), include_str!("fence.lua"))),
    create: Source::of(concat!(include_str!("check.lua"), include_str!("create.lua"))),
    commit: Source::of(concat!(include_str!("check.lua"), include_str!("commit.lua"))),
    rewrite: Source::of(concat!(include_str!("check.lua"), include_str!("rewrite.lua"))),
    remove: Source::of(concat!(include_str!("check.lua"), include_str!("remove.lua"))),
    answered: Source::of(include_str!("answered.lua")),
    slots: Source::of(include_str!("slots.lua")),
});

impl Source {
    fn of(code: &'static str) -> Self {
        Self { code, hash: Script::new(code).get_hash().to_owned() }
    }

    /// Calls it by its hash. Its arguments follow.
    pub(super) fn call(&self, keys: &[String]) -> Cmd {
        let mut cmd = Cmd::with_capacity(keys.len() + 16, 512);
        cmd.arg("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys);
        cmd
    }
}

/// The same call for a server that does not know the script; from then on it does. `None` if it calls none of ours.
pub(super) fn in_full(call: &Cmd) -> Option<Cmd> {
    let all = &*SCRIPTS;
    let all = [&all.fence, &all.create, &all.commit, &all.rewrite, &all.remove, &all.answered, &all.slots];
    let part = |arg| if let Arg::Simple(part) = arg { Some(part) } else { None };
    let parts = || call.args_iter().filter_map(part);
    let hash = parts().nth(1)?;
    let source = all.into_iter().find(|source| source.hash.as_bytes() == hash)?;
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(source.code);
    for part in parts().skip(2) {
        cmd.arg(part);
    }
    Some(cmd)
}
