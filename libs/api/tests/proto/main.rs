//! Guards `proto/`: what was once said there stays said. Owns the comparison with the committed descriptor set
//! (`proto/descriptors.binpb`); run by `scripts/proto-check`, which also accepts additions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod breaking;
mod cases;

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use self::breaking::changes;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto")
}

/// All protos below `folder`, without positions and comments.
fn compile(folder: &Path) -> FileDescriptorSet {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.sort();
    let mut compiler = protox::Compiler::new([folder]).unwrap();
    compiler.include_imports(true).open_files(files).unwrap();
    compiler.file_descriptor_set()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
}

#[test]
fn the_contract_is_only_added_to() {
    let path = root().join("descriptors.binpb");
    let now = compile(&root());
    let accept = std::env::var_os("PROTO_ACCEPT").is_some();
    let Ok(bytes) = fs::read(&path) else {
        assert!(accept, "{} is missing: run scripts/proto-check --accept", path.display());
        fs::write(&path, now.encode_to_vec()).unwrap();
        return;
    };
    let before = FileDescriptorSet::decode(bytes.as_slice()).unwrap();
    let broken = changes(&before, &now);
    assert!(
        broken.is_empty(),
        "this breaks processes that were built against proto/ before; say it with something new instead:\n  {}",
        broken.join("\n  ")
    );
    if accept {
        fs::write(&path, now.encode_to_vec()).unwrap();
    } else {
        assert!(
            before == now,
            "proto/ has additions: run scripts/proto-check --accept and commit proto/descriptors.binpb"
        );
    }
}

#[test]
fn the_generated_code_is_of_all_protos() {
    // The build names its files one by one; one that it forgot would be guarded and not built.
    let build = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs")).unwrap();
    let mut files = Vec::new();
    collect(&root(), &mut files);
    for file in files {
        let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        assert!(build.contains(&format!("\"{name}\"")), "build.rs does not compile {name}");
    }
}
