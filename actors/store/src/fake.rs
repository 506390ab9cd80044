//! Fake addresses in the file.

use std::net::IpAddr;

use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, FakeStore},
};

use crate::{
    file::File,
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

    fn assign(&self, ip: IpAddr, name: &str, pool: FakePool) {
        let _alone = self.assigning();
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
        self.put(values, Urgency::Soon);
    }

    fn reset(&self, pool: FakePool) {
        let _alone = self.assigning();
        self.forget_fake((Key::FakePool, Some(Value::Pool(pool))));
    }
}
