//! The root of the configuration.

use std::collections::HashMap;

use crate::component::{Kind, RawComponent};
use crate::decode::{Context, Cursor, Field, Map, ObjectCursor, prune};
use crate::json::{Node, Span};
use crate::options::{
    CertificateOptions, CrosspointOptions, DnsOptions, ExperimentalOptions, LogOptions, NtpOptions,
    RouteOptions,
};
use crate::{ConfigError, notice};

/// A whole configuration, the options of its components still undecoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `$schema`: for editors.
    pub schema: String,
    /// Logging.
    pub log: Option<LogOptions>,
    /// DNS.
    pub dns: Option<DnsOptions>,
    /// The clock.
    pub ntp: Option<NtpOptions>,
    /// Trusted certificates.
    pub certificate: Option<CertificateOptions>,
    /// Endpoints.
    pub endpoints: Vec<RawComponent>,
    /// Inbounds.
    pub inbounds: Vec<RawComponent>,
    /// Outbounds.
    pub outbounds: Vec<RawComponent>,
    /// Routing.
    pub route: Option<RouteOptions>,
    /// Services.
    pub services: Vec<RawComponent>,
    /// Cache and APIs.
    pub experimental: Option<ExperimentalOptions>,
    /// Options of our own.
    pub crosspoint: Option<CrosspointOptions>,
}

impl Config {
    /// Decodes a configuration. Deprecations go to the context's notices.
    ///
    /// # Errors
    /// The first error in the order of the document, or a tag used twice.
    pub fn decode(root: &Node, cx: &Context) -> Result<Self, ConfigError> {
        let cursor = Cursor::new(root, "", cx);
        // The reference takes a document `null` for an empty one.
        let empty = Node::object(root.span);
        let cursor = if root.is_null() { cursor.with_node(&empty) } else { cursor };
        let mut object = ObjectCursor::new(&cursor, "option._Options")?;
        let config = Self {
            schema: object.field("$schema"),
            log: object.field("log"),
            dns: object.field("dns"),
            ntp: object.field("ntp"),
            certificate: object.field("certificate"),
            endpoints: components(&mut object, "endpoints", Kind::Endpoint),
            inbounds: components(&mut object, "inbounds", Kind::Inbound),
            outbounds: components(&mut object, "outbounds", Kind::Outbound),
            route: object.field("route"),
            services: components(&mut object, "services", Kind::Service),
            experimental: object.field("experimental"),
            crosspoint: object.field("crosspoint"),
        };
        object.finish(false)?;
        unique(&config.inbounds, &[], "inbound", cx)?;
        unique(&config.outbounds, &config.endpoints, "outbound/endpoint", cx)?;
        if config.outbounds.iter().any(|outbound| outbound.type_name == "dns") {
            cx.notices.push(&notice::SPECIAL_OUTBOUNDS);
        }
        Ok(config)
    }

    /// The components of one kind.
    #[must_use]
    pub fn components(&self, kind: Kind) -> &[RawComponent] {
        match kind {
            Kind::Inbound => &self.inbounds,
            Kind::Outbound => &self.outbounds,
            Kind::Endpoint => &self.endpoints,
            Kind::Service => &self.services,
            Kind::DnsServer => self.dns.as_ref().map_or(&[], |dns| &dns.servers),
        }
    }

    /// All components, in the order in which the reference decodes a file that has its sections in the usual order.
    pub fn all_components(&self) -> impl Iterator<Item = &RawComponent> {
        [Kind::DnsServer, Kind::Endpoint, Kind::Inbound, Kind::Outbound, Kind::Service]
            .into_iter()
            .flat_map(|kind| self.components(kind))
    }

    /// What `format` prints. The function prints the options of a component, without `type` and `tag`.
    pub fn canonical(
        &self,
        options: impl Fn(&RawComponent) -> serde_json::Value,
    ) -> serde_json::Value {
        let component = |raw: &RawComponent| raw.to_json_with(options(raw));
        let list = |raws: &[RawComponent]| {
            (!raws.is_empty()).then(|| raws.iter().map(component).collect())
        };
        let members: [(&str, Option<serde_json::Value>); 12] = [
            ("$schema", self.schema.encode()),
            ("log", self.log.encode()),
            ("dns", self.dns.as_ref().map(|dns| dns.to_json_with(component))),
            ("ntp", self.ntp.encode()),
            ("certificate", self.certificate.encode()),
            ("endpoints", list(&self.endpoints)),
            ("inbounds", list(&self.inbounds)),
            ("outbounds", list(&self.outbounds)),
            ("route", self.route.encode()),
            ("services", list(&self.services)),
            ("experimental", self.experimental.encode()),
            ("crosspoint", self.crosspoint.encode()),
        ];
        let members: Map =
            members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        prune(members.into())
    }
}

fn components(object: &mut ObjectCursor<'_>, key: &'static str, kind: Kind) -> Vec<RawComponent> {
    let decode = |cursor: &Cursor<'_>| {
        if cursor.node().is_null() {
            return Ok(Vec::new());
        }
        let items = cursor.node().as_array().ok_or_else(|| {
            let name = match kind {
                Kind::Inbound => "[]option.Inbound",
                Kind::Outbound => "[]option.Outbound",
                Kind::Endpoint => "[]option.Endpoint",
                Kind::DnsServer => "[]option.DNSServerOptions",
                Kind::Service => "[]option.Service",
            };
            cursor.mismatch(name)
        })?;
        items
            .iter()
            .enumerate()
            .map(|(i, item)| RawComponent::split(kind, i, &cursor.index(i, item)))
            .collect()
    };
    object.field_with(key, decode).unwrap_or_default()
}

/// Refuses a tag that two components of one name space have.
fn unique(
    first: &[RawComponent],
    second: &[RawComponent],
    what: &str,
    cx: &Context,
) -> Result<(), ConfigError> {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for raw in first.iter().chain(second).filter(|raw| !raw.tag.is_empty()) {
        if let Some(other) = seen.insert(&raw.tag, raw.span()) {
            let message = format!("duplicate {what} tag: {}", raw.tag);
            // Each file was decoded by itself before files were merged, so the reference reports only the merged whole.
            let error = if raw.span().source == other.source {
                ConfigError::new("", message)
            } else {
                ConfigError::create("unmarshal merged config", message)
            };
            let mut error = error.at(cx.locate(raw.span()));
            error.hint = cx.locate(other).map(|other| format!("the first one stands at {other}"));
            return Err(error);
        }
    }
    Ok(())
}

/// Describes the sections of the root that are no component's.
pub(crate) fn describe_sections(object: &mut crate::json_schema::ObjectSchema<'_>) {
    object.describe(&["A configuration of Crosspoint, which is one of sing-box 1.12 with the member `crosspoint` beside."]);
    object.property::<String>("$schema", &["Schema of this file, for editors."]);
    object.property::<LogOptions>("log", &["Logging."]);
    object.property::<NtpOptions>("ntp", &["The clock."]);
    object.property::<CertificateOptions>("certificate", &["Trusted certificates."]);
    object.property::<RouteOptions>("route", &["Routing."]);
    object.property::<ExperimentalOptions>("experimental", &["Cache and APIs."]);
    object.property::<CrosspointOptions>("crosspoint", &["Options of Crosspoint itself."]);
}
