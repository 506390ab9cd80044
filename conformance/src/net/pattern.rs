//! Bytes that a receiver can check without having seen them: a seeded stream and its digest.

/// An endless stream of bytes that depends on a seed only.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills `buf` with the next bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for byte in buf {
            *byte = self.next_byte();
        }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.fill(&mut buf);
        buf
    }

    /// Whether `buf` holds the next bytes of the stream.
    pub fn matches(&mut self, buf: &[u8]) -> bool {
        // All of `buf` is consumed even after a difference, so that the position stays defined.
        buf.iter().fold(true, |same, &byte| (self.next_byte() == byte) & same)
    }

    /// The digest of the first `len` bytes of the stream of `seed`.
    pub fn digest(seed: u64, len: u64) -> u64 {
        let mut pattern = Pattern::new(seed);
        let mut digest = Digest::default();
        let mut left = len;
        let mut buf = [0; 4096];
        while left > 0 {
            let part = &mut buf[..left.min(4096) as usize];
            pattern.fill(part);
            digest.update(part);
            left -= part.len() as u64;
        }
        digest.value()
    }

    fn next_byte(&mut self) -> u8 {
        if self.used == 8 {
            // splitmix64: full period, every seed good, a few instructions a word.
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.word = (z ^ (z >> 31)).to_le_bytes();
            self.used = 0;
        }
        let byte = self.word[self.used];
        self.used += 1;
        byte
    }
}

/// FNV-1a over 64 bits: finds loss, repetition and exchange of bytes. Not for adversaries.
#[derive(Clone, Copy, Debug)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The digest so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let whole = Pattern::new(7).take(100);
        let mut cut = Pattern::new(7);
        let mut parts = cut.take(3);
        parts.extend(cut.take(97));
        assert_eq!(whole, parts);
        assert!(Pattern::new(7).matches(&whole));
        assert!(!Pattern::new(8).matches(&whole));
        let mut digest = Digest::default();
        digest.update(&whole);
        assert_eq!(digest.value(), Pattern::digest(7, 100));
    }
}
