//! The reverse mapping: which name a client was last told an address for.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cache::lru::Lru;

/// Addresses that are remembered, as in the reference.
const CAPACITY: usize = 1024;
/// A client that was told to forget an answer at once still connects to it a moment later.
const LEAST: Duration = Duration::from_secs(10);

/// Names by address.
pub(crate) struct Mapping {
    names: Mutex<Lru<(Box<str>, Instant)>>,
    hasher: RandomState,
}

impl Default for Mapping {
    fn default() -> Self {
        Self { names: Mutex::new(Lru::new(CAPACITY, usize::MAX)), hasher: RandomState::new() }
    }
}

/// One form for both families.
fn key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Mapping {
    /// A client has been told these addresses of these names, for `ttl` seconds.
    pub(crate) fn learn(&self, owners: Vec<(IpAddr, Box<str>)>, ttl: u32) {
        let time = Duration::from_secs(ttl.into()).max(LEAST);
        let Some(until) = Instant::now().checked_add(time) else { return };
        for (ip, name) in owners {
            let key = key(ip);
            self.names.lock().put(self.hasher.hash_one(key), &key, name.len(), (name, until));
        }
    }

    /// The name of an address.
    pub(crate) fn name(&self, ip: IpAddr) -> Option<Box<str>> {
        let key = key(ip);
        let mut names = self.names.lock();
        let (name, until) = names.get(self.hasher.hash_one(key), &key)?;
        (Instant::now() < *until).then(|| name.clone())
    }

    /// What another one knows.
    pub(crate) fn adopt(&self, other: &Self) {
        let all: Vec<_> = {
            let names = other.names.lock();
            names.iter().map(|(_, key, value)| (Box::<[u8]>::from(key), value.clone())).collect()
        };
        let mut names = self.names.lock();
        for (key, value) in all.into_iter().rev() {
            let Ok(octets) = <[u8; 16]>::try_from(&*key) else { continue };
            names.put(self.hasher.hash_one(octets), &key, value.0.len(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_forgotten_in_time() {
        let mapping = Mapping::default();
        let ip = IpAddr::from([192, 0, 2, 1]);
        mapping.learn(vec![(ip, "a.example".into())], 60);
        mapping.learn(vec![("::1".parse().unwrap(), "b.example".into())], 0);
        assert_eq!(mapping.name(ip).as_deref(), Some("a.example"));
        assert_eq!(mapping.name("::ffff:192.0.2.1".parse().unwrap()).as_deref(), Some("a.example"));
        mapping.learn(vec![(ip, "c.example".into())], 60);
        let next = Mapping::default();
        next.adopt(&mapping);
        assert_eq!(next.name(ip).as_deref(), Some("c.example"));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(next.name("::1".parse().unwrap()), None);
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(next.name(ip), None);
    }
}
