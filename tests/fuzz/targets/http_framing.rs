//! See `tests::fuzz::http_framing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::http_framing(data));
