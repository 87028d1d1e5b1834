//! Bytes of a journal file: the same entries whole and in pieces, numbers rising, every byte accounted for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::store::journal::scan::property::assert_scan_is_sound(bytes);
});
