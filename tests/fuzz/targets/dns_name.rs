//! See `tests::fuzz::dns_name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::dns_name(data));
