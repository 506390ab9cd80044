//! Option sets that stand for plugins in tests, after the reference's structs.

use crosspoint_schema::decode::{
    HeaderMap, Listable, Map, NetworkList, NodeMap, Options, Prefix, Secret, TextAddr,
};
use crosspoint_schema::json_schema::{Described, ObjectSchema};
use crosspoint_schema::options::{
    AuthUser, DialOptions, DnsAddressOptions, DomainResolver, ListenOptions, MultiplexInOptions,
    MultiplexOutOptions, ServerOptions, TlsInOptions, TlsOutOptions, TransportOptions,
    UdpOverTcpOptions,
};
use crosspoint_schema::{ConfigError, Kind, RawOptions, notice, options};
use serde_json::Value;

options! {
    /// `socks` inbound.
    pub(crate) struct SocksIn ("option.SocksInboundOptions") {
        /// As in the reference.
        pub listen: ListenOptions = flatten,
        /// As in the reference.
        pub users: Vec<AuthUser> = "users",
        /// As in the reference.
        pub domain_resolver: Option<DomainResolver> = "domain_resolver",
    }
}

options! {
    /// `mixed` and `http` inbound.
    pub(crate) struct MixedIn ("option.HTTPMixedInboundOptions") {
        /// As in the reference.
        pub listen: ListenOptions = flatten,
        /// As in the reference.
        pub users: Vec<AuthUser> = "users",
        /// As in the reference.
        pub domain_resolver: Option<DomainResolver> = "domain_resolver",
        /// As in the reference.
        pub set_system_proxy: bool = "set_system_proxy",
        /// As in the reference.
        pub tls: Option<TlsInOptions> = "tls",
    }
}

options! {
    /// `direct` inbound.
    pub(crate) struct DirectIn ("option.DirectInboundOptions") {
        /// As in the reference.
        pub listen: ListenOptions = flatten,
        /// As in the reference.
        pub network: NetworkList = "network",
        /// As in the reference.
        pub override_address: String = "override_address",
        /// As in the reference.
        pub override_port: u16 = "override_port",
    }
}

options! {
    /// A user with a name.
    pub(crate) struct TrojanUser ("option.TrojanUser") {
        /// As in the reference.
        pub name: String = "name" always,
        /// As in the reference.
        pub password: Secret = "password" always,
    }
}

