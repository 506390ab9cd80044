//! The users of an inbound: name and password pairs, checked without telling by time which part was wrong.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use crosspoint_kernel::session::Standing;

/// Checks credentials that came in over the wire.
pub trait Authenticate {
    /// The user's name when the pair is right.
    fn authenticate(&self, username: &[u8], password: &[u8]) -> Option<Arc<str>>;
}

/// An immutable set of users. A name may occur several times with different passwords, as in the reference.
#[derive(Debug, Default)]
pub struct Users {
    by_name: HashMap<Arc<str>, Vec<Box<[u8]>>>,
}

impl Users {
    /// Builds the set; `None` when it is empty, which means "no authentication".
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut by_name: HashMap<Arc<str>, Vec<Box<[u8]>>> = HashMap::new();
        for (name, password) in pairs {
            by_name.entry(name.into()).or_default().push(password.as_bytes().into());
        }
        (!by_name.is_empty()).then_some(Self { by_name })
    }

    /// Whether there is such a user.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether `name` may log in with exactly the passwords it has in `other`.
    pub fn same_user(&self, other: &Self, name: &str) -> bool {
        self.by_name.get(name) == other.by_name.get(name)
    }
}

impl Authenticate for Users {
    fn authenticate(&self, username: &[u8], password: &[u8]) -> Option<Arc<str>> {
        // The lookup goes by a keyed hash, so its time says nothing about how much of a guess was right; an
        // unknown name is compared with a dummy.
        let known =
            std::str::from_utf8(username).ok().and_then(|name| self.by_name.get_key_value(name));
        let Some((name, passwords)) = known else {
            black_box(same(b"no such user", password));
            return None;
        };
        let mut right = false;
        for candidate in passwords {
            right |= same(candidate, password);
        }
        right.then(|| name.clone())
    }
}

/// The users in force: connections read them, a reload replaces them.
#[derive(Clone, Debug)]
pub struct SharedUsers(Arc<ArcSwapOption<Users>>);

impl SharedUsers {
    /// Shares a set; `None` means that nobody has to log in.
    pub fn new(users: Option<Users>) -> Self {
        Self(Arc::new(ArcSwapOption::from_pointee(users)))
    }

    /// The set in force.
    pub fn load(&self) -> Guard<Option<Arc<Users>>> {
        self.0.load()
    }

    /// Puts another set in force and returns the previous one.
    pub fn replace(&self, users: Option<Users>) -> Option<Arc<Users>> {
        self.0.swap(users.map(Arc::new))
    }
}

/// A client may log in and say later what it wants; meanwhile users may go.
impl Standing for SharedUsers {
    fn holds(&self, user: Option<&str>) -> bool {
        self.load().as_ref().is_none_or(|users| user.is_some_and(|name| users.has(name)))
    }
}

/// Equality in a time that depends on the length of what is given only: neither the content of a secret nor its length shows.
pub(crate) fn same(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = u8::from(expected.len() != given.len());
    let len = expected.len().max(1);
    for (at, byte) in given.iter().enumerate() {
        let other = expected.get(at % len).copied().unwrap_or(0);
        difference = black_box(difference | (other ^ byte));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_pairs() {
        assert!(Users::new([]).is_none());
        let users = Users::new([("a", "1"), ("b", "2"), ("a", "3"), ("c", "")]).unwrap();
        let ok = |u: &str, p: &str| {
            users.authenticate(u.as_bytes(), p.as_bytes()).as_deref().map(str::to_owned)
        };
        assert_eq!(ok("a", "1").as_deref(), Some("a"));
        assert_eq!(ok("a", "3").as_deref(), Some("a"));
        assert_eq!(ok("b", "2").as_deref(), Some("b"));
        assert_eq!(ok("c", "").as_deref(), Some("c"));
        for (user, password) in [
            ("a", "2"),
            ("a", ""),
            ("a", "11"),
            ("", ""),
            ("d", "1"),
            ("no such user", "no such user"),
        ] {
            assert_eq!(ok(user, password), None, "{user}:{password}");
        }
        assert_eq!(users.authenticate(b"\xff", b"1"), None);
    }

    #[test]
    fn compares_users() {
        let old = Users::new([("a", "1"), ("b", "2")]).unwrap();
        let new = Users::new([("a", "1"), ("b", "3")]).unwrap();
        assert!(old.same_user(&new, "a"));
        assert!(!old.same_user(&new, "b"));
    }
}
