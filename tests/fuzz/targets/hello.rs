//! See `tests::fuzz::hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::hello(data));
