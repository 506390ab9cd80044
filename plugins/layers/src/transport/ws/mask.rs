//! Masking of frames (RFC 6455 §5.3): each byte of the payload is XORed with one of four key bytes, in turn.

use std::{cell::RefCell, io};

use aws_lc_rs::rand;

/// The key of a frame.
pub type Key = [u8; 4];

/// Bytes of keys that a thread draws at once.
const DRAWN: usize = 512;

thread_local! {
    static KEYS: RefCell<(usize, [u8; DRAWN])> = const { RefCell::new((DRAWN, [0; DRAWN])) };
}

/// A key that nobody can foresee.
///
/// # Errors
/// The system has no randomness.
pub fn key() -> io::Result<Key> {
    let fill = |bytes: &mut [u8]| rand::fill(bytes).map_err(|_| io::Error::other("no randomness"));
    let drawn = KEYS.try_with(|keys| {
        let (used, drawn) = &mut *keys.borrow_mut();
        let (chunks, _) = drawn.as_chunks::<4>();
        if let Some(key) = chunks.get(*used) {
            *used += 1;
            return Ok(*key);
        }
        fill(drawn)?;
        *used = 1;
        Ok(drawn.first_chunk().copied().unwrap_or_default())
    });
    // The thread may be ending, and what it has drawn be gone.
    drawn.unwrap_or_else(|_| {
        let mut key = Key::default();
        fill(&mut key).map(|()| key)
    })
}

/// The key for what comes behind `n` bytes.
#[must_use]
pub fn behind(mut key: Key, n: usize) -> Key {
    key.rotate_left(n % 4);
    key
}

/// The key as wide as the processor can use it: the loops below become vector instructions.
fn widen(key: Key) -> u128 {
    let [a, b, c, d] = key;
    u128::from_ne_bytes([a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d])
}

/// Masks or unmasks in place.
pub fn apply(key: Key, bytes: &mut [u8]) {
    let wide = widen(key);
    let (chunks, rest) = bytes.as_chunks_mut::<16>();
    for chunk in chunks {
        *chunk = (u128::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Masks while copying, as much as fits.
pub fn copy(key: Key, from: &[u8], to: &mut [u8]) {
    let wide = widen(key);
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
    for (from, to) in from.iter().zip(to) {
        *to = (u128::from_ne_bytes(*from) ^ wide).to_ne_bytes();
    }
    for ((from, to), key) in from_rest.iter().zip(to_rest).zip(wide.to_ne_bytes()) {
        *to = from ^ key;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_differ() {
        let keys: HashSet<Key> = (0..1000).map(|_| key().unwrap()).collect();
        assert!(keys.len() > 990);
    }

    proptest::proptest! {
        #[test]
        fn wide_is_the_same_as_byte_by_byte(
            key: Key,
            bytes in proptest::collection::vec(0..=255u8, 0..100),
            cut in 0..100usize,
        ) {
            let plain: Vec<u8> =
                bytes.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
            let mut copied = vec![0; bytes.len()];
            copy(key, &bytes, &mut copied);
            proptest::prop_assert_eq!(&copied, &plain);
            let mut applied = bytes.clone();
            let (front, back) = applied.split_at_mut(cut.min(bytes.len()));
            let later = behind(key, front.len());
            apply(key, front);
            apply(later, back);
            proptest::prop_assert_eq!(&applied, &plain);
        }
    }
}
