//! An interface.

use std::{cell::RefCell, io, net::IpAddr, path::Path, sync::Arc, time::Duration};

use crosspoint_netstack::Packets;
use crosspoint_network::Setup;
use ipnet::IpNet;
use tokio::time::Instant;
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::offload::{self, Gather};

/// What the kernel gives interfaces out of.
const CONTROL: &str = "/dev/net/tun";
/// Longest name (`IFNAMSIZ` without the zero at the end).
const NAME: usize = 15;
/// How many numbers are tried for an interface that has no name.
const TRIES: u32 = 32;
/// Largest frame: a header and an IP packet.
const FRAME: usize = offload::HEADER + 65_535;
/// Packets that are taken together, more or less: what lies between is latency.
const BATCH: usize = 128;
/// How long a name may be in use by an owner that is just ending, and how often we look.
const ENDING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// A new interface can be written to at once, or something is very wrong.
const READY: Duration = Duration::from_secs(2);

/// What an interface is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Just so.
    Fixed(String),
    /// These letters, and a number that is higher than any in use.
    Numbered(&'static str),
}

/// What an interface is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: Name,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Its addresses, with the networks that are reached through it.
    pub addresses: Vec<IpNet>,
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The machine has no TUN.
    #[error(
        "there is no /dev/net/tun: the kernel module `tun` is not loaded, or the container was not given the device"
    )]
    NoTun,
    /// We may not.
    #[error("{what}: {source}: CAP_NET_ADMIN is needed")]
    Denied {
        /// What was being done.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The device file is closed to us.
    #[error("open /dev/net/tun: {0}: the file is not readable and writable for this user")]
    Closed(io::Error),
    /// Another program, or another component, has an interface of that name.
    #[error("interface {0} is in use")]
    InUse(String),
    /// IPv6 is switched off, but the interface is to have such an address.
    #[error(
        "set address {0}: IPv6 is switched off on this machine (sysctl net.ipv6.conf.*.disable_ipv6)"
    )]
    NoV6(IpAddr),
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
}

impl OpenError {
    fn new(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { what, source },
            _ => Self::Io { what, source },
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::NoTun => io::ErrorKind::NotFound,
            OpenError::Denied { .. } | OpenError::Closed(_) => io::ErrorKind::PermissionDenied,
            OpenError::InUse(_) => io::ErrorKind::AddrInUse,
            OpenError::NoV6(_) => io::ErrorKind::AddrNotAvailable,
            OpenError::Io { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}

/// Whether an interface can have that name.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let bad = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    match name {
        "" => Err("the name of an interface cannot be empty"),
        "." | ".." => Err("an interface cannot have that name"),
        name if name.len() > NAME => Err("the name of an interface has 15 bytes at most"),
        name if name.contains(bad) => Err("the name of an interface has no spaces and no / : %"),
        _ => Ok(()),
    }
}

/// An interface. It is gone when this is dropped.
pub struct Tun {
    device: AsyncDevice,
    name: Box<str>,
    index: u32,
    /// Whether a header stands in front of packets.
    offload: bool,
    /// Whether datagrams may be put together.
    datagrams: bool,
}

thread_local! {
    static GATHER: RefCell<Gather> = RefCell::default();
}

impl Tun {
    /// Opens an interface and takes it into service.
    ///
    /// # Errors
    /// There is no TUN, we may not, the name is in use, or the system does not take the settings.
    pub async fn open(settings: &Settings) -> Result<Self, OpenError> {
        let tun = match &settings.name {
            Name::Fixed(name) => patiently(name).await?,
            Name::Numbered(prefix) => numbered(prefix)?,
        };
        tun.set_up(settings)?;
        // Only then can it be written to without waiting.
        let writable = tokio::time::timeout(READY, tun.device.writable()).await;
        let writable = writable.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        writable.map_err(|error| OpenError::new("wait for the interface", error))?;
        Ok(tun)
    }

    fn set_up(&self, settings: &Settings) -> Result<(), OpenError> {
        let failed = |what: &str| {
            let what = format!("{what} of interface {}", self.name);
            move |error| OpenError::new(what, error)
        };
        let mut setup = Setup::open().map_err(|error| OpenError::new("open netlink", error))?;
        let index = self.index;
        // A system without IPv6 makes no such addresses.
        let _ = setup.no_link_local(index);
        setup.mtu(index, settings.mtu).map_err(failed("set MTU"))?;
        for net in &settings.addresses {
            let broadcast = match net {
                IpNet::V4(v4) if v4.prefix_len() < 31 => Some(v4.broadcast().into()),
                _ => None,
            };
            let set = setup.address(index, net.addr(), net.prefix_len(), broadcast);
            set.map_err(|error| match error.raw_os_error() {
                // Who may do all the rest may do this.
                Some(code) if net.addr().is_ipv6() && code == EACCES => OpenError::NoV6(net.addr()),
                _ => failed(&format!("set address {net}"))(error),
            })?;
        }
        setup.up(index).map_err(failed("take into service"))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Gives packets to the system, those of one flow that follow each other as one. Never waits: what the system does not
    /// take is dropped, as on any network.
    pub fn write<'a>(&self, packets: impl IntoIterator<Item = &'a [u8]>) {
        let send = |frame: &[u8]| {
            if let Err(error) = self.device.try_send(frame) {
                tracing::trace!("packet for {} dropped: {error}", self.name);
            }
        };
        if !self.offload {
            return packets.into_iter().for_each(send);
        }
        let mut gather = GATHER.take();
        gather.set_datagrams(self.datagrams);
        for packet in packets {
            gather.add(packet, send);
        }
        gather.finish(send);
        GATHER.set(gather);
    }

