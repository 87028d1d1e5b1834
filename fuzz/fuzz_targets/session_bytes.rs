//! Bytes as a course of events for a whole session: it ends once, with every byte of audio accounted for.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::call::session::fuzz::play(bytes);
});
