//! WebSocket frames: our reader, whole and in pieces, against tungstenite's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    voxrelay::proto::ws::differential::assert_agreement_of(bytes);
});
