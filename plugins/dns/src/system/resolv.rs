//! resolv.conf(5), as Go's resolver and the reference read it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Duration,
};

use rustix::net::{self, AddressFamily, SocketType};

use super::Watched;

/// Where the system has its own.
pub(crate) const SYSTEM: &str = "/etc/resolv.conf";

/// Larger files are not read.
const MAX_SIZE: u64 = 256 * 1024;

/// Further servers are ignored, here as in every C library.
const MAX_SERVERS: usize = 3;

/// The largest values that C libraries take (RES_MAXRETRANS, RES_MAXRETRY); without a bound a server that refuses at
/// once would be asked for ever.
const MAX_TIMEOUT: u64 = 30;
const MAX_ATTEMPTS: u32 = 5;

const PORT: u16 = 53;

/// Which servers to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolv {
    /// The servers in order; never empty.
    pub servers: Vec<SocketAddr>,
    /// How long one server may take for one try.
    pub timeout: Duration,
    /// How often every server is tried.
    pub attempts: u32,
    /// Begin with another server each time.
    pub rotate: bool,
    /// Ask over TCP at once.
    pub tcp: bool,
    /// Ask whether the server has validated the answer, and believe it.
    pub trust_ad: bool,
    /// The file does not change any more.
    pub no_reload: bool,
}

impl Default for Resolv {
    fn default() -> Self {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        Self {
            servers: loopback.map(|ip| SocketAddr::new(ip, PORT)).into(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp: false,
            trust_ad: false,
            no_reload: false,
        }
    }
}

/// The file. One that has gone stands for a server on this machine.
pub(crate) fn watch(path: &str) -> Arc<Watched<Resolv>> {
    Watched::new(path, MAX_SIZE, Some(Resolv::default), parse)
}

/// Reads the file; what it does not understand it skips. `search`, `domain` and `ndots` say how an incomplete name is
/// completed, and the names in queries are complete. `edns0` is our habit anyway, and `single-request` speaks of
/// pairs of queries.
#[must_use]
pub fn parse(text: &str) -> Resolv {
    let mut conf = Resolv { servers: Vec::new(), ..Resolv::default() };
    for line in text.lines().filter(|line| !line.starts_with([';', '#'])) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                conf.servers.extend(words.next().and_then(server));
            }
            Some("options") => words.for_each(|word| conf.option(word)),
            _ => {}
        }
    }
    if conf.servers.is_empty() {
        conf.servers = Resolv::default().servers;
    }
    conf
}

/// An address, for IPv6 with an optional zone.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse().ok()?, PORT));
    };
    let ip: Ipv6Addr = address.parse().ok()?;
    let scope = match zone.parse() {
        Ok(index) => index,
        Err(_) => index(zone)?,
    };
    Some(SocketAddrV6::new(ip, PORT, 0, scope).into())
}

/// The index of an interface.
fn index(name: &str) -> Option<u32> {
    let socket = net::socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
    net::netdevice::name_to_index(socket, name).ok()
}

impl Resolv {
    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        match name {
            "timeout" => self.timeout = Duration::from_secs(number(value).clamp(1, MAX_TIMEOUT)),
            "attempts" => {
                let times = u32::try_from(number(value)).unwrap_or(MAX_ATTEMPTS);
                self.attempts = times.clamp(1, MAX_ATTEMPTS);
            }
            "rotate" => self.rotate = true,
            "use-vc" | "usevc" | "tcp" => self.tcp = true,
            "trust-ad" => self.trust_ad = true,
            "no-reload" => self.no_reload = true,
            _ => {}
        }
    }
}

/// The digits that a value begins with; 0 for none.
fn number(value: &str) -> u64 {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    match value.get(..end) {
        None | Some("") => 0,
        Some(digits) => digits.parse().unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_as_systems_write_it() {
        let conf = parse(
            "# made by hand\n;nameserver 192.0.2.9\nsearch a.example b.example\nnameserver 127.0.0.53\r\n\
             nameserver 2001:db8::1 ignored\nnameserver nonsense\nnameserver fe80::1%7\nnameserver 192.0.2.4\n\
             options edns0 trust-ad timeout:3x attempts:4 rotate ndots:2 unknown\nsortlist 192.0.2.0\n",
        );
        let servers = [addr("127.0.0.53:53"), addr("[2001:db8::1]:53"), addr("[fe80::1%7]:53")];
        let expected = Resolv {
            servers: servers.into(),
            timeout: Duration::from_secs(3),
            attempts: 4,
            rotate: true,
            tcp: false,
            trust_ad: true,
            no_reload: false,
        };
        assert_eq!(conf, expected);
    }

    #[test]
    fn what_is_missing_or_absurd_has_a_bound() {
        assert_eq!(parse(""), Resolv::default());
        assert_eq!(parse("nameserver\noptions\n"), Resolv::default());
        let conf = parse("options timeout:0 attempts:999999999999999999999 use-vc no-reload\n");
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(1), MAX_ATTEMPTS));
        assert!(conf.tcp && conf.no_reload);
        assert_eq!(parse("options timeout:86400").timeout, Duration::from_secs(MAX_TIMEOUT));
        // An interface that does not exist; the loopback interface exists everywhere.
        assert_eq!(parse("nameserver fe80::1%none77"), Resolv::default());
        let lo = parse("nameserver fe80::1%lo").servers;
        assert!(matches!(lo[..], [SocketAddr::V6(addr)] if addr.scope_id() > 0));
    }

    proptest! {
        #[test]
        fn any_text_gives_something_to_ask(
            text in "((nameserver|options|search|[#;a-z]{0,3})[ \t](timeout:|attempts:|rotate|[0-9a-f.:%]{0,12}|\\PC)[0-9]{0,25}[ \n\r]{0,2}){0,12}",
        ) {
            let conf = parse(&text);
            prop_assert!((1..=MAX_SERVERS).contains(&conf.servers.len()));
            prop_assert!((1..=MAX_ATTEMPTS).contains(&conf.attempts));
            prop_assert!((1..=MAX_TIMEOUT).contains(&conf.timeout.as_secs()));
        }
    }
}
