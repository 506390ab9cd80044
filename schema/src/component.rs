//! Typed components before a plugin has read their options.

use crate::decode::{Context, Cursor, ObjectCursor, Options};
use crate::json::{Location, Node, Object, Span, Value};
use crate::notice::Deprecation;
use crate::{ConfigError, Notices};

/// What sort of component a configuration may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Accepts connections or packets: `inbounds`.
    Inbound,
    /// Carries them on: `outbounds`.
    Outbound,
    /// Both at once: `endpoints`.
    Endpoint,
    /// Answers DNS queries: `dns.servers`.
    DnsServer,
    /// Anything else that runs: `services`.
    Service,
}

impl Kind {
    /// All kinds in the order of the reference's start.
    pub const ALL: [Self; 5] =
        [Self::DnsServer, Self::Endpoint, Self::Inbound, Self::Outbound, Self::Service];

    /// One word, for logs, tags of metrics and the control channel.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Endpoint => "endpoint",
            Self::DnsServer => "dns",
            Self::Service => "service",
        }
    }

    /// The kind of [`Self::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where the list of these components stands in the configuration.
    #[must_use]
    pub fn list_path(self) -> &'static str {
        match self {
            Self::Inbound => "inbounds",
            Self::Outbound => "outbounds",
            Self::Endpoint => "endpoints",
            Self::DnsServer => "dns.servers",
            Self::Service => "services",
        }
    }

    /// `inbound[0]`, `DNS server[1]`: how errors in making a component name it.
    #[must_use]
    pub fn indexed(self, index: usize) -> String {
        let name = if self == Self::DnsServer { "DNS server" } else { self.name() };
        format!("{name}[{index}]")
    }

    /// The reference's type for the part that all components of this kind have.
    fn go_type(self) -> &'static str {
        match self {
            Self::Inbound => "option._Inbound",
            Self::Outbound => "option._Outbound",
            Self::Endpoint => "option._Endpoint",
            Self::DnsServer => "option._DNSServerOptions",
            Self::Service => "option._Service",
        }
    }

    /// The reference's words for a type that it does not know; services are called inbounds there.
    #[must_use]
    pub fn unknown_type(self, type_name: &str) -> String {
        match self {
            Self::Inbound | Self::Service => format!("unknown inbound type: {type_name}"),
            Self::Outbound => format!("unknown outbound type: {type_name}"),
            Self::Endpoint => format!("unknown endpoint type: {type_name}"),
            Self::DnsServer => format!("unknown transport type: {type_name}"),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A component with its type and tag, its options still undecoded.
#[derive(Clone, Debug, PartialEq)]
pub struct RawComponent {
    /// The sort of component.
    pub kind: Kind,
    /// `type`; empty where it is missing.
    pub type_name: String,
    /// `tag` as written, mostly empty where it is missing; [`Self::label`] never is.
    pub tag: String,
    /// Place in its list.
    pub index: usize,
    /// The object without `type` and `tag`.
    pub options: Node,
    /// Its JSON path, `inbounds[0]`.
    pub path: String,
    /// What an old-style DNS server says beyond the options of its new form.
    pub legacy_dns: Option<Box<LegacyDns>>,
}

/// What an old-style DNS server brings along that the new form has no option for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LegacyDns {
    /// Strategy for queries through this server.
    pub strategy: crate::options::DomainStrategy,
    /// Use the default outbound, because no detour was written; the new form dials directly.
    pub default_dialer: bool,
    /// Client subnet for queries through this server.
    pub client_subnet: Option<crate::decode::Prefixable>,
    /// The DNS server that resolves this server's name.
    pub address_resolver: String,
    /// Strategy for resolving this server's name.
    pub address_strategy: crate::options::DomainStrategy,
    /// Delay between attempts on several addresses.
    pub address_fallback_delay: crate::decode::Duration,
}

impl RawComponent {
    /// Splits `type` and `tag` off an element of a component list.
    ///
    /// # Errors
    /// It is no object, or `type` or `tag` is no string.
    pub fn split(kind: Kind, index: usize, cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        // The reference reads `null` as an object without members.
        let empty = Node::object(cursor.node().span);
        let cursor = &if cursor.node().is_null() { cursor.with_node(&empty) } else { *cursor };
        let mut object = ObjectCursor::new(cursor, kind.go_type())?;
        // Read in any case of letters but removed as written only, so that `Type` is an unknown field afterwards.
        let type_name = object.field::<String>("type");
        let tag = object.field::<String>("tag");
        object.finish(true)?;
        let rest = cursor.node().as_object().into_iter().flat_map(|o| &o.members);
        let members = rest.filter(|m| m.key != "type" && m.key != "tag").cloned().collect();
        let options = Node::new(Value::Object(Object { members }), cursor.node().span);
        Ok(Self { kind, type_name, tag, index, options, path: cursor.path(), legacy_dns: None })
    }

    /// The tag, or the index where there is none: the name the reference gives it.
    #[must_use]
    pub fn label(&self) -> String {
        if self.tag.is_empty() { self.index.to_string() } else { self.tag.clone() }
    }

    /// The place of the whole component.
    #[must_use]
    pub fn span(&self) -> Span {
        self.options.span
    }

    /// The component with `type` and `tag` in front of its options.
    #[must_use]
    pub fn to_json_with(&self, options: serde_json::Value) -> serde_json::Value {
        let mut out = crate::decode::Map::new();
        out.insert("type".to_owned(), self.type_name.as_str().into());
        if !self.tag.is_empty() {
            out.insert("tag".to_owned(), self.tag.as_str().into());
        }
        if let serde_json::Value::Object(members) = options {
            out.extend(members);
        }
        out.into()
    }

    /// The component as it was written.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.to_json_with(crate::json::to_json(&self.options))
    }

    /// The error for a type that no plugin has: the reference's words, with the nearest type that there is.
    #[must_use]
    pub fn unknown_type(&self, cx: &Context, known: &[&'static str]) -> ConfigError {
        let mut error =
            ConfigError::new(self.path.clone(), self.kind.unknown_type(&self.type_name));
        error.location = cx.locate(self.span()).map(Box::new);
        error.hint = crate::decode::nearest(&self.type_name, known)
            .map(|name| format!("did you mean `{name}`?"));
        error
    }

    /// What a plugin's `parse` gets.
    #[must_use]
    pub fn raw<'a>(&'a self, cx: &'a Context) -> RawOptions<'a> {
        RawOptions { component: self, cx }
    }
}

/// A component's options as a plugin's `parse` gets them: its object without `type` and `tag`.
#[derive(Clone, Copy, Debug)]
pub struct RawOptions<'a> {
    component: &'a RawComponent,
    cx: &'a Context,
}

