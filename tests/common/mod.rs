//! Independent peers for the integration tests: the real binary as a child process, a carrier and a model on
//! tokio-tungstenite, a certificate authority made on the spot, and a raw HTTP client.
//!
//! Nothing here names the crate's own types, so that the peers can disagree with it.

#![allow(dead_code)] // each test file compiles this module and uses its own part of it

pub mod carrier;
pub mod daemon;
pub mod http;
pub mod metric;
pub mod model;
pub mod pair;
pub mod socket;
pub mod tls;
pub mod tool;

use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long a test waits for a message that must come. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A plain or a TLS connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Either kind behind one type.
pub type BoxIo = Box<dyn Io>;

/// Waits for `future` and fails the test, naming `what`, when it takes longer than `PATIENCE`.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// `len` bytes of audio that differ from chunk to chunk, so that order and completeness show.
pub fn audio(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u32)
        .wrapping_mul(2_654_435_761)
        .wrapping_add(0x9E37_79B9);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 section 4), the plain way.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (i, byte)| {
            word | u32::from(*byte) << (16 - 8 * i)
        });
        for i in 0..4 {
            if i <= group.len() {
                text.push(ALPHABET[(word >> (18 - 6 * i) & 63) as usize] as char);
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The bytes of valid padded base64; panics on anything else, which is what a strict peer is for.
pub fn unbase64(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(4), "base64 length of {text:?}");
    let mut bytes = Vec::new();
    let body = text.trim_end_matches('=');
    assert!(text.len() - body.len() <= 2, "padding of {text:?}");
    let (mut word, mut bits) = (0u32, 0);
    for c in body.bytes() {
        let digit = ALPHABET
            .iter()
            .position(|a| *a == c)
            .unwrap_or_else(|| panic!("not base64: {text:?}"));
        word = word << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    bytes
}
