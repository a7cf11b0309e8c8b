//! The wire: protobuf messages and gRPC services between registry, gateway, proxy, peers and operators.
//!
//! Everything here is generated from the `.proto` files beside this crate, whose comments are the reference. What the
//! messages mean to a program (parsed, checked types) is in `mesh::model`; this crate knows nothing else.

/// An endpoint's state in JSON: its lower-case name, "unspecified" where it is none that this version knows.
fn endpoint_state<S: serde::Serializer>(state: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let state = registry::v1::EndpointState::try_from(*state).unwrap_or_default();
    let name = state.as_str_name().trim_start_matches("ENDPOINT_STATE_");
    serializer.serialize_str(&name.to_ascii_lowercase())
}

/// A number that identifies and does not count, in JSON: 16 hexadecimal digits, as logs show it.
fn hex<S: serde::Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{number:016x}"))
}

/// Every method of every service, as `/package.Service/Method`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Registration, watch, certificates, and the catalogue's nouns.
pub mod registry {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("isthmus.registry.v1");
    }
}

/// Between registries of different regions.
pub mod federation {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("isthmus.federation.v1");
    }
}

/// Between the nodes of one region.
pub mod raft {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("isthmus.raft.v1");
    }
}

/// The operator's API.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("isthmus.admin.v1");
    }
}

/// A sample of every message, and reading it again: for the tests that keep golden bytes.
#[doc(hidden)]
pub mod samples {
    fn again_as<M: prost::Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
        M::decode(bytes).map(|message| message.encode_to_vec())
    }

    include!(concat!(env!("OUT_DIR"), "/samples.rs"));
}