impl<'a> RawOptions<'a> {
    /// Decodes the options; unknown members are refused.
    ///
    /// # Errors
    /// The first error in the order of the document.
    pub fn parse<T: Options>(&self) -> Result<T, ConfigError> {
        T::decode_object(&self.cursor())
    }

    /// Decodes the options and prints them in canonical form.
    ///
    /// # Errors
    /// Those of [`Self::parse`].
    pub fn canonical<T: Options>(&self) -> Result<crate::decode::Map, ConfigError> {
        self.parse::<T>().map(|options| options.to_map())
    }

    /// The object itself, for options that need more than [`Self::parse`].
    #[must_use]
    pub fn cursor(&self) -> Cursor<'a> {
        Cursor::new(&self.component.options, &self.component.path, self.cx).pruned()
    }

    /// The component.
    #[must_use]
    pub fn component(&self) -> &'a RawComponent {
        self.component
    }

    /// Its type.
    #[must_use]
    pub fn type_name(&self) -> &'a str {
        &self.component.type_name
    }

    /// Its tag as written; empty where there is none.
    #[must_use]
    pub fn tag(&self) -> &'a str {
        &self.component.tag
    }

    /// Its tag, or its index where there is none.
    #[must_use]
    pub fn label(&self) -> String {
        self.component.label()
    }

    /// The place of the component, or of one of its options (`key` may be dotted: `tls.certificate`).
    #[must_use]
    pub fn location(&self, key: Option<&str>) -> Option<Location> {
        let mut node = &self.component.options;
        for part in key.into_iter().flat_map(|key| key.split('.')) {
            let member =
                node.as_object()?.members.iter().find(|m| m.key.eq_ignore_ascii_case(part));
            node = &member?.value;
        }
        self.cx.locate(node.span)
    }

    /// Options that decode but make no component: `initialize inbound[0]: message`.
    pub fn invalid(&self, message: impl Into<String>) -> ConfigError {
        ConfigError::initialize(self.component.kind.indexed(self.component.index), message)
            .in_path(self.component.path.clone())
            .at(self.location(None))
    }

    /// Like [`Self::invalid`], showing the place of one option.
    pub fn invalid_at(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let error = self.invalid(message).in_path(format!("{}.{key}", self.component.path));
        error.at(self.location(Some(key)).or_else(|| self.location(None)))
    }

    /// Notes the use of a deprecated feature.
    pub fn deprecated(&self, notice: &'static Deprecation) {
        self.cx.notices.push(notice);
    }

    /// The collector of deprecations.
    #[must_use]
    pub fn notices(&self) -> &'a Notices {
        &self.cx.notices
    }

    /// Files and notices.
    #[must_use]
    pub fn context(&self) -> &'a Context {
        self.cx
    }
}
