//! The command line as a user types it. (Its presence also makes `cargo test --workspace` build the binary.)
