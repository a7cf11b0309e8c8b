//! Compiles the protobuf files in pure Rust: no protoc needed.

use std::{error::Error, path::Path};

const FILES: [&str; 5] = [
    "isthmus/registry/v1/resource.proto",
    "isthmus/registry/v1/registry.proto",
    "isthmus/federation/v1/federation.proto",
    "isthmus/raft/v1/raft.proto",
    "isthmus/admin/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    let files = protox::compile(FILES, ["."])?;
    let mut config = tonic_prost_build::Config::new();
    // Payloads stay slices of the buffer that they arrived in.
    config.bytes(["."]);
    config.btree_map(["."]);
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