    /// What reads from it. One at a time.
    #[must_use]
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader { tun: self.clone(), frame: vec![0; FRAME].into() }
    }
}

/// Takes what the system sends through an interface.
pub struct Reader {
    tun: Arc<Tun>,
    frame: Box<[u8]>,
}

impl Reader {
    /// Waits for packets and adds them to `out`: those that are there, within limits.
    ///
    /// # Errors
    /// The interface is gone.
    pub async fn read(&mut self, out: &mut Packets) -> io::Result<()> {
        let Self { tun, frame } = self;
        let mut length = tun.device.recv(frame).await?;
        loop {
            let read = frame.get_mut(..length).unwrap_or_default();
            if !tun.offload {
                out.push(read);
            } else if let Err(malformed) = offload::split(read, out) {
                tracing::debug!("{}: {malformed}", tun.name);
            }
            if out.len() >= BATCH {
                return Ok(());
            }
            length = match tun.device.try_recv(frame) {
                Ok(length) => length,
                // An error that stays comes back with the next call.
                Err(_) if out.is_empty() => tun.device.recv(frame).await?,
                Err(_) => return Ok(()),
            };
        }
    }
}

const EACCES: i32 = rustix::io::Errno::ACCESS.raw_os_error();
const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

fn create(name: &str) -> Result<Tun, OpenError> {
    // The crate below would make the device file, which is not ours to do.
    if !Path::new(CONTROL).exists() {
        return Err(OpenError::NoTun);
    }
    // Enabled and set up over netlink, where addresses and MTU come first.
    let build = |offload| {
        DeviceBuilder::new()
            .name(name)
            .enable(false)
            .with(move |builder| {
                builder.offload(offload);
            })
            .build_async()
    };
    let what = || format!("open interface {name}");
    // A kernel that has none of it is none of today's, but may be an imitation.
    let device = build(true).or_else(|error| match error.raw_os_error() {
        Some(EINVAL) => build(false),
        _ => Err(error),
    });
    let device = device.map_err(|error| match error.raw_os_error() {
        Some(EBUSY) => OpenError::InUse(name.to_owned()),
        // The other refusal is EPERM.
        Some(EACCES) => OpenError::Closed(error),
        _ if error.kind() == io::ErrorKind::NotFound => OpenError::NoTun,
        _ => OpenError::new(what(), error),
    })?;
    let setup = Setup::open().map_err(|error| OpenError::new("open netlink", error))?;
    let index = setup.index(name).map_err(|error| OpenError::new(what(), error))?;
    Ok(Tun {
        offload: device.tcp_gso(),
        datagrams: device.udp_gso(),
        device,
        name: name.into(),
        index,
    })
}

/// An interface of that name, as soon as an owner that is just ending has let go of it.
async fn patiently(name: &str) -> Result<Tun, OpenError> {
    let until = Instant::now() + ENDING;
    loop {
        match create(name) {
            Err(OpenError::InUse(_)) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            result => return result,
        }
    }
}

/// An interface of the next number, as the reference counts: one more than the highest in use.
fn numbered(prefix: &str) -> Result<Tun, OpenError> {
    let look = || Setup::open()?.names();
    let names = look().map_err(|error| OpenError::new("list interfaces", error))?;
    let first = next_number(prefix, names.iter().map(|name| &**name));
    for number in first..first.saturating_add(TRIES) {
        match create(&format!("{prefix}{number}")) {
            // Somebody was faster.
            Err(OpenError::InUse(_)) => {}
            result => return result,
        }
    }
    Err(OpenError::InUse(format!("{prefix}{first}")))
}

fn next_number<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> u32 {
    let numbers = names.filter_map(|name| name.strip_prefix(prefix)?.parse::<u16>().ok());
    numbers.max().map_or(0, |most| u32::from(most) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on() {
        assert_eq!(next_number("wg", ["lo", "eth0"].into_iter()), 0);
        assert_eq!(next_number("wg", ["wg0", "wg7", "wgx", "tun9"].into_iter()), 8);
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name("wg-home.5").is_ok());
        for name in ["", "..", "a b", "a/b", "0123456789abcdef", "wg%d"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
