//! A CRYPTO stream put together from pieces in any order, duplicates and overlaps included, in bounded memory.

use super::frames::{Frames, hello_len};

/// Longest ClientHello taken. Those with post-quantum key shares and ECH stay below 4 KiB.
pub(super) const MAX_STREAM: usize = 16 << 10;
const WORD: usize = 64;
const WORDS: usize = MAX_STREAM / WORD;

/// What a packet brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress<'a> {
    /// The whole ClientHello message, header included.
    Complete(&'a [u8]),
    Partial,
    /// Not a ClientHello, or too long.
    Failed,
}

/// The start of a CRYPTO stream.
pub(super) struct CryptoStream {
    /// Grows to the highest byte seen; never beyond `MAX_STREAM`.
    bytes: Vec<u8>,
    /// One bit for each byte that is there.
    have: [u64; WORDS],
}

impl std::fmt::Debug for CryptoStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CryptoStream")
            .field("end", &self.bytes.len())
            .field("contiguous", &self.contiguous())
            .finish()
    }
}

impl CryptoStream {
    pub(super) const fn new() -> Self {
        Self { bytes: Vec::new(), have: [0; WORDS] }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.have = [0; WORDS];
    }

    /// Takes the CRYPTO frames of one packet.
    pub(super) fn add(&mut self, frames: &Frames<'_>) -> Progress<'_> {
        for (offset, data) in frames.crypto() {
            if self.insert(offset, data).is_none() {
                return Progress::Failed;
            }
        }
        let ready = self.bytes.get(..self.contiguous()).unwrap_or_default();
        match hello_len(ready) {
            None => Progress::Failed,
            Some(None) => Progress::Partial,
            Some(Some(len)) if len > MAX_STREAM => Progress::Failed,
            Some(Some(len)) => ready.get(..len).map_or(Progress::Partial, Progress::Complete),
        }
    }

    /// Stores a piece; `None` if it lies beyond the cap.
    fn insert(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(data.len())?;
        if end > MAX_STREAM {
            return None;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(start..end)?.copy_from_slice(data);
        let mut at = start;
        while at < end {
            let bit = at % WORD;
            let count = (WORD - bit).min(end - at);
            *self.have.get_mut(at / WORD)? |= (u64::MAX >> (WORD - count)) << bit;
            at += count;
        }
        Some(())
    }

    /// How many bytes are there without a gap from the start.
    fn contiguous(&self) -> usize {
        let mut total = 0;
        for word in self.have {
            total += word.trailing_ones() as usize;
            if word != u64::MAX {
                break;
            }
        }
        total
    }
}
