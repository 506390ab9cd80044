//! The matchers of one rule.

use crosspoint_schema::{notice::BAD_MATCH_SOURCE, options::InterfaceType};
use tracing::warn;

use super::{Fields, Refusal};
use crate::{
    item::{AdGuardSet, CidrSet, DomainSet, Keywords, PortSet, Regexes, TextSet},
    rule::{DefaultRule, Item, Kind, Rule},
    sets::SetItem,
    slot::RuleSets,
};

const NO_GEOSITE: &str =
    "geosite database is deprecated in sing-box 1.8.0 and removed in sing-box 1.12.0";
const NO_GEOIP: &str =
    "geoip database is deprecated in sing-box 1.8.0 and removed in sing-box 1.12.0";

/// What stands for every outbound in the DNS rule item `outbound`.
const ANY_OUTBOUND: &str = "any";

/// Compiles matchers; errors come in the order in which the reference reads the members.
pub(super) fn compile(mut m: Fields<'_>, sets: &RuleSets) -> Result<Rule, Refusal> {
    let mut items = Vec::new();
    texts(&mut items, m.inbound, Item::Inbound);
    match m.ip_version {
        4 => items.push(Item::Ipv6(false)),
        6 => items.push(Item::Ipv6(true)),
        // The reference takes a negative version for none.
        ..=0 => {}
        other => {
            return Err(Refusal::new("ip_version", format_args!("invalid ip version: {other}")));
        }
    }
    if !m.query_type.is_empty() {
        items.push(Item::QueryType(m.query_type.iter().map(|kind| kind.0).collect()));
    }
    if !m.network.is_empty() {
        let has = |name: &str| m.network.iter().any(|network| network == name);
        items.push(Item::Network { tcp: has("tcp"), udp: has("udp") });
    }
    texts(&mut items, m.auth_user, Item::AuthUser);
    texts(&mut items, m.protocol, Item::Protocol);
    texts(&mut items, m.client, Item::Client);
    let binary = std::mem::take(&mut m.binary);
    let name = names(&m, binary.domains, binary.adguard)?;

    let (mut source_address, mut ip) = (Vec::new(), Vec::new());
    if !m.source_ip_cidr.is_empty() {
        let set = cidrs("source_ip_cidr", "source_ip_cidr", m.source_ip_cidr)?;
        source_address.push(Item::SourceCidr(set));
    } else if let Some(set) = binary.source_cidrs {
        source_address.push(Item::SourceCidr(set));
    }
    if m.source_ip_is_private {
        source_address.push(Item::SourcePrivate);
    }
    if !m.ip_cidr.is_empty() {
        ip.push(Item::Cidr(cidrs("ip_cidr", m.ip_cidr_name, m.ip_cidr)?));
    } else if let Some(set) = binary.cidrs {
        ip.push(Item::Cidr(set));
    }
    if m.ip_is_private {
        ip.push(Item::Private);
    }
    if m.ip_accept_any {
        ip.push(Item::AnyAddress);
    }

    let source_port =
        ports("source_port_range", m.source_port, m.source_port_range)?.map(Item::SourcePort);
    let port = ports("port_range", m.port, m.port_range)?.map(Item::Port);

    texts(&mut items, m.process_name, Item::ProcessName);
    texts(&mut items, m.process_path, Item::ProcessPath);
    if !m.process_path_regex.is_empty() {
        items.push(Item::ProcessPathRegex(regexes("process_path_regex", m.process_path_regex)?));
    }
    if !m.package_name.is_empty() {
        items.push(Item::Never);
    }
    texts(&mut items, m.user, Item::User);
    if !m.user_id.is_empty() {
        items.push(Item::UserId(m.user_id.into()));
    }
    if !m.outbound.is_empty() {
        let any = m.outbound.iter().any(|tag| tag == ANY_OUTBOUND);
        items.push(Item::Outbound((!any).then(|| TextSet::new(m.outbound))));
    }
    device(&mut items, &m);
    let sets = (!m.rule_set.is_empty()).then(|| {
        if m.old_match_source {
            warn!("{}", BAD_MATCH_SOURCE.message());
        }
        SetItem::new(m.rule_set, sets, m.match_source, m.accept_empty)
    });

    Ok(Rule(Kind::Default(DefaultRule {
        items: items.into(),
        source_address: source_address.into(),
        source_port: source_port.into_iter().collect(),
        name: name.into(),
        ip: ip.into(),
        port: port.into_iter().collect(),
        sets,
        invert: m.invert,
    })))
}

/// What looks at the name of the destination.
fn names(
    m: &Fields<'_>,
    domains: Option<DomainSet>,
    adguard: Option<AdGuardSet>,
) -> Result<Vec<Item>, Refusal> {
    let mut items = Vec::new();
    if !m.domain.is_empty() || !m.domain_suffix.is_empty() {
        let key = if m.domain.iter().any(String::is_empty) { "domain" } else { "domain_suffix" };
        let set =
            DomainSet::new(m.domain, m.domain_suffix).map_err(|error| Refusal::new(key, error))?;
        items.push(Item::Domain(set));
    } else if let Some(set) = domains {
        items.push(Item::Domain(set));
    }
    if !m.domain_keyword.is_empty() {
        let words = Keywords::new(m.domain_keyword)
            .map_err(|error| Refusal::new("domain_keyword", error).context("domain_keyword"))?;
        items.push(Item::Keyword(words));
    }
    if !m.domain_regex.is_empty() {
        items.push(Item::Regex(regexes("domain_regex", m.domain_regex)?));
    }
    items.extend(adguard.map(Item::AdGuard));
    for (key, list, message) in [
        ("geosite", m.geosite, NO_GEOSITE),
        ("source_geoip", m.source_geoip, NO_GEOIP),
        ("geoip", m.geoip, NO_GEOIP),
    ] {
        if !list.is_empty() {
            return Err(Refusal::new(key, message));
        }
    }
    Ok(items)
}

/// What looks at the networks of this machine.
fn device(items: &mut Vec<Item>, m: &Fields<'_>) {
    if !m.clash_mode.is_empty() {
        items.push(Item::Never);
    }
    if !m.network_type.is_empty() {
        items.push(Item::NetworkType { wifi: m.network_type.contains(&InterfaceType::Wifi) });
    }
    for metered in [m.network_is_expensive, m.network_is_constrained] {
        if metered {
            items.push(Item::Never);
        }
    }
    texts(items, m.wifi_ssid, Item::WifiName);
    texts(items, m.wifi_bssid, Item::WifiName);
}

fn texts(items: &mut Vec<Item>, list: &[String], item: fn(TextSet) -> Item) {
    if !list.is_empty() {
        items.push(item(TextSet::new(list)));
    }
}

fn regexes(key: &str, list: &[String]) -> Result<Regexes, Refusal> {
    Regexes::new(list).map_err(|(index, error)| {
        Refusal::new(key, error).context(format_args!("parse expression {index}")).context(key)
    })
}

fn cidrs(key: &str, name: &str, list: &[String]) -> Result<CidrSet, Refusal> {
    CidrSet::new(list).map_err(|error| Refusal::new(key, error).context(name))
}

fn ports(key: &str, ports: &[u16], ranges: &[String]) -> Result<Option<PortSet>, Refusal> {
    if ports.is_empty() && ranges.is_empty() {
        return Ok(None);
    }
    PortSet::new(ports, ranges).map(Some).map_err(|error| Refusal::new(key, error).context(key))
}
