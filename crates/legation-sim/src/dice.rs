//! The only source of chance: a generator that depends on the seed and nothing else.

use legation_core::error::FormatError;
use legation_core::keys::Entropy;
use zeroize::Zeroizing;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to choose by.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x6c65_6761_7469_6f6e)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`, which is not 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        ((u128::from(self.word()) * sides as u128) >> 64) as usize
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.roll((to - from + 1) as usize) as u64
    }

    /// True this many times in a hundred.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.roll(100) < chance
    }

    /// True this many times in a thousand.
    pub fn permille(&mut self, chance: usize) -> bool {
        self.roll(1000) < chance
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.roll(among.len())]
    }

    /// One of these, as often as its weight says.
    pub fn weighted<T: Copy>(&mut self, among: &[(usize, T)]) -> T {
        let total = among.iter().map(|(weight, _)| weight).sum();
        let mut at = self.roll(total);
        for (weight, one) in among {
            if at < *weight {
                return *one;
            }
            at -= weight;
        }
        among[0].1
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Fills with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            let bytes = self.word().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
    }

    /// This many random bytes, half of them repeating, so that compression has something to do.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let half = len / 2;
        self.fill(&mut out[..half]);
        let letter = b'a' + self.roll(26) as u8;
        out[half..].fill(letter);
        out
    }

    /// Dice of their own, for what must not depend on how often others roll.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.word())
    }
}

impl Entropy for Dice {
    fn draw(&mut self) -> Result<Zeroizing<[u8; 32]>, FormatError> {
        Ok(self.bytes::<32>().into())
    }
}
