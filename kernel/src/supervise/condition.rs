//! What an instance says of itself.

use std::sync::Arc;

use parking_lot::Mutex;

/// Lets an instance say that it is there and yet not what it should be, because something is still missing. Nothing
/// else changes: it keeps its slots and goes on working. Cheap to clone.
#[derive(Clone, Default)]
pub struct Condition(Arc<Mutex<Option<Arc<str>>>>);

impl Condition {
    /// From now on the status of the component is [`State::Degraded`](super::State::Degraded), for this reason.
    pub fn degraded(&self, why: impl Into<Arc<str>>) {
        *self.0.lock() = Some(why.into());
    }

    /// Takes back what [`Condition::degraded`] said.
    pub fn well(&self) {
        *self.0.lock() = None;
    }

    /// What is missing.
    pub(super) fn missing(&self) -> Option<Arc<str>> {
        self.0.lock().clone()
    }
}
