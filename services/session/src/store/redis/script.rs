//! The scripts, named by their hash, and how one is called.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script};

use crate::store::Answered;

/// How long it is known that a session was removed. Longer than a write that was given up may still be under way.
const OVER_MS: u64 = 60_000;

/// A script, and what a server that has seen it knows it by.
pub(super) struct Source {
    code: String,
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
    pub(super) name: Source,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    const LESS: &str = include_str!("less.lua");
    const CHECK: &str = include_str!("check.lua");
    const STREAMS: &str = include_str!("streams.lua");
    const FINISH: &str = include_str!("finish.lua");
    Scripts {
        fence: Source::of(&[LESS, include_str!("fence.lua")]),
        create: Source::of(&[LESS, CHECK, include_str!("create.lua")]),
        commit: Source::of(&[LESS, CHECK, include_str!("commit.lua"), FINISH]),
        rewrite: Source::of(&[LESS, CHECK, STREAMS, include_str!("rewrite.lua"), FINISH]),
        remove: Source::of(&[LESS, CHECK, STREAMS, include_str!("remove.lua")]),
        answered: Source::of(&[include_str!("answered.lua")]),
        slots: Source::of(&[include_str!("slots.lua")]),
        name: Source::of(&[include_str!("name.lua")]),
    }
});

impl Source {
    /// What is the same in every call is written into the text.
    fn of(parts: &[&str]) -> Self {
        let code = parts
            .concat()
            .replace("$BYTES", &Answered::BYTES.to_string())
            .replace("$KEPT_MS", &Answered::KEPT_MS.to_string())
            .replace("$OVER_MS", &OVER_MS.to_string());
        let hash = Script::new(&code).get_hash().to_owned();
        Self { code, hash }
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
    let written = [&all.create, &all.commit, &all.rewrite, &all.remove];
    let mut all = written.into_iter().chain([&all.fence, &all.answered, &all.slots, &all.name]);
    let part = |arg| if let Arg::Simple(part) = arg { Some(part) } else { None };
    let parts = || call.args_iter().filter_map(part);
    let hash = parts().nth(1)?;
    let source = all.find(|source| source.hash.as_bytes() == hash)?;
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(&source.code);
    for part in parts().skip(2) {
        cmd.arg(part);
    }
    Some(cmd)
}