options! {
    /// `trojan` inbound.
    pub(crate) struct TrojanIn ("option.TrojanInboundOptions") {
        /// As in the reference.
        pub listen: ListenOptions = flatten,
        /// As in the reference.
        pub users: Vec<TrojanUser> = "users",
        /// As in the reference.
        pub tls: Option<TlsInOptions> = "tls",
        /// As in the reference.
        pub fallback: Option<ServerOptions> = "fallback",
        /// As in the reference.
        pub fallback_for_alpn: NodeMap<ServerOptions> = "fallback_for_alpn",
        /// As in the reference.
        pub multiplex: Option<MultiplexInOptions> = "multiplex",
        /// As in the reference.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// `socks` outbound.
    pub(crate) struct SocksOut ("option.SOCKSOutboundOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub server: ServerOptions = flatten,
        /// As in the reference.
        pub version: String = "version",
        /// As in the reference.
        pub username: String = "username",
        /// As in the reference.
        pub password: Secret = "password",
        /// As in the reference.
        pub network: NetworkList = "network",
        /// As in the reference.
        pub udp_over_tcp: Option<UdpOverTcpOptions> = "udp_over_tcp",
    }
}

options! {
    /// `http` outbound.
    pub(crate) struct HttpOut ("option.HTTPOutboundOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub server: ServerOptions = flatten,
        /// As in the reference.
        pub username: String = "username",
        /// As in the reference.
        pub password: Secret = "password",
        /// As in the reference.
        pub tls: Option<TlsOutOptions> = "tls",
        /// As in the reference.
        pub path: String = "path",
        /// As in the reference.
        pub headers: HeaderMap = "headers",
    }
}

options! {
    /// `direct` outbound.
    pub(crate) struct DirectOut ("option._DirectOutboundOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub override_address: String = "override_address",
        /// As in the reference.
        pub override_port: u16 = "override_port",
        /// As in the reference.
        pub proxy_protocol: u8 = "proxy_protocol",
    }
}

options! {
    /// `selector`.
    pub(crate) struct Selector ("option.SelectorOutboundOptions") {
        /// As in the reference.
        pub outbounds: Vec<String> = "outbounds" always,
        /// As in the reference.
        pub default: String = "default",
        /// As in the reference.
        pub interrupt_exist_connections: bool = "interrupt_exist_connections",
    }
}

options! {
    /// `trojan` outbound.
    pub(crate) struct TrojanOut ("option.TrojanOutboundOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub server: ServerOptions = flatten,
        /// As in the reference.
        pub password: Secret = "password" always,
        /// As in the reference.
        pub network: NetworkList = "network",
        /// As in the reference.
        pub tls: Option<TlsOutOptions> = "tls",
        /// As in the reference.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
        /// As in the reference.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// `vmess` outbound.
    pub(crate) struct VmessOut ("option.VMessOutboundOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub server: ServerOptions = flatten,
        /// As in the reference.
        pub uuid: String = "uuid" always,
        /// As in the reference.
        pub security: String = "security" always,
        /// As in the reference.
        pub alter_id: i64 = "alter_id",
        /// As in the reference.
        pub global_padding: bool = "global_padding",
        /// As in the reference.
        pub authenticated_length: bool = "authenticated_length",
        /// As in the reference.
        pub network: NetworkList = "network",
        /// As in the reference.
        pub tls: Option<TlsOutOptions> = "tls",
        /// As in the reference.
        pub packet_encoding: String = "packet_encoding",
        /// As in the reference.
        pub multiplex: Option<MultiplexOutOptions> = "multiplex",
        /// As in the reference.
        pub transport: Option<TransportOptions> = "transport",
    }
}

options! {
    /// `block` outbound and others without options.
    pub(crate) struct Nothing ("option.StubOptions") {}
}

options! {
    /// `local` DNS server.
    pub(crate) struct LocalDns ("option.LocalDNSServerOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
    }
}

options! {
    /// `udp` and `tcp` DNS server.
    pub(crate) struct RemoteDns ("option.RemoteDNSServerOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub address: DnsAddressOptions = flatten,
    }
}

options! {
    /// `tls` and `quic` DNS server.
    pub(crate) struct TlsDns ("option.RemoteTLSDNSServerOptions") {
        /// As in the reference.
        pub remote: RemoteDns = flatten,
        /// As in the reference.
        pub tls: Option<TlsOutOptions> = "tls",
    }
}

options! {
    /// `https` and `h3` DNS server.
    pub(crate) struct HttpsDns ("option.RemoteHTTPSDNSServerOptions") {
        /// As in the reference.
        pub tls: TlsDns = flatten,
        /// As in the reference.
        pub path: String = "path",
        /// As in the reference.
        pub method: String = "method",
        /// As in the reference.
        pub headers: HeaderMap = "headers",
    }
}

options! {
    /// `fakeip` DNS server.
    pub(crate) struct FakeIpDns ("option.FakeIPDNSServerOptions") {
        /// As in the reference.
        pub inet4_range: Option<Prefix> = "inet4_range",
        /// As in the reference.
        pub inet6_range: Option<Prefix> = "inet6_range",
    }
}

options! {
    /// `dhcp` DNS server.
    pub(crate) struct DhcpDns ("option.DHCPDNSServerOptions") {
        /// As in the reference.
        pub dial: DialOptions = flatten,
        /// As in the reference.
        pub interface: String = "interface",
    }
}

options! {
    /// `hosts` DNS server.
    pub(crate) struct HostsDns ("option.HostsDNSServerOptions") {
        /// As in the reference.
        pub path: Listable<String> = "path",
        /// As in the reference.
        pub predefined: NodeMap<Listable<TextAddr>> = "predefined",
    }
}

options! {
    /// `resolved` DNS server.
    pub(crate) struct ResolvedDns ("option.ResolvedDNSServerOptions") {
        /// As in the reference.
        pub service: String = "service" always,
        /// As in the reference.
        pub accept_default_resolvers: bool = "accept_default_resolvers",
    }
}

options! {
    /// `resolved` service.
    pub(crate) struct ResolvedService ("option.ResolvedServiceOptions") {
        /// As in the reference.
        pub listen: ListenOptions = flatten,
    }
}

type Print = fn(RawOptions<'_>) -> Result<Map, ConfigError>;
type Row = (Kind, &'static str, Print, fn(&mut ObjectSchema<'_>));

fn row<T: Options>(kind: Kind, type_name: &'static str) -> Row {
    (kind, type_name, |raw| Ok(raw.parse::<T>()?.to_map()), T::describe)
}

fn direct_out(raw: RawOptions<'_>) -> Result<Map, ConfigError> {
    let options: DirectOut = raw.parse()?;
    if !options.override_address.is_empty() || options.override_port != 0 {
        raw.deprecated(&notice::DESTINATION_OVERRIDE_FIELDS);
    }
    Ok(options.to_map())
}

fn table() -> Vec<Row> {
    use Kind::{DnsServer, Inbound, Outbound, Service};
    vec![
        row::<SocksIn>(Inbound, "socks"),
        row::<MixedIn>(Inbound, "mixed"),
        row::<MixedIn>(Inbound, "http"),
        row::<DirectIn>(Inbound, "direct"),
        row::<TrojanIn>(Inbound, "trojan"),
        row::<SocksOut>(Outbound, "socks"),
        row::<HttpOut>(Outbound, "http"),
        (Outbound, "direct", direct_out, DirectOut::describe),
        row::<Nothing>(Outbound, "block"),
        row::<Nothing>(Outbound, "dns"),
        row::<Selector>(Outbound, "selector"),
        row::<TrojanOut>(Outbound, "trojan"),
        row::<VmessOut>(Outbound, "vmess"),
        row::<LocalDns>(DnsServer, "local"),
        row::<RemoteDns>(DnsServer, "udp"),
        row::<RemoteDns>(DnsServer, "tcp"),
        row::<TlsDns>(DnsServer, "tls"),
        row::<TlsDns>(DnsServer, "quic"),
        row::<HttpsDns>(DnsServer, "https"),
        row::<HttpsDns>(DnsServer, "h3"),
        row::<FakeIpDns>(DnsServer, "fakeip"),
        row::<HostsDns>(DnsServer, "hosts"),
        row::<DhcpDns>(DnsServer, "dhcp"),
        row::<ResolvedDns>(DnsServer, "resolved"),
        row::<ResolvedService>(Service, "resolved"),
    ]
}

/// Types of the reference that have no stand-in here.
const OTHERS: &[&str] = &[
    "tun",
    "redirect",
    "tproxy",
    "shadowsocks",
    "vmess",
    "naive",
    "shadowtls",
    "vless",
    "anytls",
    "hysteria",
    "tuic",
    "hysteria2",
    "shadowsocksr",
    "urltest",
    "tor",
    "ssh",
    "wireguard",
    "tailscale",
    "derp",
    "ssm-api",
];

/// The canonical options of a component; `None` where no stand-in has its type though the reference does.
#[allow(dead_code)]
pub(crate) fn canonical(raw: RawOptions<'_>) -> Option<Result<Value, ConfigError>> {
    let component = raw.component();
    let table = table();
    let found = table.iter().find(|row| row.0 == component.kind && row.1 == raw.type_name());
    match found {
        Some(row) => Some((row.2)(raw).map(Value::Object)),
        None if OTHERS.contains(&raw.type_name()) => None,
        None => {
            let known: Vec<&'static str> = table.iter().map(|row| row.1).collect();
            Some(Err(component.unknown_type(raw.context(), &known)))
        }
    }
}

/// The stand-ins for a schema.
#[allow(dead_code)]
pub(crate) fn described() -> Vec<Described> {
    table()
        .into_iter()
        .map(|(kind, type_name, _, describe)| Described { kind, type_name, describe })
        .collect()
}

/// Whether all component types in a configuration have a stand-in.
#[allow(dead_code)]
pub(crate) fn knows(config: &Value) -> bool {
    let table = table();
    [
        (Kind::Inbound, &config["inbounds"]),
        (Kind::Outbound, &config["outbounds"]),
        (Kind::Endpoint, &config["endpoints"]),
        (Kind::Service, &config["services"]),
        (Kind::DnsServer, &config["dns"]["servers"]),
    ]
    .into_iter()
    .flat_map(|(kind, list)| list.as_array().into_iter().flatten().map(move |raw| (kind, raw)))
    .all(|(kind, raw)| match raw["type"].as_str() {
        Some(type_name) => table.iter().any(|row| row.0 == kind && row.1 == type_name),
        None => kind == Kind::DnsServer,
    })
}
