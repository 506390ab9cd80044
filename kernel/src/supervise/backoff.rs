//! When a failed component is started again.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::blueprint::Supervision;

/// Restart history of one component.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    recent: VecDeque<Instant>,
    delay: Option<Duration>,
    up_since: Option<Instant>,
}

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again after the delay.
    Retry(Duration),
    /// It fails too often: start again after the (long) delay, and say so until it stays up.
    Degraded(Duration),
}

impl Backoff {
    /// The component is up.
    pub(super) fn up(&mut self, now: Instant) {
        self.up_since = Some(now);
    }

    /// The component failed: when to try again.
    pub(super) fn failed(&mut self, now: Instant, policy: &Supervision) -> Verdict {
        let healthy = self.up_since.take().is_some_and(|since| now - since >= policy.reset_after);
        if healthy {
            self.recent.clear();
            self.delay = None;
        }
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now - *first > policy.window) {
            self.recent.pop_front();
        }
        if self.recent.len() > policy.max_restarts as usize {
            self.recent.truncate(policy.max_restarts as usize + 1);
            return Verdict::Degraded(jitter(policy.backoff_max));
        }
        let delay = self.delay.unwrap_or(policy.backoff_min).min(policy.backoff_max);
        self.delay = Some((delay * 2).min(policy.backoff_max));
        Verdict::Retry(jitter(delay))
    }
}

/// Spreads restarts of components that failed together: 80 to 100 % of the delay.
fn jitter(delay: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1000;
    delay.mul_f64(0.8 + 0.2 * (random as f64 / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Retry(delay) | Verdict::Degraded(delay) => delay,
        }
    }

    #[test]
    fn doubles_up_to_the_limit_and_starts_over_after_health() {
        let policy = Supervision { max_restarts: 100, ..Supervision::default() };
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            let next = delay(backoff.failed(now, &policy));
            assert!(next <= policy.backoff_max && next * 2 > last);
            last = next;
            now += Duration::from_millis(10);
        }
        assert!(last > Duration::from_secs(20));
        backoff.up(now);
        now += policy.reset_after;
        assert!(delay(backoff.failed(now, &policy)) <= policy.backoff_min);
    }

    #[test]
    fn too_many_restarts_degrade() {
        let policy = Supervision::default();
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 0..policy.max_restarts {
            assert!(matches!(backoff.failed(now, &policy), Verdict::Retry(_)));
        }
        assert!(matches!(backoff.failed(now, &policy), Verdict::Degraded(_)));
    }
}
