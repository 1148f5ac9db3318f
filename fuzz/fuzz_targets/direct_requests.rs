#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turso_sync_fuzz::direct_requests(data));
