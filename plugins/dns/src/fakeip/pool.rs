//! Which fake address stands for which name.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, State},
};
use crosspoint_schema::decode::Prefix;
use parking_lot::Mutex;

use super::ring::Ring;

/// The ranges of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) v4: Option<Prefix>,
    pub(super) v6: Option<Prefix>,
}

/// Names and their addresses. What is stored is a copy; what clients were told is here.
pub(super) struct Pool {
    ranges: Ranges,
    rings: (Option<Ring>, Option<Ring>),
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    names: HashMap<IpAddr, Arc<str>>,
    addresses: HashMap<Arc<str>, Pair>,
    /// What was given out last.
    last: Pair,
    /// The state that knows all this.
    state: Option<Arc<dyn State>>,
}

/// An address of either family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pair {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Pair {
    fn of(&mut self, family: Family) -> &mut Option<IpAddr> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Pool {
    /// A pool that knows what `state` knows of these ranges. Nothing is written before the first address is given out,
    /// because the configuration that asks for it may not come in force.
    ///
    /// # Errors
    /// A range has no room.
    pub(super) fn new(ranges: Ranges, state: &Arc<dyn State>) -> Result<Self, String> {
        let ring = |range: Option<Prefix>| range.map(Ring::new).transpose();
        let rings = (ring(ranges.v4)?, ring(ranges.v6)?);
        let mut book = Book {
            last: Pair {
                v4: rings.0.map(|ring| ring.start()),
                v6: rings.1.map(|ring| ring.start()),
            },
            ..Book::default()
        };
        let stored = state.fake().and_then(|store| Some((store, store.pool()?)));
        let same = |pool: &FakePool| pool.range4 == ranges.v4 && pool.range6 == ranges.v6;
        let pool = Self { ranges, rings, book: Mutex::default() };
        if let Some((store, place)) = stored.filter(|(_, place)| same(place)) {
            book.last.v4 = place.last4.map(IpAddr::from).or(book.last.v4);
            book.last.v6 = place.last6.map(IpAddr::from).or(book.last.v6);
            for (ip, name) in store.entries() {
                if pool.ring(family(ip)).is_some_and(|ring| ring.contains(ip)) {
                    book.enter(ip, name.into());
                }
            }
            book.state = Some(state.clone());
        }
        *pool.book.lock() = book;
        Ok(pool)
    }

    pub(super) fn ranges(&self) -> Ranges {
        self.ranges
    }

    fn ring(&self, family: Family) -> Option<Ring> {
        match family {
            Family::V4 => self.rings.0,
            Family::V6 => self.rings.1,
        }
    }

    /// The address that stands for `name`, and whether it may be told at once: whether `state` keeps nothing, or would
    /// know it after a kill. A new one takes the place of the oldest one once all have been given out.
    ///
    /// # Errors
    /// There is no range for this family.
    pub(super) fn address(
        &self,
        name: &str,
        family: Family,
        state: &Arc<dyn State>,
    ) -> Result<(IpAddr, bool), &'static str> {
        let ring = self.ring(family).ok_or(match family {
            Family::V4 => "missing IPv4 fakeip address range",
            Family::V6 => "missing IPv6 fakeip address range",
        })?;
        let mut book = self.book.lock();
        self.tell(&mut book, state);
        if let Some(ip) = book.addresses.get_mut(name).and_then(|pair| *pair.of(family)) {
            return Ok((ip, true));
        }
        let last = book.last.of(family);
        let ip = ring.after(last.unwrap_or_else(|| ring.start()));
        *last = Some(ip);
        book.enter(ip, name.into());
        let kept = state.fake().is_none_or(|store| store.assign(ip, name, self.place(&book)));
        Ok((ip, kept))
    }

    /// Tells a state that has come in force since, unless it knows.
    fn tell(&self, book: &mut Book, state: &Arc<dyn State>) {
        if book.state.as_ref().is_some_and(|known| Arc::ptr_eq(known, state)) {
            return;
        }
        book.state = Some(state.clone());
        let Some(store) = state.fake() else { return };
        let place = self.place(book);
        if store.pool() == Some(place) && book.equals(&store.entries()) {
            return; // The same file, opened again.
        }
        store.reset(place);
        for (ip, name) in &book.names {
            store.assign(*ip, name, place);
        }
    }

    /// Where the giving out stands.
    fn place(&self, book: &Book) -> FakePool {
        FakePool {
            range4: self.ranges.v4,
            range6: self.ranges.v6,
            last4: book.last.v4.and_then(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            last6: book.last.v6.and_then(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
        }
    }

    /// `None`: not of our ranges. `Some(None)`: stands for nothing.
    pub(super) fn name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        let range = match ip {
            IpAddr::V4(_) => self.ranges.v4,
            IpAddr::V6(_) => self.ranges.v6,
        };
        range.filter(|range| range.net().contains(&ip))?;
        Some(self.book.lock().names.get(&ip).map(|name| Box::from(&**name)))
    }

    /// Names and addresses, for tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let book = self.book.lock();
        (book.names.len(), book.addresses.len())
    }
}

impl Book {
    fn equals(&self, entries: &[(IpAddr, Box<str>)]) -> bool {
        let same = |(ip, name): &(IpAddr, Box<str>)| {
            self.names.get(ip).is_some_and(|known| **known == **name)
        };
        entries.len() == self.names.len() && entries.iter().all(same)
    }

    /// `ip` stands for `name` and for nothing else, and `name` has no other address of that family.
    fn enter(&mut self, ip: IpAddr, name: Arc<str>) {
        let family = family(ip);
        if let Some(old) = self.names.insert(ip, name.clone()) {
            self.leave(&old, family);
        }
        let pair = self.addresses.entry(name).or_default();
        if let Some(before) = pair.of(family).replace(ip).filter(|before| *before != ip) {
            self.names.remove(&before);
        }
    }

    /// `name` has no address of that family any more.
    fn leave(&mut self, name: &Arc<str>, family: Family) {
        if let Some(pair) = self.addresses.get_mut(name) {
            *pair.of(family) = None;
            if *pair == Pair::default() {
                self.addresses.remove(name);
            }
        }
    }
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}
