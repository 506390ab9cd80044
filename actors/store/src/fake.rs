//! Fake addresses in the file.

use std::net::IpAddr;

use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, FakeStore},
};

use crosspoint_schema::decode::Prefix;

use crate::{
    file::File,
    journal::Record,
    overlay::{Key, Urgency, Value},
};

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

impl FakeStore for File {
    fn pool(&self) -> Option<FakePool> {
        match self.get(&Key::FakePool)? {
            Value::Pool(pool) => Some(pool),
            _ => None,
        }
    }

    fn entries(&self) -> Vec<(IpAddr, Box<str>)> {
        self.fake_names()
    }

    fn name(&self, ip: IpAddr) -> Option<Box<str>> {
        match self.get(&Key::FakeName(ip))? {
            Value::Text(name) => Some(name),
            _ => None,
        }
    }

    fn address(&self, name: &str, family: Family) -> Option<IpAddr> {
        match self.get(&Key::FakeAddress(family, name.into()))? {
            Value::Address(ip) => Some(ip),
            _ => None,
        }
    }

    fn assign(&self, ip: IpAddr, name: &str, pool: FakePool) -> bool {
        let _alone = self.assigning();
        let values = self.assignment(ip, name, pool);
        self.put_fake(values, &Record::Assign(ip, name.into(), pool))
    }

    fn reset(&self, pool: FakePool) {
        let _alone = self.assigning();
        self.forget_fake((Key::FakePool, Some(Value::Pool(pool))), Some(&Record::Reset(pool)));
    }
}

impl File {
    /// What it means that an address stands for a name from now on.
    fn assignment(&self, ip: IpAddr, name: &str, pool: FakePool) -> Vec<(Key, Option<Value>)> {
        let family = family(ip);
        let mut values = vec![];
        // Who had the address, and which address the name had: neither is true any more.
        if let Some(old) = self.name(ip).filter(|old| **old != *name)
            && self.address(&old, family) == Some(ip)
        {
            values.push((Key::FakeAddress(family, old), None));
        }
        if let Some(old) = self.address(name, family).filter(|old| *old != ip) {
            values.push((Key::FakeName(old), None));
        }
        values.push((Key::FakeName(ip), Some(Value::Text(name.into()))));
        values.push((Key::FakeAddress(family, name.into()), Some(Value::Address(ip))));
        values.push((Key::FakePool, Some(Value::Pool(pool))));
        values
    }

    /// Does again what the last owner of the file has not committed.
    pub(crate) fn replay(&self, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Assign(ip, name, pool) => {
                    self.put(self.assignment(ip, &name, pool), Urgency::Now);
                }
                Record::Reset(pool) => {
                    self.forget_fake((Key::FakePool, Some(Value::Pool(pool))), None);
                }
                Record::Of(..) => {}
            }
        }
    }

    /// After a power cut: what was given out last may not have been stored. What follows is given out some way behind,
    /// so that an address which somebody still uses stands for nothing rather than for another name.
    pub(crate) fn leave_gap(&self) {
        let Some(pool) = self.pool() else { return };
        let pool = FakePool {
            last4: behind(pool.last4.map(IpAddr::V4), pool.range4).and_then(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            last6: behind(pool.last6.map(IpAddr::V6), pool.range6).and_then(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
            ..pool
        };
        self.put([(Key::FakePool, Some(Value::Pool(pool)))], Urgency::Soon);
    }
}

/// More than are given out between two transactions.
const GAP: u128 = 4096;

/// The address a gap behind `last`, at most an eighth of its range; where the range begins if it ends before that.
fn behind(last: Option<IpAddr>, range: Option<Prefix>) -> Option<IpAddr> {
    let (last, range) = (last?, range?);
    let width = if last.is_ipv4() { 32 } else { 128 };
    let room = 1u128.checked_shl(width - u32::from(range.bits).min(width)).unwrap_or(u128::MAX);
    let gap = (room / 8).clamp(1, GAP);
    let next = match last {
        IpAddr::V4(ip) => {
            u32::try_from(u128::from(u32::from(ip)) + gap).ok().map(|ip| IpAddr::V4(ip.into()))
        }
        IpAddr::V6(ip) => u128::from(ip).checked_add(gap).map(|ip| IpAddr::V6(ip.into())),
    };
    Some(next.filter(|next| range.net().contains(next)).unwrap_or(range.addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_stays_within_the_range() {
        for (last, range, expected) in [
            ("198.18.0.9", "198.18.0.0/15", "198.18.16.9"),
            ("198.19.255.9", "198.18.0.0/15", "198.18.0.0"),
            ("10.0.0.3", "10.0.0.0/29", "10.0.0.4"),
            ("10.0.0.7", "10.0.0.0/29", "10.0.0.0"),
            ("255.255.255.255", "0.0.0.0/0", "0.0.0.0"),
            ("fc00::3", "fc00::/18", "fc00::1003"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0", "::"),
        ] {
            let found = behind(last.parse().ok(), Prefix::parse(range).ok());
            assert_eq!(found, expected.parse().ok(), "{last} {range}");
        }
        assert_eq!(behind(None, None), None);
    }

    #[test]
    fn a_power_cut_leaves_a_gap_and_a_kill_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let range4 = Prefix::parse("198.18.0.0/15").ok();
        let pool = FakePool { range4, last4: "198.18.0.9".parse().ok(), ..FakePool::default() };
        let last = |name: &str| {
            let file = File::open(&path(name)).unwrap();
            assert_eq!(file.fake_names().len(), 1, "{name}");
            file.pool().and_then(|pool| pool.last4).map(|ip| ip.to_string()).unwrap()
        };
        let file = File::open(&path("whole")).unwrap();
        assert!(file.assign("198.18.0.9".parse().unwrap(), "a.test", pool));
        file.flushed().blocking_recv().unwrap();
        for copy in ["killed", "cut"] {
            std::fs::copy(path("whole"), path(copy)).unwrap();
        }
        crate::tables::leave_open(&redb::Database::open(path("cut")).unwrap()).unwrap();
        assert_eq!(last("killed"), "198.18.0.9");
        assert_eq!(last("cut"), "198.18.16.9");
        assert_eq!(last("cut"), "198.18.16.9");
        drop(file);
        assert_eq!(last("whole"), "198.18.0.9");
    }
}
