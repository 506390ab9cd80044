//! Every plugin crate, named, so that the linker keeps its registrations; and the list that start-up
//! compares with what was really linked in.

use crosspoint_base as _;
use crosspoint_dns as _;
use crosspoint_kernel::{Kind, plugin};
use crosspoint_proxy as _;
use crosspoint_service as _;
use crosspoint_wireguard as _;

/// The plugins that the features of this build promise: one line per role.
const PROMISED: &[(bool, Kind, &str)] = &[
    (cfg!(feature = "mixed"), Kind::Inbound, "mixed"),
    (cfg!(feature = "socks"), Kind::Inbound, "socks"),
    (cfg!(feature = "socks"), Kind::Outbound, "socks"),
    (cfg!(feature = "http"), Kind::Inbound, "http"),
    (cfg!(feature = "http"), Kind::Outbound, "http"),
    (cfg!(feature = "direct"), Kind::Inbound, "direct"),
    (cfg!(feature = "direct"), Kind::Outbound, "direct"),
    (cfg!(feature = "block"), Kind::Outbound, "block"),
    (cfg!(feature = "selector"), Kind::Outbound, "selector"),
    (cfg!(feature = "urltest"), Kind::Outbound, "urltest"),
    (cfg!(feature = "shadowsocks"), Kind::Inbound, "shadowsocks"),
    (cfg!(feature = "shadowsocks"), Kind::Outbound, "shadowsocks"),
    (cfg!(feature = "trojan"), Kind::Inbound, "trojan"),
    (cfg!(feature = "trojan"), Kind::Outbound, "trojan"),
    (cfg!(feature = "vless"), Kind::Inbound, "vless"),
    (cfg!(feature = "vless"), Kind::Outbound, "vless"),
    (cfg!(feature = "vmess"), Kind::Inbound, "vmess"),
    (cfg!(feature = "vmess"), Kind::Outbound, "vmess"),
    (cfg!(feature = "derp"), Kind::Service, "derp"),
    (cfg!(feature = "ssm-api"), Kind::Service, "ssm-api"),
    (cfg!(feature = "wireguard"), Kind::Endpoint, "wireguard"),
    (cfg!(feature = "wireguard"), Kind::Outbound, "wireguard"),
    (cfg!(feature = "dns-in"), Kind::Inbound, "dns"),
    (cfg!(feature = "dns-out"), Kind::Outbound, "dns"),
    (cfg!(feature = "dns-local"), Kind::DnsServer, "local"),
    (cfg!(feature = "dns-hosts"), Kind::DnsServer, "hosts"),
    (cfg!(feature = "dns-fakeip"), Kind::DnsServer, "fakeip"),
    (cfg!(feature = "dns-dhcp"), Kind::DnsServer, "dhcp"),
    (cfg!(feature = "dns-udp"), Kind::DnsServer, "udp"),
    (cfg!(feature = "dns-tcp"), Kind::DnsServer, "tcp"),
    (cfg!(feature = "dns-tls"), Kind::DnsServer, "tls"),
    (cfg!(feature = "dns-https"), Kind::DnsServer, "https"),
    (cfg!(feature = "dns-h3"), Kind::DnsServer, "h3"),
    (cfg!(feature = "dns-quic"), Kind::DnsServer, "quic"),
    (cfg!(feature = "dns-group"), Kind::DnsServer, "group"),
];

/// The plugins that this build promises.
pub fn promised() -> impl Iterator<Item = (Kind, &'static str)> {
    PROMISED.iter().filter(|(on, ..)| *on).map(|(_, kind, name)| (*kind, *name))
}

/// Compares what is promised with what is linked in. A program that links plugins of its own beside
/// these may have more.
///
/// # Errors
/// A plugin that is missing or registered twice: a defect of the build.
pub fn verify() -> Result<(), String> {
    let name = |(kind, type_name): (Kind, &str)| format!("{} {type_name}", kind.name());
    if let Some(twice) = plugin::duplicates().first() {
        return Err(format!("plugin {} is registered twice", name(*twice)));
    }
    match promised().find(|key| !plugin::registry().contains_key(key)) {
        Some(missing) => Err(format!("plugin {} is missing from this build", name(missing))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_build_keeps_its_promise() {
        super::verify().expect("registrations");
        let linked = crosspoint_kernel::plugin::registry().len();
        assert_eq!(linked, super::promised().count(), "a plugin is missing from PROMISED");
    }
}
