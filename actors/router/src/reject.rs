//! The action `reject`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crosspoint_kernel::snapshot::Reject;
use parking_lot::Mutex;

/// Rejections within [`WINDOW`] after which further ones are silent.
const LIMIT: usize = 50;
const WINDOW: Duration = Duration::from_secs(30);

/// How one rule rejects, and how often it did lately: a client that asks again and again is no longer answered.
#[derive(Debug)]
pub(crate) struct Rejecter {
    how: Reject,
    no_drop: bool,
    /// The last [`LIMIT`] rejections, oldest first.
    recent: Mutex<VecDeque<Instant>>,
}

impl Rejecter {
    pub(crate) fn new(how: Reject, no_drop: bool) -> Self {
        Self { how, no_drop, recent: Mutex::default() }
    }

    /// How to reject one more connection.
    pub(crate) fn next(&self) -> Reject {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Reject {
        if self.how == Reject::Drop || self.no_drop {
            return self.how;
        }
        let mut recent = self.recent.lock();
        // Full of rejections that are all recent: this one is above the limit.
        let flood = recent.len() == LIMIT
            && recent.front().is_some_and(|first| now.duration_since(*first) <= WINDOW);
        if recent.len() == LIMIT {
            recent.pop_front();
        }
        recent.push_back(now);
        if flood { Reject::Drop } else { self.how }
    }
}

impl std::fmt::Display for Rejecter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.how == Reject::Drop { "reject(drop)" } else { "reject" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifty_first_within_thirty_seconds_is_dropped() {
        let rejecter = Rejecter::new(Reject::Refuse, false);
        let start = Instant::now();
        for n in 0..50 {
            assert_eq!(rejecter.at(start + Duration::from_millis(n)), Reject::Refuse);
        }
        assert_eq!(rejecter.at(start + Duration::from_secs(29)), Reject::Drop);
        // The first fifty are forgotten, the one of second 29 counts on.
        assert_eq!(rejecter.at(start + Duration::from_secs(31)), Reject::Refuse);
        for _ in 0..48 {
            assert_eq!(rejecter.at(start + Duration::from_secs(31)), Reject::Refuse);
        }
        assert_eq!(rejecter.at(start + Duration::from_secs(31)), Reject::Drop);
    }

    #[test]
    fn no_drop_and_drop() {
        for (how, no_drop) in [(Reject::Refuse, true), (Reject::Drop, false)] {
            let rejecter = Rejecter::new(how, no_drop);
            let now = Instant::now();
            assert!((0..200).all(|_| rejecter.at(now) == how));
        }
    }
}
