//! Generates the messages and service skeletons from `proto/`, without protoc.

use std::error::Error;

const FILES: [&str; 8] = [
    "trunkline/registry/v1/types.proto",
    "trunkline/registry/v1/catalog.proto",
    "trunkline/registry/v1/invocations.proto",
    "trunkline/registry/v1/tools.proto",
    "trunkline/registry/v1/resources.proto",
    "trunkline/registry/v1/prompts.proto",
    "trunkline/registry/v1/link.proto",
    "trunkline/session/v1/session.proto",
];
const MESH: &str = "trunkline/mesh/v1/errors.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = FILES.to_vec();
    files.push(MESH);
    let descriptors = protox::compile(files, [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
