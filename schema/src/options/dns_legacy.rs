//! DNS servers in the form before 1.12: an `address` such as `tls://1.1.1.1` instead of a type.

use crate::component::{LegacyDns, RawComponent};
use crate::decode::{Cursor, Duration, Field, Map, Options, Prefixable};
use crate::json::{Node, Object, Span, Value};
use crate::options::{
    DomainResolver, DomainResolverObject, DomainStrategy, LegacyFakeIpOptions, Rcode,
};
use crate::{ConfigError, options};

options! {
    /// A DNS server in its old form.
    pub struct LegacyDnsServerOptions ("option.LegacyDNSServerOptions") {
        /// Where it is, with a scheme: none for UDP, tcp, tls, https, quic, h3, rcode, dhcp; or `local`, `fakeip`.
        pub address: String = "address" always,
        /// Tag of the DNS server that resolves its name.
        pub address_resolver: String = "address_resolver",
        /// Which IP versions of its name to use.
        pub address_strategy: DomainStrategy = "address_strategy",
        /// How long to wait before trying its next address.
        pub address_fallback_delay: Duration = "address_fallback_delay",
        /// Which IP versions to ask it for.
        pub strategy: DomainStrategy = "strategy",
        /// Tag of the outbound to reach it through.
        pub detour: String = "detour",
        /// Send this client subnet with queries.
        pub client_subnet: Option<Prefixable> = "client_subnet",
    }
}

/// What became of an old-style server.
pub(crate) enum Upgraded {
    /// A server in its new form.
    Server(Box<RawComponent>),
    /// A tag that answers with a code.
    Rcode(String, Rcode),
}

/// `scheme://host:port/path`, taken apart as far as DNS servers need it.
struct Address<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
}

impl<'a> Address<'a> {
    fn parse(text: &'a str) -> Self {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) && rest.starts_with("//") => (scheme, rest),
            _ => return Self { scheme: "", authority: text, path: "" },
        };
        let rest = rest.get(2..).unwrap_or_default();
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // A user before the host is no part of the address.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        Self { scheme, authority, path }
    }

    /// Host and port; port 0 where there is none. `None` where there is no host.
    fn host(&self) -> Option<(String, u16)> {
        let text = self.authority;
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        } else {
            match text.rsplit_once(':') {
                // More than one colon: an IPv6 address without a port.
                Some((host, port)) if !host.contains(':') => (host, port),
                _ => (text, ""),
            }
        };
        let port = if port.is_empty() { 0 } else { port.parse().ok()? };
        // Go's address type unmaps and normalises addresses.
        let host = host
            .parse::<std::net::IpAddr>()
            .map_or_else(|_| host.to_owned(), |ip| ip.to_canonical().to_string());
        (!host.is_empty()).then_some((host, port))
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Brings an old-style server into its new form.
pub(crate) fn upgrade(
    mut server: RawComponent,
    cursor: &Cursor<'_>,
    fakeip: Option<&LegacyFakeIpOptions>,
) -> Result<Upgraded, ConfigError> {
    let old = LegacyDnsServerOptions::decode_object(
        &Cursor::new(&server.options, &server.path, cursor.context()).pruned(),
    )?;
    let address = Address::parse(&old.address);
    let scheme = address.scheme.to_ascii_lowercase();
    let type_name = match (scheme.as_str(), old.address.as_str()) {
        ("", "local" | "fakeip") => old.address.as_str(),
        ("", _) => "udp",
        (scheme, _) => scheme,
    };
    let invalid = || cursor.error("invalid server address");
    let mut new = Map::new();
    let default_port = match type_name {
        "local" => {
            encode_dial(&old, &mut new);
            None
        }
        "udp" | "tcp" => Some(53),
        "tls" | "quic" => Some(853),
        "https" | "h3" => Some(443),
        "rcode" => {
            let code = match address.authority {
                "success" => 0,
                "format_error" => 1,
                "server_failure" => 2,
                "name_error" => 3,
                "not_implemented" => 4,
                "refused" => 5,
                other => return Err(cursor.error(format!("unknown rcode: {other}"))),
            };
            return Ok(Upgraded::Rcode(server.tag, Rcode(code)));
        }
        "dhcp" => {
            if !matches!(address.authority, "" | "auto") {
                new.insert("interface".to_owned(), address.authority.into());
            }
            None
        }
        "fakeip" => {
            if let Some(fakeip) = fakeip {
                for (key, range) in
                    [("inet4_range", fakeip.inet4_range), ("inet6_range", fakeip.inet6_range)]
                {
                    new.extend(range.map(|range| (key.to_owned(), range.to_json())));
                }
            }
            None
        }
        other => return Err(cursor.error(format!("unsupported DNS server scheme: {other}"))),
    };
    if let Some(default_port) = default_port {
        encode_dial(&old, &mut new);
        let (host, port) = address.host().ok_or_else(invalid)?;
        new.insert("server".to_owned(), host.into());
        if port != 0 && port != default_port {
            new.insert("server_port".to_owned(), port.into());
        }
        if matches!(type_name, "https" | "h3")
            && address.path != "/dns-query"
            && !address.path.is_empty()
        {
            new.insert("path".to_owned(), address.path.into());
        }
    }
    server.type_name = type_name.to_owned();
    server.options = to_node(&new.into(), server.options.span);
    server.legacy_dns = Some(Box::new(LegacyDns {
        strategy: old.strategy,
        default_dialer: old.detour.is_empty(),
        client_subnet: old.client_subnet,
        address_resolver: old.address_resolver,
        address_strategy: old.address_strategy,
        address_fallback_delay: old.address_fallback_delay,
    }));
    Ok(Upgraded::Server(Box::new(server)))
}

fn encode_dial(old: &LegacyDnsServerOptions, out: &mut Map) {
    out.extend(old.detour.encode().map(|detour| ("detour".to_owned(), detour)));
    if !old.address_resolver.is_empty() {
        let resolver = DomainResolver(DomainResolverObject {
            server: old.address_resolver.clone(),
            strategy: old.address_strategy,
            ..DomainResolverObject::default()
        });
        out.insert("domain_resolver".to_owned(), resolver.to_json());
    }
    out.extend(
        old.address_fallback_delay.encode().map(|delay| ("fallback_delay".to_owned(), delay)),
    );
}

/// A tree whose every part reports the place of the old server.
fn to_node(value: &serde_json::Value, span: Span) -> Node {
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => Value::Number(number.to_string()),
        serde_json::Value::String(text) => Value::String(text.clone()),
        serde_json::Value::Array(items) => {
            Value::Array(items.iter().map(|item| to_node(item, span)).collect())
        }
        serde_json::Value::Object(members) => {
            let mut object = Object::default();
            for (key, value) in members {
                object.put(key.as_str(), to_node(value, span));
            }
            Value::Object(object)
        }
    };
    Node::new(value, span)
}
