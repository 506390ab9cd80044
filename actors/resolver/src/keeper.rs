//! What goes from the resolver of one generation to the next.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::resolver::Resolver;

/// Knows the resolvers that are alive, so that a new one starts with the answers that still hold: those of a server whose
/// options are the same, while the rest of the `dns` section is the same. Cheap to clone; one for the whole process.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Mutex<Vec<Weak<Resolver>>>>);

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keeper")
    }
}

impl Keeper {
    /// Gives a new resolver what the others know. They lose nothing: the reload may yet fail.
    pub(crate) fn hand_over(&self, next: &Arc<Resolver>) {
        let mut alive = self.0.lock();
        alive.retain(|resolver| {
            let Some(before) = resolver.upgrade() else { return false };
            next.adopt(&before);
            true
        });
        alive.push(Arc::downgrade(next));
    }
}
