//! Hosts around a hub: each has a cable to it, and none to another. The hub forwards nothing, so what two of them say to
//! each other goes through a program that runs there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::{Netns, ip};

/// The hub's address, the same for every host.
pub const HUB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));

/// A hub and hosts, all of them namespaces without a route out.
#[derive(Debug)]
pub struct Star {
    /// Where servers stand.
    pub hub: Netns,
    /// Where clients stand.
    pub hosts: Vec<Netns>,
}

impl Star {
    /// A hub with `hosts` hosts, at most 200. Call [`crate::netns::available`] first.
    ///
    /// # Errors
    /// When `ip` refuses, or when the hub would forward and cannot be told not to.
    pub async fn new(hosts: u8) -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let base = format!("cps{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hub = Netns::add(format!("{base}-hub"), 255, 1)?;
        ip(&["-n", hub.name(), "addr", "add", &format!("{HUB}/32"), "dev", "lo"])?;
        let mut star = Self { hub, hosts: Vec::new() };
        for number in 1..=hosts {
            star.add(&base, number)?;
        }
        // A new namespace takes this over from the machine.
        let switch = "/proc/sys/net/ipv4/ip_forward";
        star.hub
            .within(move || async move {
                if std::fs::read_to_string(switch)?.trim() != "0" {
                    std::fs::write(switch, "0").context("keep the hub from forwarding")?;
                }
                Ok(())
            })
            .await?;
        Ok(star)
    }

    fn add(&mut self, base: &str, number: u8) -> Result<()> {
        let host = Netns::add(format!("{base}-{number}"), number, 2)?;
        let (hub, port) = (self.hub.name(), format!("veth{number}"));
        ip(&[
            "-n",
            hub,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            host.name(),
        ])?;
        let near = format!("10.77.{number}.1");
        for (netns, device, address) in [
            (hub, &*port, format!("{near}/24")),
            (host.name(), "eth0", format!("{}/24", host.v4())),
        ] {
            ip(&["-n", netns, "addr", "add", &address, "dev", device])?;
            ip(&["-n", netns, "link", "set", device, "up"])?;
        }
        ip(&["-n", host.name(), "route", "add", "default", "via", &near])?;
        self.hosts.push(host);
        Ok(())
    }

    /// A listener at the hub, which may be used anywhere.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn listen(&self, port: u16) -> Result<TcpListener> {
        self.hub.within(move || async move { Ok(TcpListener::bind((HUB, port))?) }).await
    }

    /// A connection from a host to a port of the hub, which may be used anywhere.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(&self, host: usize, port: u16) -> Result<TcpStream> {
        let to = SocketAddr::new(HUB, port);
        let host = self.hosts.get(host).context("no such host")?;
        host.within(
            move || async move { Ok(TcpStream::connect_timeout(&to, Duration::from_secs(5))?) },
        )
        .await
    }

    /// Fails unless no host reaches another one.
    ///
    /// # Errors
    /// When one does.
    pub async fn is_a_star(&self) -> Result<()> {
        let [first, second, ..] = &self.hosts[..] else { return Ok(()) };
        let to = SocketAddr::new(second.v4(), 1);
        let reached = first
            .within(move || async move {
                let tried = TcpStream::connect_timeout(&to, Duration::from_millis(300));
                // A refusal would come from the other host.
                Ok(!matches!(tried, Err(error) if error.kind() != std::io::ErrorKind::ConnectionRefused))
            })
            .await?;
        ensure!(!reached, "one host of a star reaches another");
        Ok(())
    }
}
