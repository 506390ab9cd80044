//! State that a restart should not forget: choices, modes, fetched rule-sets, rejected answers, fake addresses.
//!
//! Components see it as a [`State`] and do not know where it is kept: in the [`Memory`] of this process, or in the
//! file of `experimental.cache_file` (crate `crosspoint-store`). A component reads it from the
//! [names](crate::snapshot::Namespace) it is built with, and writes to [`Plane::state`](crate::snapshot::Plane::state)
//! at the time, because a reload may put another file in force while the component lives on.
//!
//! Nothing here waits for a disk: what is written is seen by the next reader at once and is stored a moment later.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Deref,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use crosspoint_schema::decode::Prefix;
use parking_lot::Mutex;

use crate::{BoxFuture, BuildError, resolve::Family};

/// Opens the state that a configuration asks for. Called on a thread that may block.
pub type OpenState = Box<dyn FnOnce() -> Result<Arc<dyn State>, BuildError> + Send>;

/// A fetched rule-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRuleSet {
    /// The file as it was fetched.
    pub content: Bytes,
    /// `ETag` of the answer; empty if it had none.
    pub etag: String,
    /// When it was fetched or found unchanged. Kept in whole seconds.
    pub updated: SystemTime,
}

/// Where the giving out of fake addresses stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FakePool {
    /// Range of IPv4 addresses.
    pub range4: Option<Prefix>,
    /// Range of IPv6 addresses.
    pub range6: Option<Prefix>,
    /// The IPv4 address given out last.
    pub last4: Option<Ipv4Addr>,
    /// The IPv6 address given out last.
    pub last6: Option<Ipv6Addr>,
}

