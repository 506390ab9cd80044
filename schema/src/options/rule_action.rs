//! What happens when a rule of the router matches.

use std::borrow::Cow;

use crate::decode::{
    Check, Cursor, Duration, Field, Listable, Map, ObjectCursor, Options, Prefixable,
};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::options::rule::Variant;
use crate::options::{DialOptions, DomainStrategy, NetworkStrategy};
use crate::{ConfigError, options};

options! {
    /// Options for the connection that `route` and `route-options` set.
    pub struct RouteOptionsAction ("option.RawRouteOptionsActionOptions") {
        /// Connect to this address instead.
        pub override_address: String = "override_address",
        /// Connect to this port instead.
        pub override_port: u16 = "override_port",
        /// Which networks of the device to use.
        pub network_strategy: Option<NetworkStrategy> = "network_strategy",
        /// Wait before the next network, in nanoseconds.
        pub fallback_delay: u32 = "fallback_delay",
        /// Answer UDP from the address instead of the domain.
        pub udp_disable_domain_unmapping: bool = "udp_disable_domain_unmapping",
        /// Connect UDP sockets.
        pub udp_connect: bool = "udp_connect",
        /// Idle time after which a UDP association ends.
        pub udp_timeout: Duration = "udp_timeout",
        /// Split TLS handshakes into TCP segments.
        pub tls_fragment: bool = "tls_fragment",
        /// Time between the segments where the kernel cannot tell that one arrived; 500 ms by default.
        pub tls_fragment_fallback_delay: Duration = "tls_fragment_fallback_delay",
        /// Split TLS handshakes into TLS records.
        pub tls_record_fragment: bool = "tls_record_fragment",
    }
}

options! {
    /// Carry the connection through an outbound.
    pub struct RouteAction ("option.RouteActionOptions") {
        /// Tag of the outbound.
        pub outbound: String = "outbound",
        /// Options for the connection.
        pub options: RouteOptionsAction = flatten,
    }
}

options! {
    /// Refuse the connection; unknown members pass.
    pub struct RejectAction ("option._RejectActionOptions") loose checked {
        /// `default` (reset or refuse) or `drop`.
        pub method: RejectMethod = "method",
        /// Never turn into `drop`, however often it happens.
        pub no_drop: bool = "no_drop",
    }
}

/// How a connection is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RejectMethod {
    /// TCP reset or ICMP port unreachable.
    #[default]
    Default,
    /// No answer.
    Drop,
    /// Any other word; no rule that was decoded has it, because the rule is refused as a whole.
    Unknown(String),
}

impl Field for RejectMethod {
    fn absent() -> Self {
        Self::Default
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Ok(match cursor.string()? {
            "" | "default" => Self::Default,
            "drop" => Self::Drop,
            other => Self::Unknown(other.to_owned()),
        })
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Default => "default".into(),
            Self::Drop => "drop".into(),
            Self::Unknown(word) => word.as_str().into(),
        }
    }

    fn go_type() -> Cow<'static, str> {
        "string".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        serde_json::json!({"enum": ["", "default", "drop"]})
    }
}

options! {
    /// Find out the protocol.
    pub struct SniffAction ("option.RouteActionSniff") {
        /// Sniffers to use; all by default.
        pub sniffer: Listable<String> = "sniffer",
        /// Time to wait for data; 300 ms by default.
        pub timeout: Duration = "timeout",
    }
}

options! {
    /// Resolve the destination's domain.
    pub struct ResolveAction ("option.RouteActionResolve") {
        /// Tag of the DNS server; by DNS rules when empty.
        pub server: String = "server",
        /// Which IP versions to ask for.
        pub strategy: DomainStrategy = "strategy",
        /// Do not use the DNS cache.
        pub disable_cache: bool = "disable_cache",
        /// Give the answer this TTL, in seconds.
        pub rewrite_ttl: Option<u32> = "rewrite_ttl",
        /// Send this client subnet with the query.
        pub client_subnet: Option<Prefixable> = "client_subnet",
    }
}

