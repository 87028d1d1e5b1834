//! The seeded generator that each session is handed: mask keys, event ids, jitter.
//!
//! ChaCha8, so that mask keys stay unpredictable to whoever chose the payload (RFC 6455 section
//! 10.3 asks for that), and the same seed replays the same session.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A deterministic, cryptographically strong generator.
#[derive(Clone, Debug)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// From a full seed: the shell fills it from the system's entropy, a test chooses it.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// From one integer, for tests and simulations.
    pub fn from_u64(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A WebSocket masking key.
    pub fn mask_key(&mut self) -> [u8; 4] {
        self.next_u32().to_ne_bytes()
    }
}
