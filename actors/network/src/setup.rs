//! Sets up interfaces of our own.

use std::{io, net::IpAddr};

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index},
};

pub use crate::wire::{
    Rule,
    setup::{ORIGIN, Route},
};
use crate::{
    socket::Questions,
    wire::{Dump, Message, setup},
};

/// Changes interfaces, addresses, routes and rules. Each call blocks for as long as the system takes, which is not long.
/// Everything but looking needs `CAP_NET_ADMIN`.
pub struct Setup {
    system: Questions,
    /// Interfaces are asked for by name through any socket.
    socket: OwnedFd,
}

impl Setup {
    /// Opens a way to the system.
    ///
    /// # Errors
    /// The system has no netlink, or no more descriptors.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { system: Questions::open()?, socket })
    }

    /// Names of all interfaces.
    ///
    /// # Errors
    /// What the system says.
    pub fn names(&mut self) -> io::Result<Vec<Box<str>>> {
        let links = self.system.ask(Dump::Links)?.into_iter();
        Ok(links
            .filter_map(|message| match message {
                Message::Link { name, .. } => Some(name),
                _ => None,
            })
            .collect())
    }

    /// Number of an interface.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.socket, name)?)
    }

    /// Sets the largest packet, in bytes.
    ///
    /// # Errors
    /// The interface cannot have it.
    pub fn mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.system.act(|sequence| setup::mtu(index, mtu, sequence))
    }

    /// Forbids addresses of IPv6 that nobody has configured, and the messages that the system sends with them.
    ///
    /// # Errors
    /// The system has no IPv6.
    pub fn no_link_local(&mut self, index: u32) -> io::Result<()> {
        self.system.act(|sequence| setup::no_link_local(index, sequence))
    }

    /// Gives an interface an address in a network of `bits`, which is then reached through it. One that it has
    /// already is no error.
    ///
    /// # Errors
    /// What the system says; IPv6 needs an MTU of 1280.
    pub fn address(
        &mut self,
        index: u32,
        own: IpAddr,
        bits: u8,
        broadcast: Option<IpAddr>,
    ) -> io::Result<()> {
        self.system.act(|sequence| setup::address(index, own, bits, broadcast, sequence))
    }

    /// Takes an interface into service.
    ///
    /// # Errors
    /// What the system says.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        self.system.act(|sequence| setup::up(index, sequence))
    }

    /// Adds a route. One that is there already is no error.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.system.act(|sequence| setup::route(route, true, sequence))
    }

    /// Takes a route away.
    ///
    /// # Errors
    /// What the system says.
    pub fn delete_route(&mut self, route: &Route) -> io::Result<()> {
        self.system.act(|sequence| setup::route(route, false, sequence))
    }

    /// The policy rules of IPv6.
    ///
    /// # Errors
    /// The system has no IPv6.
    pub fn rules6(&mut self) -> io::Result<Vec<Rule>> {
        let rules = self.system.ask(Dump::Rules6)?.into_iter();
        Ok(rules
            .filter_map(|message| match message {
                Message::Rule(rule) => Some(rule),
                _ => None,
            })
            .collect())
    }

    /// Adds a policy rule of IPv6.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_rule6(&mut self, rule: &Rule) -> io::Result<()> {
        self.system.act(|sequence| setup::rule6(rule, true, sequence))
    }

    /// Takes a policy rule of IPv6 away.
    ///
    /// # Errors
    /// What the system says.
    pub fn delete_rule6(&mut self, rule: &Rule) -> io::Result<()> {
        self.system.act(|sequence| setup::rule6(rule, false, sequence))
    }
}
