//! Dial options, checked and in the form that sockets need.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crosspoint_schema::{
    decode::Addr,
    notice::{self, Deprecation},
    options::{DialOptions, DomainStrategy},
};
use tracing::warn;

use crate::{
    BuildCx, BuildError,
    addr::{Host, zone},
    component::{Dep, Deps},
    net::{monitor::Network, zone_index},
    resolve::Strategy,
    snapshot::DomainResolver,
};

/// `connect_timeout` unless set.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Head start of the preferred address family unless `fallback_delay` is set.
pub const FALLBACK_DELAY: Duration = Duration::from_millis(300);

/// What a dialer must know besides its options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// Value of `udp_fragment` where it is not set: true for `direct` and for protocols on QUIC.
    pub udp_fragment: bool,
    /// The server that will be dialled (field `server`), for [`ResolverRule::Own`].
    pub server: Option<&'a str>,
    /// Resolve names here even if there is a `detour` (WireGuard, Tailscale); otherwise the detour gets them.
    pub resolve_before_detour: bool,
    /// What to do when no resolver is named.
    pub resolver: ResolverRule,
    /// A detour may lead through an empty `direct` outbound (DNS servers in their old form).
    pub any_detour: bool,
    /// Without a detour, dial through the default outbound (DNS servers in their old form).
    pub default_outbound: bool,
}

/// What the reference says where a resolver must be named.
pub(super) const MISSING: &str = "missing domain resolver for domain server address";

/// What to do when neither the dial options nor the route options name a resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolverRule {
    /// Ask the only DNS server, or let the DNS rules choose among several and warn.
    #[default]
    Lenient,
    /// Ask the only DNS server, or refuse to dial when there are several (Tailscale control, DERP).
    Strict,
    /// Refuse to build unless the dial options name one (DNS servers, which cannot ask themselves).
    Own,
}

/// What the sockets of a dialer are made with.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) interface: Option<Box<str>>,
    /// The zone of the server, if its address is link-local.
    pub(super) zone: Box<str>,
    pub(super) bind4: Option<SocketAddr>,
    pub(super) bind6: Option<SocketAddr>,
    pub(super) protect: Option<Box<Path>>,
    pub(super) mark: Option<u32>,
    pub(super) reuse: bool,
    pub(super) netns: Option<Box<str>>,
    pub(super) timeout: Duration,
    pub(super) fast_open: bool,
    pub(super) multi_path: bool,
    pub(super) udp_fragment: bool,
    /// Tells the interface that `auto_detect_interface` binds to.
    pub(super) network: Network,
}

impl Settings {
    pub(super) fn new(
        options: &DialOptions,
        setup: &Setup<'_>,
        network: Network,
    ) -> Result<Self, BuildError> {
        let text = |s: &str| (!s.is_empty()).then(|| Box::<str>::from(s));
        Ok(Self {
            interface: text(&options.bind_interface),
            zone: setup.server.map_or("", zone).into(),
            bind4: local(
                "inet4_bind_address",
                options.inet4_bind_address.as_ref(),
                IpAddr::is_ipv4,
            )?,
            bind6: local(
                "inet6_bind_address",
                options.inet6_bind_address.as_ref(),
                IpAddr::is_ipv6,
            )?,
            protect: text(&options.protect_path).map(|p| Path::new(&*p).into()),
            mark: options.routing_mark.get(),
            reuse: options.reuse_addr,
            netns: text(&options.netns),
            timeout: options.connect_timeout.or(CONNECT_TIMEOUT),
            fast_open: options.tcp_fast_open,
            multi_path: options.tcp_multi_path,
            udp_fragment: options.udp_fragment.unwrap_or(setup.udp_fragment),
            network,
        })
    }
}

impl Settings {
    /// `addr` as the system needs it: a link-local address with the index of its interface.
    pub(super) fn scoped(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        match addr {
            SocketAddr::V6(mut v6) if !self.zone.is_empty() && v6.ip().is_unicast_link_local() => {
                v6.set_scope_id(zone_index(&self.zone)?);
                Ok(v6.into())
            }
            _ => Ok(addr),
        }
    }
}