/// State that outlives components, and perhaps the process.
pub trait State: fmt::Debug + Send + Sync + 'static {
    /// Whether it outlives the process.
    fn persistent(&self) -> bool {
        true
    }

    /// The member that a group was told to use.
    fn selected(&self, group: &str) -> Option<String>;
    /// Remembers a choice. Stored at once.
    fn select(&self, group: &str, member: &str);
    /// Every group with its member, to carry them over into another state.
    fn choices(&self) -> Vec<(String, String)>;

    /// Whether an interface shows the members of a group.
    fn expanded(&self, group: &str) -> Option<bool>;
    /// Remembers that.
    fn set_expanded(&self, group: &str, expanded: bool);

    /// The mode that rules ask for with `clash_mode`.
    fn clash_mode(&self) -> Option<String>;
    /// Remembers it. Stored at once.
    fn set_clash_mode(&self, mode: &str);

    /// What was fetched for a remote rule-set.
    fn rule_set(&self, tag: &str) -> Option<SavedRuleSet>;
    /// Remembers it.
    fn save_rule_set(&self, tag: &str, set: SavedRuleSet);

    /// Whether rejected answers are kept (`store_rdrc`); otherwise the two below do nothing.
    fn keeps_rejected(&self) -> bool {
        false
    }
    /// Whether an answer of this server to this name and type was rejected, not too long ago. For every query.
    fn rejected(&self, server: &str, name: &str, qtype: u16) -> bool {
        let _ = (server, name, qtype);
        false
    }
    /// Remembers that one was.
    fn reject(&self, server: &str, name: &str, qtype: u16) {
        let _ = (server, name, qtype);
    }

    /// Fake addresses, if they are kept (`store_fakeip`).
    fn fake(&self) -> Option<&dyn FakeStore> {
        None
    }

    /// Resolves when all that was written before is safe, or could not be made so (which is logged).
    fn flush(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Fake addresses that outlive the process. One address has one name, one name one address of each family.
pub trait FakeStore: Send + Sync {
    /// Where the giving out stands; `None` before the first [`reset`](Self::reset).
    fn pool(&self) -> Option<FakePool>;
    /// Every address and its name.
    fn entries(&self) -> Vec<(IpAddr, Box<str>)>;
    /// The name of an address.
    fn name(&self, ip: IpAddr) -> Option<Box<str>>;
    /// The address of a name.
    fn address(&self, name: &str, family: Family) -> Option<IpAddr>;
    /// `ip` stands for `name` from now on, and for nothing else. The pool is stored in the same transaction, so
    /// that a crash cannot leave an address that is given out twice. Whether it survives a kill of the process already;
    /// if not, it does after [`State::flush`].
    fn assign(&self, ip: IpAddr, name: &str, pool: FakePool) -> bool;
    /// Forgets all addresses and starts with that pool.
    fn reset(&self, pool: FakePool);
}

/// The state in force. Cheap to clone; without a file it is the memory of this process.
#[derive(Clone, Debug)]
pub struct SharedState(Arc<dyn State>);

impl SharedState {
    /// The state of a new generation: `next`, or memory that knows what `before` knew. Choices that were made while
    /// there was no file, or another one, are not lost by that.
    pub(crate) fn follow(before: &Self, next: Option<Arc<dyn State>>) -> Self {
        let Some(next) = next else {
            if !before.persistent() {
                return before.clone();
            }
            let memory = Memory::default();
            adopt(&memory, &*before.0);
            return Self(Arc::new(memory));
        };
        if !Arc::ptr_eq(&next, &before.0) {
            adopt(&*next, &*before.0);
        }
        Self(next)
    }
}

/// Takes over the choices of another state for groups of which nothing is known.
fn adopt(into: &dyn State, other: &dyn State) {
    for (group, member) in other.choices() {
        if into.selected(&group).is_none() {
            into.select(&group, &member);
        }
    }
    if into.clash_mode().is_none()
        && let Some(mode) = other.clash_mode()
    {
        into.set_clash_mode(&mode);
    }
}

impl Default for SharedState {
    fn default() -> Self {
        Self(Arc::new(Memory::default()))
    }
}

impl From<Arc<dyn State>> for SharedState {
    fn from(state: Arc<dyn State>) -> Self {
        Self(state)
    }
}

impl Deref for SharedState {
    type Target = Arc<dyn State>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// State that ends with the process: choices only. What is fetched or made up is kept by who did it.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    selected: HashMap<String, String>,
    expanded: HashMap<String, bool>,
    mode: Option<String>,
}

impl State for Memory {
    fn persistent(&self) -> bool {
        false
    }

    fn selected(&self, group: &str) -> Option<String> {
        self.0.lock().selected.get(group).cloned()
    }

    fn select(&self, group: &str, member: &str) {
        self.0.lock().selected.insert(group.to_owned(), member.to_owned());
    }

    fn choices(&self) -> Vec<(String, String)> {
        let known = self.0.lock();
        known.selected.iter().map(|(group, member)| (group.clone(), member.clone())).collect()
    }

    fn expanded(&self, group: &str) -> Option<bool> {
        self.0.lock().expanded.get(group).copied()
    }

    fn set_expanded(&self, group: &str, expanded: bool) {
        self.0.lock().expanded.insert(group.to_owned(), expanded);
    }

    fn clash_mode(&self) -> Option<String> {
        self.0.lock().mode.clone()
    }

    fn set_clash_mode(&self, mode: &str) {
        self.0.lock().mode = Some(mode.to_owned());
    }

    fn rule_set(&self, _tag: &str) -> Option<SavedRuleSet> {
        None
    }

    fn save_rule_set(&self, _tag: &str, _set: SavedRuleSet) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for a file.
    #[derive(Debug, Default)]
    struct File(Memory);

    impl State for File {
        fn selected(&self, group: &str) -> Option<String> {
            self.0.selected(group)
        }
        fn select(&self, group: &str, member: &str) {
            self.0.select(group, member);
        }
        fn choices(&self) -> Vec<(String, String)> {
            self.0.choices()
        }
        fn expanded(&self, group: &str) -> Option<bool> {
            self.0.expanded(group)
        }
        fn set_expanded(&self, group: &str, expanded: bool) {
            self.0.set_expanded(group, expanded);
        }
        fn clash_mode(&self) -> Option<String> {
            self.0.clash_mode()
        }
        fn set_clash_mode(&self, mode: &str) {
            self.0.set_clash_mode(mode);
        }
        fn rule_set(&self, _: &str) -> Option<SavedRuleSet> {
            None
        }
        fn save_rule_set(&self, _: &str, _: SavedRuleSet) {}
    }

    #[test]
    fn choices_follow_into_a_file_and_out_of_it() {
        let first = SharedState::default();
        first.select("g", "a");
        first.select("h", "b");
        // Without a file the memory stays the same.
        assert!(Arc::ptr_eq(&SharedState::follow(&first, None), &first));
        let file = Arc::new(File::default());
        file.select("g", "stored");
        let second = SharedState::follow(&first, Some(file));
        assert_eq!(second.selected("g").as_deref(), Some("stored"));
        assert_eq!(second.selected("h").as_deref(), Some("b"));
        second.set_clash_mode("Global");
        let third = SharedState::follow(&second, None);
        assert!(!third.persistent());
        assert_eq!(third.selected("g").as_deref(), Some("stored"));
        assert_eq!(third.clash_mode().as_deref(), Some("Global"));
    }
}
