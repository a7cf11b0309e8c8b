//! Compiles the protobuf files in pure Rust: no protoc needed.

use std::{env, error::Error, fs, path::Path};

#[path = "build/samples.rs"]
mod samples;

const FILES: [&str; 5] = [
    "isthmus/registry/v1/resource.proto",
    "isthmus/registry/v1/registry.proto",
    "isthmus/federation/v1/federation.proto",
    "isthmus/raft/v1/raft.proto",
    "isthmus/admin/v1/admin.proto",
];

/// What operators read is serializable with its field names as they stand in the files: the JSON of `isthmus --output
/// json` and of the registry's HTTP mirror is the same.
fn json(config: &mut tonic_prost_build::Config) {
    const NOUNS: [&str; 8] = [
        "Service",
        "Port",
        "Endpoint",
        "Gateway",
        "Tenant",
        "Quota",
        "TenantShare",
        "Override",
    ];
    let derive = "#[derive(serde::Serialize)]";
    config.type_attribute(".isthmus.admin.v1", derive);
    config.field_attribute(".isthmus.admin.v1.SnapshotChunk.data", "#[serde(skip)]");
    // A random number of 64 bits: readers of JSON would round it.
    let hex = "#[serde(serialize_with = \"crate::hex\")]";
    config.field_attribute(".isthmus.admin.v1.Position.incarnation", hex);
    for noun in NOUNS {
        config.type_attribute(format!(".isthmus.registry.v1.{noun}"), derive);
    }
    for noun in ["Endpoint", "Gateway"] {
        let state = "#[serde(serialize_with = \"crate::endpoint_state\")]";
        config.field_attribute(format!(".isthmus.registry.v1.{noun}.state"), state);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={}", Path::new(file).display());
    }
    println!("cargo:rerun-if-changed=build/samples.rs");
    let files = protox::compile(FILES, ["."])?;
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let name = format!("/{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
        }
    }
    let list = Path::new(&env::var_os("OUT_DIR").ok_or("cargo names OUT_DIR")?).join("methods.rs");
    fs::write(list, format!("&{methods:?}"))?;
    let folder = env::var_os("OUT_DIR").ok_or("cargo names OUT_DIR")?;
    fs::write(Path::new(&folder).join("samples.rs"), samples::write(&files))?;
    let mut config = tonic_prost_build::Config::new();
    // Payloads stay slices of the buffer that they arrived in.
    config.bytes(["."]);
    config.btree_map(["."]);
    json(&mut config);
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