impl Check for RejectAction {
    fn check(&self) -> Result<(), String> {
        match &self.method {
            RejectMethod::Unknown(word) => Err(format!("unknown reject method: {word}")),
            RejectMethod::Drop if self.no_drop => {
                Err("no_drop is not available in current context".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl RouteOptionsAction {
    /// What the action `route-options`, but not `route`, demands.
    fn check_alone(&self) -> Result<(), String> {
        if *self == Self::default() {
            return Err("empty route option action".to_owned());
        }
        if self.tls_fragment && self.tls_record_fragment {
            return Err(
                "`tls_fragment` and `tls_record_fragment` are mutually exclusive".to_owned()
            );
        }
        Ok(())
    }
}

/// What happens when a rule of the router matches.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleAction {
    /// Carry the connection through an outbound; final.
    Route(RouteAction),
    /// Set options and go on with the next rule.
    RouteOptions(RouteOptionsAction),
    /// Dial directly with options of its own; undocumented, and not final in the reference.
    Direct(Box<DialOptions>),
    /// Refuse the connection; final.
    Reject(RejectAction),
    /// Answer as a DNS server; final.
    HijackDns,
    /// Find out the protocol and go on.
    Sniff(SniffAction),
    /// Resolve the destination and go on.
    Resolve(ResolveAction),
}

impl Default for RuleAction {
    fn default() -> Self {
        Self::Route(RouteAction::default())
    }
}

impl RuleAction {
    /// The word in `action`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Route(_) => "route",
            Self::RouteOptions(_) => "route-options",
            Self::Direct(_) => "direct",
            Self::Reject(_) => "reject",
            Self::HijackDns => "hijack-dns",
            Self::Sniff(_) => "sniff",
            Self::Resolve(_) => "resolve",
        }
    }

    /// Takes the action out of what the matchers left of a rule, and ends the rule.
    pub(crate) fn decode_rest(mut object: ObjectCursor<'_>) -> Result<Self, ConfigError> {
        object.splitting(true);
        let word: String = object.field("action");
        object.end_pass()?;
        object.splitting(false);
        let mut loose = false;
        let action = match word.as_str() {
            "" | "route" => Self::Route(Options::decode_fields(&mut object)),
            "route-options" => {
                loose = true;
                let options = RouteOptionsAction::decode_fields(&mut object);
                object.check(|| options.check_alone());
                Self::RouteOptions(options)
            }
            "direct" => {
                loose = true;
                let options = Box::new(DialOptions::decode_fields(&mut object));
                object.check(|| match options.detour.as_str() {
                    "" => Ok(()),
                    _ => Err("detour is not available in the current context".to_owned()),
                });
                Self::Direct(options)
            }
            "reject" => {
                loose = true;
                Self::Reject(Options::decode_fields(&mut object))
            }
            "hijack-dns" => Self::HijackDns,
            "sniff" => Self::Sniff(Options::decode_fields(&mut object)),
            "resolve" => Self::Resolve(Options::decode_fields(&mut object)),
            other => return Err(object.cursor().error(format!("unknown rule action: {other}"))),
        };
        object.finish(loose)?;
        Ok(action)
    }

    /// Writes the action beside the matchers.
    pub(crate) fn encode_into(&self, out: &mut Map) {
        if !matches!(self, Self::Route(_)) {
            out.insert("action".to_owned(), self.name().into());
        }
        match self {
            Self::Route(options) => options.encode_fields(out),
            Self::RouteOptions(options) => options.encode_fields(out),
            Self::Direct(options) => options.encode_fields(out),
            Self::Reject(options) => options.encode_fields(out),
            Self::HijackDns => {}
            Self::Sniff(options) => options.encode_fields(out),
            Self::Resolve(options) => options.encode_fields(out),
        }
    }

    /// Every action with what describes its members and tells whether others pass.
    pub(crate) fn variants() -> [Variant; 7] {
        fn of<T: Options>(object: &mut ObjectSchema<'_>) -> bool {
            object.flatten::<T>();
            T::LOOSE
        }
        fn loose<T: Options>(object: &mut ObjectSchema<'_>) -> bool {
            object.flatten::<T>();
            true
        }
        [
            ("route", of::<RouteAction>),
            ("route-options", loose::<RouteOptionsAction>),
            ("direct", loose::<DialOptions>),
            ("reject", of::<RejectAction>),
            ("hijack-dns", |_| false),
            ("sniff", of::<SniffAction>),
            ("resolve", of::<ResolveAction>),
        ]
    }
}
