//! What is known of this machine's network: interfaces, their addresses, and where the default routes lead.
//!
//! The component of crate `crosspoint-network` looks and publishes; dialers read
//! ([`NetworkState::toward`], the rule of `auto_detect_interface`); whoever holds connections that a change may have
//! broken waits for it ([`Network::reroutes`]).

use std::{fmt, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index in this network name space.
    pub index: u32,
    /// Name.
    pub name: Arc<str>,
    /// Administratively up.
    pub up: bool,
    /// Own addresses, each with the length of its prefix in bits.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Index of the interface.
    pub index: u32,
    /// Name of the interface.
    pub name: Arc<str>,
}

/// One picture of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Interfaces by index.
    pub interfaces: Vec<Interface>,
    /// Where the IPv4 default route leads.
    pub default4: Option<DefaultRoute>,
    /// Where the IPv6 default route leads.
    pub default6: Option<DefaultRoute>,
}

/// There is no interface to choose. The text is the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no route to internet")]
pub struct NoInterface;

/// A default route and our addresses on its interface.
type Way<'a> = (&'a DefaultRoute, &'a [(IpAddr, u8)]);

impl NetworkState {
    /// The interface of the default route: of IPv4 if there is one.
    pub fn default_route(&self) -> Option<&DefaultRoute> {
        self.default4.as_ref().or(self.default6.as_ref())
    }

    /// Default routes, and our addresses on their interfaces.
    fn ways(&self) -> [Option<Way<'_>>; 2] {
        [&self.default4, &self.default6].map(|route| {
            let route = route.as_ref()?;
            let interface = self.interfaces.iter().find(|i| i.index == route.index);
            Some((route, interface.map_or(&[][..], |i| &i.addresses)))
        })
    }

    /// The interface that is up and has `ip` as its own address, or has a prefix that `ip` is in.
    pub fn on_link(&self, ip: IpAddr) -> Option<&Interface> {
        let up = || self.interfaces.iter().filter(|interface| interface.up);
        let own = |i: &&Interface| i.addresses.iter().any(|&(own, _)| own == ip);
        up().find(own).or_else(|| {
            let fit = |i: &Interface| {
                let fits = i.addresses.iter().filter(|&&(own, bits)| shares(own, ip, bits));
                fits.map(|&(_, bits)| bits).max()
            };
            let fits = up().filter_map(|i| Some((fit(i)?, i)));
            // The first of equals.
            fits.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, i)| i)
        })
    }

    /// Index and name of the interface that a socket to `ip`, or to anywhere, is bound to
    /// (parity/semantics.md §5.5): the one that `ip` is on, else that of the default route of its family, else
    /// that of the other one.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn toward(&self, ip: Option<IpAddr>) -> Result<(u32, &str), NoInterface> {
        let ip = ip.map(|ip| ip.to_canonical());
        if let Some(on_link) = ip.and_then(|ip| self.on_link(ip)) {
            return Ok((on_link.index, &on_link.name));
        }
        let own = match ip {
            Some(IpAddr::V6(_)) => self.default6.as_ref(),
            _ => None,
        };
        let route = own.or_else(|| self.default_route()).ok_or(NoInterface)?;
        Ok((route.index, &route.name))
    }
}

/// Whether the first `bits` of both addresses are the same. No two addresses share no bits: a prefix of length 0
/// says nothing.
fn shares(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            bits > 0 && (u32::from(a) ^ u32::from(b)).leading_zeros() >= bits.min(32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            bits > 0 && (u128::from(a) ^ u128::from(b)).leading_zeros() >= bits.min(128)
        }
        _ => false,
    }
}

/// The network as everybody sees it. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    now: ArcSwap<NetworkState>,
    /// Counts the pictures that were published.
    changes: watch::Sender<u64>,
    /// Counts those of them in which another way leads to the internet.
    reroutes: watch::Sender<u64>,
}

impl Default for Network {
    fn default() -> Self {
        Self(Arc::new(Shared {
            now: ArcSwap::default(),
            changes: watch::Sender::new(0),
            reroutes: watch::Sender::new(0),
        }))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.now.load().fmt(f)
    }
}

impl Network {
    /// What is known now; nothing before the first look.
    pub fn now(&self) -> arc_swap::Guard<Arc<NetworkState>> {
        self.0.now.load()
    }

