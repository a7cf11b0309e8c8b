//! See `tests::fuzz::operator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::operator(data));
