//! See `tests::fuzz::raft_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::raft_request(data));
