//! Realtime events: the strict scanner against simd-json, simd-json against serde_json.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::proto::differential::assert_realtime_paths_agree(bytes);
});
