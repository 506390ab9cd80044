//! What happens when a DNS rule matches.

use crate::decode::{Listable, Map, ObjectCursor, Options, Prefixable};
use crate::json_schema::ObjectSchema;
use crate::options::rule::Variant;
use crate::options::{DnsRecord, DomainStrategy, Rcode, RejectAction};
use crate::{ConfigError, options};

options! {
    /// Options for the query that `route` and `route-options` set.
    pub struct DnsRouteOptionsAction ("option._DNSRouteOptionsActionOptions") {
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

options! {
    /// Ask a server.
    pub struct DnsRouteAction ("option.DNSRouteActionOptions") {
        /// Tag of the DNS server.
        pub server: String = "server",
        /// Options for the query.
        pub options: DnsRouteOptionsAction = flatten,
    }
}

options! {
    /// Answer with fixed records.
    pub struct DnsPredefinedAction ("option.DNSRouteActionPredefined") {
        /// Response code, by name or number; NOERROR by default.
        pub rcode: Option<Rcode> = "rcode",
        /// Records of the answer section, as lines of a zone file.
        pub answer: Listable<DnsRecord> = "answer",
        /// Records of the authority section.
        pub ns: Listable<DnsRecord> = "ns",
        /// Records of the additional section.
        pub extra: Listable<DnsRecord> = "extra",
    }
}

/// What happens when a DNS rule matches.
#[derive(Clone, Debug, PartialEq)]
pub enum DnsRuleAction {
    /// Ask a server; final.
    Route(DnsRouteAction),
    /// Set options and go on with the next rule.
    RouteOptions(DnsRouteOptionsAction),
    /// Refuse the query; final.
    Reject(RejectAction),
    /// Answer with fixed records; final.
    Predefined(DnsPredefinedAction),
}

impl Default for DnsRuleAction {
    fn default() -> Self {
        Self::Route(DnsRouteAction::default())
    }
}

impl DnsRuleAction {
    /// The word in `action`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Route(_) => "route",
            Self::RouteOptions(_) => "route-options",
            Self::Reject(_) => "reject",
            Self::Predefined(_) => "predefined",
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
                let options = DnsRouteOptionsAction::decode_fields(&mut object);
                object.check(|| {
                    if options == DnsRouteOptionsAction::default() {
                        return Err("empty DNS route option action".to_owned());
                    }
                    Ok(())
                });
                Self::RouteOptions(options)
            }
            "reject" => {
                loose = true;
                Self::Reject(Options::decode_fields(&mut object))
            }
            "predefined" => Self::Predefined(Options::decode_fields(&mut object)),
            other => {
                return Err(object.cursor().error(format!("unknown DNS rule action: {other}")));
            }
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
            Self::Reject(options) => options.encode_fields(out),
            Self::Predefined(options) => options.encode_fields(out),
        }
    }

    /// Every action with what describes its members and tells whether others pass.
    pub(crate) fn variants() -> [Variant; 4] {
        fn of<T: Options>(object: &mut ObjectSchema<'_>) -> bool {
            object.flatten::<T>();
            T::LOOSE
        }
        [
            ("route", of::<DnsRouteAction>),
            ("route-options", |object| {
                object.flatten::<DnsRouteOptionsAction>();
                true
            }),
            ("reject", of::<RejectAction>),
            ("predefined", of::<DnsPredefinedAction>),
        ]
    }
}
