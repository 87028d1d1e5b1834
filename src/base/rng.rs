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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_replays_and_another_does_not() {
        let run = |mut rng: Rng| [rng.next_u64(), u64::from(rng.next_u32()), rng.next_u64()];
        assert_eq!(run(Rng::from_u64(7)), run(Rng::from_u64(7)));
        assert_ne!(run(Rng::from_u64(7)), run(Rng::from_u64(8)));
        assert_eq!(run(Rng::from_seed([3; 32])), run(Rng::from_seed([3; 32])));
        assert_ne!(run(Rng::from_seed([3; 32])), run(Rng::from_seed([4; 32])));
    }

    #[test]
    fn a_clone_goes_on_from_the_same_place() {
        let mut one = Rng::from_u64(7);
        one.next_u32();
        let mut two = one.clone();
        assert_eq!(one.mask_key(), two.mask_key());
    }

    #[test]
    fn mask_keys_differ_from_frame_to_frame() {
        // RFC 6455 section 5.3: a fresh key for each frame. A thousand keys of 32 bits share none with
        // a chance of 0.9999; with this seed they do not.
        let mut rng = Rng::from_u64(7);
        let mut keys: Vec<[u8; 4]> = (0..1_000).map(|_| rng.mask_key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1_000);
    }
}
