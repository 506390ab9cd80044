//! What was seen already: salts of streams, numbers of datagrams.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long a salt is remembered at least: twice the time for which a request is good (SIP022 §3.1.3).
const AGE: Duration = Duration::from_secs(60);

/// Salts of a generation. A flood of valid requests shortens the memory instead of filling ours.
const MOST: usize = 1 << 17;

/// Remembers salts of requests that were valid otherwise: nobody without a key can fill it.
#[derive(Debug)]
pub struct Salts(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    now: HashSet<[u8; 16]>,
    before: HashSet<[u8; 16]>,
    turned: Instant,
}

impl Default for Salts {
    fn default() -> Self {
        let (now, before) = Default::default();
        Self(Mutex::new(Generations { now, before, turned: Instant::now() }))
    }
}

impl Salts {
    /// Whether this salt is new; it is remembered.
    pub fn insert(&self, salt: &[u8]) -> bool {
        // Salts are random: 16 bytes of one tell it from all others.
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(salt) {
            *to = *from;
        }
        let mut all = self.0.lock();
        if all.turned.elapsed() >= AGE || all.now.len() >= MOST {
            all.before = std::mem::take(&mut all.now);
            all.turned = Instant::now();
        }
        !all.before.contains(&short) && all.now.insert(short)
    }
}

/// Words of the window.
const WORDS: usize = 16;

/// Numbers that a window spans: how far a datagram may be late.
const SPAN: u64 = (WORDS as u64 - 1) * 64;

/// A sliding window over datagram numbers (RFC 6479).
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// One more than the largest number seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Whether this number is new and not too old. Does not remember it: the datagram may be forged.
    #[must_use]
    pub fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return number < u64::MAX;
        }
        self.next - number <= SPAN && self.seen[Self::word(number)] & Self::bit(number) == 0
    }

    /// Remembers a number.
    pub fn insert(&mut self, number: u64) {
        if number >= self.next {
            let (old, new) = (self.next.saturating_sub(1) / 64, number / 64);
            for word in (old + 1..=new).take(WORDS) {
                self.seen[(word % WORDS as u64) as usize] = 0;
            }
            if self.next == 0 {
                self.seen = [0; WORDS];
            }
            self.next = number.saturating_add(1);
        }
        self.seen[Self::word(number)] |= Self::bit(number);
    }

    fn word(number: u64) -> usize {
        (number / 64 % WORDS as u64) as usize
    }

    fn bit(number: u64) -> u64 {
        1 << (number % 64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn salts_are_new_once() {
        let salts = Salts::default();
        assert!(salts.insert(&[1; 32]));
        assert!(!salts.insert(&[1; 32]));
        assert!(salts.insert(&[2; 16]));
    }

    proptest! {
        #[test]
        fn a_window_is_a_set_with_a_horizon(numbers in proptest::collection::vec(0u64..4000, 1..400)) {
            let (mut window, mut seen, mut largest) = (Window::default(), HashSet::new(), None::<u64>);
            for number in numbers {
                let too_old = largest.is_some_and(|largest| largest + 1 > number + SPAN);
                prop_assert_eq!(window.is_new(number), !too_old && !seen.contains(&number));
                if window.is_new(number) {
                    window.insert(number);
                    seen.insert(number);
                    largest = largest.max(Some(number));
                }
            }
        }
    }
}
