//! See `tests::fuzz::sni`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::sni(data));
