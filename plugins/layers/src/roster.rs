//! Users of an inbound, which change while it runs.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::Arc,
};

use crosspoint_kernel::session::Standing;

use crate::inbound::{Greeter, Inbound};

/// The users of an inbound at one moment.
pub trait Roster: Send + Sync + 'static {
    /// Whether flows of that user may live on that an instance before this one has let in.
    fn has(&self, user: Option<&str>) -> bool;

    /// Tells of each user whether its flows of the time of `old` may live on: it is still there, with the same secrets.
    fn stays<'a>(&'a self, old: &'a Self) -> impl Fn(Option<&str>) -> bool + 'a;
}

/// The names that have the same secrets in both lists of users. Neither must be secret from whoever can change them: the
/// comparison is not one with what clients send.
pub fn unchanged<'a, S: Eq + Hash>(
    now: impl IntoIterator<Item = (&'a str, S)>,
    old: impl IntoIterator<Item = (&'a str, S)>,
) -> HashSet<&'a str> {
    fn by_name<'a, S: Eq + Hash>(
        users: impl IntoIterator<Item = (&'a str, S)>,
    ) -> HashMap<&'a str, HashSet<S>> {
        let mut all = HashMap::<_, HashSet<S>>::new();
        for (name, secret) in users {
            all.entry(name).or_default().insert(secret);
        }
        all
    }
    let old = by_name(old);
    let same = |(name, secrets): (_, _)| (old.get(name) == Some(&secrets)).then_some(name);
    by_name(now).into_iter().filter_map(same).collect()
}

/// A connection that was let in by the users of one moment, and asks once more when it stands in the ledger: whoever revokes
/// a user afterwards finds it there.
pub(crate) struct Admitted<G: Greeter> {
    inbound: Arc<Inbound<G>>,
    by: Arc<G::Users>,
}

impl<G: Greeter> Admitted<G> {
    pub(crate) fn new(inbound: Arc<Inbound<G>>, by: Arc<G::Users>) -> Self {
        Self { inbound, by }
    }
}

impl<G: Greeter> fmt::Debug for Admitted<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admitted")
    }
}

impl<G: Greeter> Standing for Admitted<G> {
    fn holds(&self, user: Option<&str>) -> bool {
        let now = self.inbound.users_now();
        Arc::ptr_eq(&now, &self.by) || now.stays(&self.by)(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stays() {
        let old = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("d", 5)];
        let new = [("d", 5), ("a", 1), ("b", 9), ("d", 4), ("e", 3)];
        assert_eq!(unchanged(new, old), HashSet::from(["a", "d"]));
        // One of two secrets.
        assert_eq!(unchanged([("d", 4)], old), HashSet::new());
    }
}