/// A local address of the right family, as one that sockets bind to.
fn local(
    field: &str,
    addr: Option<&Addr>,
    right: fn(&IpAddr) -> bool,
) -> Result<Option<SocketAddr>, BuildError> {
    let Some(addr) = addr else { return Ok(None) };
    let mut local = SocketAddr::new(addr.ip.to_canonical(), 0);
    if !right(&local.ip()) {
        return Err(BuildError::options(format_args!(
            "{field}: {} is of the other family",
            addr.ip
        )));
    }
    if let SocketAddr::V6(v6) = &mut local {
        v6.set_scope_id(zone_index(&addr.zone).map_err(|e| BuildError::io(field, e))?);
    }
    Ok(Some(local))
}

/// What is wrong with dial options whatever they are used for. Plugins call it when they parse, so
/// that `check` finds it too.
///
/// # Errors
/// The reference's message.
pub fn validate(options: &DialOptions) -> Result<(), BuildError> {
    let o = options;
    if !o.detour.is_empty() {
        return Ok(()); // The other fields are without effect then.
    }
    let bound = !o.bind_interface.is_empty()
        || o.inet4_bind_address.is_some()
        || o.inet6_bind_address.is_some();
    let strategy = o.network_strategy.is_some()
        || !o.network_type.is_empty()
            && o.fallback_network_type.is_empty()
            && o.fallback_delay.is_zero();
    if (bound || o.tcp_fast_open) && strategy {
        return Err(BuildError::options(
            "`network_strategy` is conflict with `bind_interface`, `inet4_bind_address`, \
             `inet6_bind_address` and `tcp_fast_open`",
        ));
    }
    Ok(())
}

/// The tags that dial options refer to.
pub fn deps(options: &DialOptions, out: &mut Deps) {
    if !options.detour.is_empty() {
        out.0.push(Dep::Outbound(options.detour.as_str().into()));
    }
    if let Some(server) = resolver_tag(options) {
        out.0.push(Dep::DnsServer(server.into()));
    }
}

fn resolver_tag(options: &DialOptions) -> Option<&str> {
    options.domain_resolver.as_ref().map(|r| r.server.as_str()).filter(|tag| !tag.is_empty())
}

/// The strategy of a word of the configuration; `None` leaves it to the next one in line.
#[must_use]
pub fn strategy(word: DomainStrategy) -> Option<Strategy> {
    match word {
        DomainStrategy::AsIs => None,
        DomainStrategy::PreferIpv4 => Some(Strategy::PreferIpv4),
        DomainStrategy::PreferIpv6 => Some(Strategy::PreferIpv6),
        DomainStrategy::Ipv4Only => Some(Strategy::Ipv4Only),
        DomainStrategy::Ipv6Only => Some(Strategy::Ipv6Only),
    }
}

/// The resolver that dial options name, checked against the DNS servers of this generation.
pub(super) fn resolver(
    options: &DialOptions,
    cx: &BuildCx,
    setup: &Setup<'_>,
) -> Result<Option<DomainResolver>, BuildError> {
    let has_name = setup.server.is_some_and(|s| !s.is_empty() && Host::from(s).ip().is_none());
    let Some(tag) = resolver_tag(options) else {
        let resolves_here = options.detour.is_empty() || setup.resolve_before_detour;
        return match setup.resolver {
            ResolverRule::Own if has_name && resolves_here => Err(BuildError::options(MISSING)),
            // What `route` says is known when the configuration is in force, that is at a dial.
            _ => Ok(None),
        };
    };
    if !cx.names.dns.contains_key(tag) {
        return Err(BuildError::options(format_args!("domain resolver not found: {tag}")));
    }
    let named = options.domain_resolver.as_deref();
    let own = named.and_then(|r| strategy(r.strategy));
    Ok(Some(DomainResolver {
        server: tag.into(),
        strategy: own.or_else(|| legacy_strategy(options)),
        disable_cache: named.is_some_and(|r| r.disable_cache),
        rewrite_ttl: named.and_then(|r| r.rewrite_ttl),
        client_subnet: named.and_then(|r| r.client_subnet).map(|subnet| subnet.0),
    }))
}

/// Dial field `domain_strategy`, which `domain_resolver` replaces.
pub(super) fn legacy_strategy(options: &DialOptions) -> Option<Strategy> {
    let strategy = strategy(options.domain_strategy)?;
    static SAID: AtomicBool = AtomicBool::new(false);
    deprecated(&notice::LEGACY_DOMAIN_STRATEGY, &SAID);
    Some(strategy)
}

/// Each notice appears once per process.
pub(super) fn deprecated(note: &Deprecation, said: &AtomicBool) {
    if !said.swap(true, Ordering::Relaxed) {
        warn!("{}", note.message());
    }
}
