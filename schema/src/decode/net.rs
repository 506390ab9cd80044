//! Addresses, prefixes and networks.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::json;

use super::addr_error;
use super::{Cursor, Field, Listable, quote};
use crate::ConfigError;
use crate::json_schema::SchemaBuilder;

/// An IP address, for IPv6 with an optional zone (`fe80::1%eth0`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Addr {
    /// The address.
    pub ip: IpAddr,
    /// The zone of a scoped IPv6 address: an interface name or number; mostly empty.
    pub zone: String,
}

impl Addr {
    /// Parses Go's `netip.ParseAddr` forms.
    ///
    /// # Errors
    /// Go's message, e.g. `ParseAddr("localhost"): unable to parse IP`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("ParseAddr({}): {why}", quote(text));
        match text.chars().find(|c| matches!(c, '.' | ':' | '%')) {
            Some('.') => {
                let ip: Ipv4Addr = text.parse().map_err(|_| fail(&addr_error::v4(text)))?;
                Ok(ip.into())
            }
            Some(':') => {
                let (address, zone) = match text.split_once('%') {
                    Some((_, "")) => return Err(fail("zone must be a non-empty string")),
                    Some(parts) => parts,
                    None => (text, ""),
                };
                let ip: Ipv6Addr = address.parse().map_err(|_| fail(&addr_error::v6(address)))?;
                Ok(Self { ip: ip.into(), zone: zone.to_owned() })
            }
            Some(_) => Err(fail("missing IPv6 address")),
            None => Err(fail("unable to parse IP")),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self { ip: ip.into(), zone: String::new() }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        if !self.zone.is_empty() {
            write!(f, "%{}", self.zone)?;
        }
        Ok(())
    }
}

/// An address with a prefix length. Bits beyond the prefix stay as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address.
    pub addr: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

impl Prefix {
    /// Parses Go's `netip.ParsePrefix` forms.
    ///
    /// # Errors
    /// Go's message, e.g. `netip.ParsePrefix("x"): no '/'`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: String| format!("netip.ParsePrefix({}): {why}", quote(text));
        let (address, bits) = text.rsplit_once('/').ok_or_else(|| fail("no '/'".to_owned()))?;
        let address = Addr::parse(address).map_err(fail)?;
        if !address.zone.is_empty() {
            return Err(fail("IPv6 zones cannot be present in a prefix".to_owned()));
        }
        let plain =
            bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
        let bits = match bits.parse::<i64>() {
            Ok(number) if plain => number,
            _ => {
                return Err(fail(format!("bad bits after slash: {}", quote(bits))));
            }
        };
        let limit = if address.ip.is_ipv4() { 32 } else { 128 };
        match u8::try_from(bits) {
            Ok(bits) if bits <= limit => Ok(Self { addr: address.ip, bits }),
            _ => Err(fail("prefix length out of range".to_owned())),
        }
    }

    /// The prefix of one address.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, bits: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it holds one address only.
    #[must_use]
    pub fn is_host(&self) -> bool {
        *self == Self::host(self.addr)
    }

    /// For matching; the length was checked when it was parsed.
    #[must_use]
    pub fn net(&self) -> ipnet::IpNet {
        ipnet::IpNet::new(self.addr, self.bits).unwrap_or_else(|_| self.addr.into())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

/// A prefix, or an address that stands for the prefix of it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefixable(pub Prefix);

impl Prefixable {
    /// Parses either form.
    ///
    /// # Errors
    /// The reason why it is no prefix.
    pub fn parse(text: &str) -> Result<Self, String> {
        Prefix::parse(text)
            .or_else(|error| Addr::parse(text).map(|a| Prefix::host(a.ip)).map_err(|_| error))
            .map(Self)
    }
}

impl fmt::Display for Prefixable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_host() { self.0.addr.fmt(f) } else { self.0.fmt(f) }
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

macro_rules! text_fields {
    ($($ty:ty, $absent:expr, $go:literal, $description:literal;)*) => {$(
        impl Field for $ty {
            fn absent() -> Self {
                $absent
            }

            fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
                Self::parse(cursor.string()?).map_err(|message| cursor.error(message))
            }

            fn to_json(&self) -> serde_json::Value {
                self.to_string().into()
            }

            // These stand in an option or a list, where every value is printed.
            fn is_absent(&self) -> bool {
                false
            }

            fn go_type() -> Cow<'static, str> {
                $go.into()
            }

            fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
                json!({"type": "string", "description": $description})
            }
        }
    )*};
}

