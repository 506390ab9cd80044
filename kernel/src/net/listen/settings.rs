//! Listen options, checked and in the form that sockets need.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use crosspoint_schema::options::ListenOptions;

use crate::{
    BuildError,
    component::{Claim, Claims, Dep, Deps},
    net::zone_index,
    session::Network,
};

/// `tcp_keep_alive` unless set.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(600);

/// `tcp_keep_alive_interval` unless set.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(75);

/// `udp_timeout` unless set.
pub const UDP_TIMEOUT: Duration = Duration::from_secs(300);

/// What listening sockets are made with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) addr: SocketAddr,
    pub(super) interface: Option<Box<str>>,
    pub(super) mark: u32,
    pub(super) reuse: bool,
    pub(super) netns: Option<Box<str>>,
    pub(super) keep_alive: Option<(Duration, Duration)>,
    pub(super) fast_open: bool,
    pub(super) multi_path: bool,
    pub(super) udp_fragment: bool,
    pub(super) udp_timeout: Duration,
}

impl Settings {
    pub(super) fn new(options: &ListenOptions, udp_fragment: bool) -> Result<Self, BuildError> {
        validate(options)?;
        let mut addr = address(options);
        if let (SocketAddr::V6(v6), Some(listen)) = (&mut addr, &options.listen) {
            v6.set_scope_id(zone_index(&listen.zone).map_err(|e| BuildError::io("listen", e))?);
        }
        let text = |s: &str| (!s.is_empty()).then(|| Box::<str>::from(s));
        // Loopback and multicast addresses belong to no interface that could be chosen.
        let bindable = !addr.ip().is_loopback() && !addr.ip().is_multicast();
        Ok(Self {
            addr,
            interface: text(&options.bind_interface).filter(|_| bindable),
            mark: options.routing_mark.0,
            reuse: options.reuse_addr,
            netns: text(&options.netns),
            keep_alive: (options.tcp_keep_alive.0 >= 0).then(|| {
                (
                    options.tcp_keep_alive.or(KEEP_ALIVE_IDLE),
                    options.tcp_keep_alive_interval.or(KEEP_ALIVE_INTERVAL),
                )
            }),
            fast_open: options.tcp_fast_open,
            multi_path: options.tcp_multi_path,
            udp_fragment: options.udp_fragment.unwrap_or(udp_fragment),
            udp_timeout: options.udp_timeout.0.or(UDP_TIMEOUT),
        })
    }
}

/// The address that options name, without the index of an IPv6 zone.
fn address(options: &ListenOptions) -> SocketAddr {
    let ip = options.listen.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |addr| addr.ip);
    SocketAddr::new(ip.to_canonical(), options.listen_port)
}

/// What is wrong with listen options whatever they are used for. Plugins call it when they parse, so
/// that `check` finds what the reference finds at start.
///
/// # Errors
/// The reference's message.
pub fn validate(options: &ListenOptions) -> Result<(), BuildError> {
    if options.proxy_protocol || options.proxy_protocol_accept_no_header {
        return Err(BuildError::options(
            "Proxy Protocol is deprecated and removed in sing-box 1.6.0",
        ));
    }
    Ok(())
}

/// The addresses that a component with these options holds. Port 0 claims none: each component gets
/// a port of its own. Neither does `reuse_addr`: components that all have it may share an address.
pub fn claims(options: &ListenOptions, networks: &[Network], out: &mut Claims) {
    if options.listen_port == 0 || options.reuse_addr {
        return;
    }
    let addr = address(options);
    let netns = (!options.netns.is_empty()).then(|| options.netns.as_str().into());
    out.0.extend(networks.iter().map(|network| match network {
        Network::Tcp => Claim::TcpListen(addr, netns.clone()),
        Network::Udp => Claim::UdpListen(addr, netns.clone()),
    }));
}

/// The tags that listen options refer to.
pub fn deps(options: &ListenOptions, out: &mut Deps) {
    if !options.legacy.detour.is_empty() {
        out.0.push(Dep::Inbound(options.legacy.detour.as_str().into()));
    }
}
