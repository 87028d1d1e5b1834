//! Bodies of journal entries: what is read can be written and reads the same, and can be folded into a row.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::store::record::event::assert_decoder(bytes);
});