text_fields! {
    Addr, Self { ip: UNSPECIFIED, zone: String::new() }, "badoption.Addr", "IP address";
    Prefix, Self { addr: UNSPECIFIED, bits: 0 }, "badoption.Prefix", "IP prefix, e.g. 10.0.0.0/8";
    Prefixable, Self(Prefix::absent()), "badoption.Prefixable", "IP prefix or address";
}

macro_rules! text_unmarshalers {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ty) = $go:literal;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub $inner);

        impl Field for $name {
            fn absent() -> Self {
                Self(<$inner>::absent())
            }

            fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
                // Go names a pointer to the target where a text unmarshaler meets no string.
                let text = cursor.node().as_str().ok_or_else(|| cursor.mismatch(concat!("**", $go)))?;
                <$inner>::parse(text).map(Self).map_err(|message| cursor.error(message))
            }

            fn to_json(&self) -> serde_json::Value {
                self.0.to_json()
            }

            fn is_absent(&self) -> bool {
                false
            }

            fn go_type() -> Cow<'static, str> {
                $go.into()
            }

            fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
                <$inner>::schema(builder)
            }
        }
    )*};
}

text_unmarshalers! {
    /// [`Addr`] where the reference uses `netip.Addr` itself; differs in error messages only.
    TextAddr(Addr) = "netip.Addr";
    /// [`Prefix`] where the reference uses `netip.Prefix` itself; differs in error messages only.
    TextPrefix(Prefix) = "netip.Prefix";
}

crate::string_enum! {
    /// A transport protocol.
    pub enum Network: "unknown network: " {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// The networks that a component serves; none written means both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkList(Listable<Network>);

impl NetworkList {
    /// Whether the component serves this network.
    #[must_use]
    pub fn has(&self, network: Network) -> bool {
        self.0.is_empty() || self.0.contains(&network)
    }

    /// Whether it serves TCP.
    #[must_use]
    pub fn tcp(&self) -> bool {
        self.has(Network::Tcp)
    }

    /// Whether it serves UDP.
    #[must_use]
    pub fn udp(&self) -> bool {
        self.has(Network::Udp)
    }
}

impl From<Vec<Network>> for NetworkList {
    fn from(list: Vec<Network>) -> Self {
        Self(Listable(list))
    }
}

impl Field for NetworkList {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let word = |cursor: &Cursor<'_>, text: &str| {
            Network::from_word(text).ok_or_else(|| cursor.error(format!("unknown network: {text}")))
        };
        let Some(items) = cursor.node().as_array() else {
            return Ok(Self(Listable(vec![word(cursor, cursor.string()?)?])));
        };
        // A list with anything but strings in it is reported as no string, being tried as a list first.
        let texts = items.iter().map(|item| if item.is_null() { Some("") } else { item.as_str() });
        let texts: Vec<&str> =
            texts.collect::<Option<_>>().ok_or_else(|| cursor.mismatch("string"))?;
        texts.into_iter().map(|text| word(cursor, text)).collect::<Result<_, _>>().map(Self)
    }

    fn to_json(&self) -> serde_json::Value {
        self.0.to_json()
    }

    fn go_type() -> Cow<'static, str> {
        "option.NetworkList".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        Listable::<Network>::schema(builder)
    }
}
