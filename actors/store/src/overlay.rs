//! What was written and is not in the file yet.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, SavedRuleSet},
};
use tokio::sync::oneshot;

use crate::journal::Journal;

/// What a value is found by. The first text of those that have one is the `cache_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// The choice of a group.
    Selected(Arc<str>, Box<str>),
    /// Whether a group is shown open.
    Expanded(Arc<str>, Box<str>),
    /// The Clash mode.
    Mode(Arc<str>),
    /// A remote rule-set.
    RuleSet(Arc<str>, Box<str>),
    /// A rejected answer: server, type, name.
    Rejected(Arc<str>, Box<str>, u16, Box<str>),
    /// The name of a fake address.
    FakeName(IpAddr),
    /// The fake address of a name.
    FakeAddress(Family, Box<str>),
    /// Where the giving out of fake addresses stands.
    FakePool,
}

impl Key {
    fn is_fake(&self) -> bool {
        matches!(self, Self::FakeName(_) | Self::FakeAddress(..) | Self::FakePool)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(Box<str>),
    Flag(bool),
    /// Seconds since 1970.
    Until(u64),
    RuleSet(SavedRuleSet),
    Address(IpAddr),
    Pool(FakePool),
}

/// How soon something must be in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Within a second.
    Soon,
    /// At once: a person decided it.
    Now,
}

/// What one transaction writes.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Values to write; `None` removes.
    pub(crate) puts: HashMap<Key, Option<Value>>,
    /// All fake addresses are removed before that.
    pub(crate) forget_fake: bool,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.puts.is_empty() && !self.forget_fake
    }

    /// What this batch says of a key: nothing, or that it has a value or none.
    pub(crate) fn find(&self, key: &Key) -> Option<Option<Value>> {
        match self.puts.get(key) {
            Some(value) => Some(value.clone()),
            None if self.forget_fake && key.is_fake() => Some(None),
            None => None,
        }
    }

    pub(crate) fn forget_fake(&mut self) {
        self.puts.retain(|key, _| !key.is_fake());
        self.forget_fake = true;
    }

    /// Adds what was written later.
    fn extend(&mut self, later: Self) {
        if later.forget_fake {
            self.forget_fake();
        }
        self.puts.extend(later.puts);
    }
}

/// The batch that is being written, and the one that is being filled meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pub(crate) filling: Batch,
    pub(crate) writing: Arc<Batch>,
    /// Something in `filling` is urgent.
    pub(crate) urgent: bool,
    /// Told when what they wait for is in the file.
    waiting: Vec<oneshot::Sender<()>>,
    waiting_for_write: Vec<oneshot::Sender<()>>,
    /// No more will come.
    pub(crate) closed: bool,
    /// What is to survive a kill before it is in the file.
    pub(crate) journal: Option<Journal>,
}

impl Overlay {
    /// Nothing, and a journal for what is to come.
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal: Some(journal), ..Self::default() }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Option<Value>> {
        self.filling.find(key).or_else(|| self.writing.find(key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filling.is_empty() && self.writing.is_empty()
    }

    /// Whether the writer has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.filling.is_empty() || !self.waiting.is_empty()
    }

    /// Told when everything that is here now is in the file.
    pub(crate) fn wait(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if self.is_empty() {
            let _ = sender.send(());
        } else if self.filling.is_empty() {
            self.waiting_for_write.push(sender);
        } else {
            self.waiting.push(sender);
            self.urgent = true;
        }
        receiver
    }

    /// Takes what is to be written next. What could not be written before is in it.
    pub(crate) fn begin(&mut self) -> Arc<Batch> {
        let filled = std::mem::take(&mut self.filling);
        if self.writing.is_empty() {
            self.writing = Arc::new(filled);
        } else {
            // The last transaction failed. Nobody else holds it: the writer has let go of it.
            let failed = std::mem::take(&mut self.writing);
            let mut again = Arc::try_unwrap(failed).unwrap_or_else(|shared| Batch {
                puts: shared.puts.clone(),
                forget_fake: shared.forget_fake,
            });
            again.extend(filled);
            self.writing = Arc::new(again);
        }
        if let Some(journal) = &mut self.journal {
            journal.begin();
        }
        self.urgent = false;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_for_write.append(&mut waiting);
        self.writing.clone()
    }

    /// The batch is in the file, or is given up for now: who waits is told either way.
    pub(crate) fn end(&mut self, written: bool) {
        if written {
            self.writing = Arc::default();
            let all = self.filling.is_empty();
            if let Some(journal) = &mut self.journal {
                journal.end(all);
            }
        }
        for waiting in self.waiting_for_write.drain(..) {
            let _ = waiting.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tag: &str) -> Key {
        Key::Selected("".into(), tag.into())
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.into()))
    }

    fn name(ip: &str) -> Key {
        Key::FakeName(ip.parse().unwrap())
    }

    #[test]
    fn the_latest_value_counts_also_when_a_write_failed() {
        let mut overlay = Overlay::default();
        overlay.filling.puts.insert(key("a"), text("1"));
        overlay.filling.puts.insert(key("b"), text("1"));
        let first = overlay.begin();
        overlay.filling.puts.insert(key("a"), text("2"));
        assert_eq!(overlay.find(&key("a")), Some(text("2")));
        assert_eq!(overlay.find(&key("b")), Some(text("1")));
        assert_eq!(overlay.find(&key("c")), None);
        drop(first);
        overlay.end(false);
        let again = overlay.begin();
        assert_eq!(again.puts.len(), 2);
        assert_eq!(overlay.find(&key("a")), Some(text("2")));
        drop(again);
        overlay.end(true);
        assert!(overlay.is_empty());
        assert_eq!(overlay.find(&key("a")), None);
    }

    #[test]
    fn forgetting_hides_what_the_file_has() {
        let mut overlay = Overlay::default();
        overlay.filling.puts.insert(name("198.18.0.2"), text("a.test"));
        overlay.filling.puts.insert(key("a"), text("1"));
        overlay.filling.forget_fake();
        overlay.filling.puts.insert(name("198.18.0.3"), text("b.test"));
        assert_eq!(overlay.find(&name("198.18.0.2")), Some(None));
        assert_eq!(overlay.find(&name("198.18.0.3")), Some(text("b.test")));
        assert_eq!(overlay.find(&key("a")), Some(text("1")));
        assert_eq!(overlay.find(&key("b")), None);
    }

    #[test]
    fn who_waits_is_told_after_the_write_that_it_waits_for() {
        let mut overlay = Overlay::default();
        assert!(overlay.wait().try_recv().is_ok());
        overlay.filling.puts.insert(key("a"), text("1"));
        let mut first = overlay.wait();
        assert!(overlay.urgent && overlay.has_work());
        let batch = overlay.begin();
        let mut second = overlay.wait();
        overlay.filling.puts.insert(key("b"), text("1"));
        let mut third = overlay.wait();
        drop(batch);
        overlay.end(true);
        assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
        assert!(third.try_recv().is_err());
        drop(overlay.begin());
        overlay.end(true);
        assert!(third.try_recv().is_ok());
    }
}
