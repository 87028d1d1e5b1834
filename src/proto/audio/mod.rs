//! Audio as bytes: G.711 mu-law, base64 text of it, and telephone keys as tones.

pub mod base64;
pub mod dtmf;
pub mod g711;