    /// Whether nobody has looked yet.
    pub fn is_unknown(&self) -> bool {
        *self.0.changes.borrow() == 0
    }

    /// Puts another picture in force. Returns whether another way leads to the internet than before, so that
    /// connections may hang.
    pub fn publish(&self, state: NetworkState) -> bool {
        let before = self.0.now.load_full();
        if *before == state && !self.is_unknown() {
            return false;
        }
        let rerouted = before.ways() != state.ways();
        self.0.now.store(Arc::new(state));
        self.0.changes.send_modify(|count| *count += 1);
        if rerouted {
            self.0.reroutes.send_modify(|count| *count += 1);
        }
        rerouted
    }

    /// Tells of every difference from now on: some interface, some address.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Tells from now on when a default route leads elsewhere, or our addresses on its interface have changed.
    pub fn reroutes(&self) -> watch::Receiver<u64> {
        self.0.reroutes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, up: bool, addresses: &[&str]) -> Interface {
        let address = |text: &&str| {
            let (ip, bits) = text.split_once('/').unwrap();
            (ip.parse().unwrap(), bits.parse().unwrap())
        };
        Interface {
            index,
            name: name.into(),
            up,
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn route(index: u32, name: &str) -> Option<DefaultRoute> {
        Some(DefaultRoute { index, name: name.into() })
    }

    fn network() -> NetworkState {
        NetworkState {
            interfaces: vec![
                interface(1, "lo", true, &["127.0.0.1/8", "::1/128"]),
                interface(2, "eth0", true, &["192.0.2.1/24", "fd00::1/64"]),
                interface(3, "eth1", true, &["192.0.2.129/25", "0.0.0.0/0"]),
                interface(4, "down", false, &["198.51.100.1/24"]),
            ],
            default4: route(2, "eth0"),
            default6: route(3, "eth1"),
        }
    }

    #[test]
    fn own_prefixes_come_before_default_routes() {
        let network = network();
        let toward = |ip: &str| network.toward(Some(ip.parse().unwrap())).unwrap().1.to_owned();
        assert_eq!(toward("192.0.2.7"), "eth0");
        assert_eq!(toward("192.0.2.200"), "eth1"); // the longer prefix
        assert_eq!(toward("192.0.2.1"), "eth0"); // an own address
        assert_eq!(toward("::ffff:192.0.2.200"), "eth1");
        assert_eq!(toward("fd00::9"), "eth0");
        assert_eq!(toward("198.51.100.9"), "eth0"); // its own interface is down
        assert_eq!(toward("203.0.113.1"), "eth0");
        assert_eq!(toward("2001:db8::1"), "eth1");
        assert_eq!(network.toward(None).unwrap(), (2, "eth0"));
    }

    #[test]
    fn without_a_default_route_only_own_prefixes_are_left() {
        let none = NetworkState { default4: None, default6: None, ..network() };
        assert!(none.toward(Some("192.0.2.7".parse().unwrap())).is_ok());
        let error = none.toward(Some("203.0.113.1".parse().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "no route to internet");
        let only6 = NetworkState { default4: None, ..network() };
        assert_eq!(only6.toward(Some("203.0.113.1".parse().unwrap())).unwrap().1, "eth1");
    }

    #[test]
    fn who_waits_is_told_what_it_waits_for() {
        let shared = Network::default();
        let (mut changes, mut reroutes) = (shared.changes(), shared.reroutes());
        let mut told = move || {
            let told = (changes.has_changed().unwrap(), reroutes.has_changed().unwrap());
            changes.mark_unchanged();
            reroutes.mark_unchanged();
            told
        };
        assert!(shared.is_unknown());
        assert!(!shared.publish(NetworkState::default()));
        assert!(!shared.is_unknown());
        assert_eq!(told(), (true, false));
        assert!(!shared.publish(NetworkState::default()));
        assert_eq!(told(), (false, false));
        assert!(shared.publish(network()));
        assert_eq!(**shared.now(), network());
        assert_eq!(told(), (true, true));
        let mut other = network();
        other.interfaces[3].up = true;
        assert!(!shared.publish(other.clone()));
        assert_eq!(told(), (true, false));
        other.interfaces[1].addresses.pop();
        assert!(shared.publish(other.clone()));
        assert_eq!(told(), (true, true));
        other.default6 = None;
        assert!(shared.publish(other));
        assert_eq!(told(), (true, true));
    }
}
