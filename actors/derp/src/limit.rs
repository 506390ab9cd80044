//! How much a client may send.

use std::time::Duration;

use tokio::time::Instant;

use crate::{frame::MAX_PACKET, key::KEY_LEN};

/// Least burst in bytes: the longest frame must fit.
const LEAST_BURST: u64 = (MAX_PACKET + KEY_LEN) as u64;

/// What each client may send. Other servers of the region may send what they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second, frames without their heads.
    pub bytes_per_second: u64,
    /// Bytes at once.
    pub burst: u64,
}

impl Rate {
    /// A rate, with room for the longest frame at least.
    #[must_use]
    pub fn new(bytes_per_second: u64, burst: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), burst: burst.max(LEAST_BURST) }
    }
}

/// A token bucket.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// Bytes that may be sent; below zero what was lent.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst as f64, at: now }
    }

    /// The rate that it has.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes so many bytes. Returns how long the client must wait then before anything more of it is read.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        let rate = self.rate.bytes_per_second as f64;
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * rate).min(self.rate.burst as f64) - bytes as f64;
        (self.tokens < 0.0).then(|| Duration::from_secs_f64((-self.tokens / rate).min(3600.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_is_paid() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate::new(1_000_000, 0), start);
        assert_eq!(bucket.rate().burst, LEAST_BURST);
        let burst = usize::try_from(LEAST_BURST).unwrap();
        assert_eq!(bucket.take(burst, start), None);
        let wait = bucket.take(500_000, start).unwrap();
        assert!((0.49..0.51).contains(&wait.as_secs_f64()), "{wait:?}");
        let later = start + Duration::from_millis(600);
        assert_eq!(bucket.take(60_000, later), None);
        assert!(bucket.take(60_000, later).is_some());
        // It never holds more than a burst.
        assert!(bucket.take(burst + 1, later + Duration::from_secs(99)).is_some());
    }
}
