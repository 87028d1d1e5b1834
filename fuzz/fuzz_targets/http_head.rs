//! HTTP heads: what is said of a beginning stays true of the whole, and no smuggling shape is taken.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::proto::http::head::property::assert_consistent(bytes);
});
