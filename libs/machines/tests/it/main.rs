//! Behaviour of the machines: the printed table, bounded exploration, random walks, dialogues, snapshots.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests panic where something is not as it should be; the lint spares functions marked as tests only"
)]

mod alphabet;
mod dialogue;
mod explore;
mod lines;
mod modern;
mod remembered;
mod scripts;
mod snapshot;
mod table;
mod walk;
mod world;

/// Whether expectations are to be rewritten instead of compared.
pub(crate) fn update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// Compares `found` with a file beside the tests, or rewrites it.
pub(crate) fn compare(path: &str, found: &str) {
    let path = format!("{}/tests/it/{path}", env!("CARGO_MANIFEST_DIR"));
    if update() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let mut pairs = expected.lines().zip(found.lines()).enumerate();
    if let Some((at, (old, new))) = pairs.find(|(_, (old, new))| old != new) {
        panic!("{path}, line {}:\n  expected {old}\n  found    {new}\n(UPDATE=1 rewrites the file)", at + 1);
    }
    let (old, new) = (expected.lines().count(), found.lines().count());
    assert_eq!(old, new, "{path}: one has more lines (UPDATE=1 rewrites the file)");
}
