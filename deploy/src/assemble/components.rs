//! Components: from raw objects to specs of the plugins that are linked in.

use std::{collections::HashMap, sync::Arc};

use crosspoint_kernel::{
    Kind, Plugin,
    component::Spec,
    plugin::{START_ORDER, registry},
    supervise::{ComponentId, Planned},
};
use crosspoint_schema::{
    Config, ConfigError, RawComponent,
    decode::{Context, Map},
    json::{Node, Span},
};

use super::Decoded;

/// Types that the reference has, by kind: one of them that is missing here is "not in this build",
/// anything else is a mistake in the file.
fn known_to_reference(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Inbound => &[
            "anytls",
            "direct",
            "http",
            "hysteria",
            "hysteria2",
            "mixed",
            "naive",
            "redirect",
            "shadowsocks",
            "shadowsocksr",
            "shadowtls",
            "socks",
            "tproxy",
            "trojan",
            "tuic",
            "tun",
            "vless",
            "vmess",
        ],
        Kind::Outbound => &[
            "anytls",
            "block",
            "direct",
            "dns",
            "http",
            "hysteria",
            "hysteria2",
            "selector",
            "shadowsocks",
            "shadowsocksr",
            "shadowtls",
            "socks",
            "ssh",
            "tor",
            "trojan",
            "tuic",
            "urltest",
            "vless",
            "vmess",
            "wireguard",
        ],
        Kind::Endpoint => &["tailscale", "wireguard"],
        Kind::Service => &["derp", "resolved", "ssm-api"],
        Kind::DnsServer => &[
            "",
            "dhcp",
            "fakeip",
            "h3",
            "hosts",
            "https",
            "legacy",
            "local",
            "quic",
            "resolved",
            "tailscale",
            "tcp",
            "tls",
            "udp",
        ],
    }
}

fn plugin(raw: &RawComponent, cx: &Context) -> Result<&'static Plugin, ConfigError> {
    let name = raw.type_name.as_str();
    if let Some(plugin) = registry().get(&(raw.kind, name)) {
        return Ok(plugin);
    }
    if known_to_reference(raw.kind).contains(&name)
        && !(name.is_empty() && raw.legacy_dns.is_none())
    {
        let what = raw.kind.indexed(raw.index);
        let message = format!("{} type {name} is not in this build", raw.kind.name());
        return Err(ConfigError::initialize(what, message).at(cx.locate(raw.span())));
    }
    let mut built: Vec<_> =
        registry().keys().filter(|(kind, _)| *kind == raw.kind).map(|(_, name)| *name).collect();
    built.sort_unstable();
    Err(raw.unknown_type(cx, &built))
}

/// Parses one component.
fn spec(raw: &RawComponent, cx: &Context) -> Result<(&'static str, Arc<dyn Spec>), ConfigError> {
    let plugin = plugin(raw, cx)?;
    Ok((plugin.type_name, (plugin.parse)(raw.raw(cx))?))
}

/// The options of one component as `format` prints them.
pub(super) fn canonical(raw: &RawComponent, cx: &Context) -> Result<Map, ConfigError> {
    (plugin(raw, cx)?.canonical)(raw.raw(cx))
}

/// Parses all components. Errors of decoding come before all others, as in the reference, which
/// decodes the whole file before it makes anything.
pub(super) fn parse(decoded: &Decoded) -> Result<Vec<Planned>, ConfigError> {
    let (config, cx) = (&decoded.config, &decoded.cx);
    let mut planned = Vec::new();
    let mut later = None;
    for kind in START_ORDER {
        for raw in config.components(kind) {
            match spec(raw, cx) {
                Ok((type_name, spec)) => planned.push(Planned {
                    id: ComponentId::new(kind, raw.label()),
                    type_name,
                    spec,
                    path: raw.path.clone(),
                }),
                Err(error) if error.is_decode() => return Err(error),
                Err(error) => {
                    later.get_or_insert(error);
                }
            }
        }
    }
    if let Some(error) = later {
        return Err(error);
    }
    implicit(config, &mut planned)?;
    unique(planned)
}

/// A direct outbound where there is none, and a local DNS server where there is none.
fn implicit(config: &Config, planned: &mut Vec<Planned>) -> Result<(), ConfigError> {
    if config.outbounds.is_empty() {
        planned.push(bare(Kind::Outbound, "direct")?);
    }
    if config.components(Kind::DnsServer).is_empty() {
        planned.push(bare(Kind::DnsServer, "local")?);
    }
    Ok(())
}

/// A component without options, named by its type.
fn bare(kind: Kind, type_name: &'static str) -> Result<Planned, ConfigError> {
    let cx = Context::new(crosspoint_schema::json::Sources::new());
    let raw = RawComponent {
        kind,
        type_name: type_name.to_owned(),
        tag: type_name.to_owned(),
        index: 0,
        options: Node::object(Span::default()),
        path: String::new(),
        legacy_dns: None,
    };
    let (type_name, spec) = spec(&raw, &cx)?;
    Ok(Planned { id: ComponentId::new(kind, raw.label()), type_name, spec, path: String::new() })
}

/// One component per identity. Tags were checked when the file was decoded; what is left are an
/// index that equals a tag, DNS servers (the later one wins, as in the reference), and services,
/// whose tags the reference does not check.
fn unique(planned: Vec<Planned>) -> Result<Vec<Planned>, ConfigError> {
    let mut places: HashMap<ComponentId, usize> = HashMap::new();
    let mut kept: Vec<Planned> = Vec::with_capacity(planned.len());
    for next in planned {
        match places.get(&next.id) {
            Some(place) if next.id.kind == Kind::DnsServer => kept[*place] = next,
            Some(place) => {
                let (kind, tag) = (next.id.kind.name(), &next.id.tag);
                return Err(ConfigError::new("", format!("duplicate {kind} tag: {tag}")).hint(
                    format!(
                        "{} and {} have the same name; one without a tag is named by its index",
                        kept[*place].path, next.path
                    ),
                ));
            }
            None => {
                places.insert(next.id.clone(), kept.len());
                kept.push(next);
            }
        }
    }
    Ok(kept)
}
