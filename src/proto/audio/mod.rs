//! Audio as bytes: G.711 mu-law, and base64 text of it.

pub mod base64;
pub mod g711;
