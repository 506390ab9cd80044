//! Requests that came before.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{crypto::KEY, header::CLOCK_SKEW};

/// How long a request is remembered at least: as long as its time may be good, from the future to the past.
const AGE: Duration = Duration::from_secs(2 * CLOCK_SKEW);

/// Requests of a generation. A flood of valid requests shortens the memory instead of filling ours.
const MOST: usize = 1 << 17;

/// Remembers requests of users: nobody without a key can fill it.
#[derive(Debug)]
pub(super) struct Seen(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    now: HashSet<[u8; KEY]>,
    before: HashSet<[u8; KEY]>,
    turned: Instant,
}

impl Default for Seen {
    fn default() -> Self {
        let (now, before) = Default::default();
        Self(Mutex::new(Generations { now, before, turned: Instant::now() }))
    }
}

impl Seen {
    /// Whether this request, of which these bytes are random, is new; it is remembered.
    pub(super) fn is_new(&self, request: &[u8; KEY]) -> bool {
        let mut all = self.0.lock();
        if all.turned.elapsed() >= AGE || all.now.len() >= MOST {
            all.before = std::mem::take(&mut all.now);
            all.turned = Instant::now();
        }
        !all.before.contains(request) && all.now.insert(*request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_new_once() {
        let seen = Seen::default();
        assert!(seen.is_new(&[1; 16]));
        assert!(!seen.is_new(&[1; 16]));
        assert!(seen.is_new(&[2; 16]));
    }
}
