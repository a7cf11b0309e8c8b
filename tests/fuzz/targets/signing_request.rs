//! See `tests::fuzz::signing_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::signing_request(data));
