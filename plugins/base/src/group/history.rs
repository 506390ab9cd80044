//! Measured delays by outbound tag, shared by all groups and the APIs.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crosspoint_kernel::Tag;
use parking_lot::Mutex;

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Milliseconds for dial and response.
    pub millis: u16,
    /// When it was taken, to tell its age.
    pub taken: Instant,
    /// When it was taken, by the clock.
    pub at: SystemTime,
}

impl Delay {
    /// A measurement of this moment.
    pub fn now(millis: u16) -> Self {
        Self { millis, taken: Instant::now(), at: SystemTime::now() }
    }
}

/// The last measurement of each outbound. Keyed by the tag of the leaf: a group that is a member of another group
/// shares what is known of the member it uses.
#[derive(Debug, Default)]
pub struct History(Mutex<HashMap<Tag, Delay>>);

impl History {
    /// The last measurement of an outbound.
    pub fn get(&self, tag: &str) -> Option<Delay> {
        self.0.lock().get(tag).copied()
    }

    /// Remembers a measurement.
    pub fn put(&self, tag: &str, delay: Delay) {
        self.0.lock().insert(tag.into(), delay);
    }

    /// Forgets what was measured: the outbound does not work.
    pub fn forget(&self, tag: &str) {
        self.0.lock().remove(tag);
    }
}

/// The history of this process.
pub fn history() -> &'static History {
    static HISTORY: OnceLock<History> = OnceLock::new();
    HISTORY.get_or_init(History::default)
}
