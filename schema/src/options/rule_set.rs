//! Rule-sets and the rules inside them.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Duration, Field, Listable, Map, ObjectCursor, Options};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::options::rule::{NULL_RULE, RuleType, describe_logical, encode_logical, rule_type};
use crate::options::{InterfaceType, QueryType};
use crate::{ConfigError, options};

options! {
    /// Where a local rule-set is.
    pub struct LocalRuleSet ("option.LocalRuleSet") {
        /// The file; watched.
        pub path: String = "path",
    }
}

options! {
    /// Where a remote rule-set is.
    pub struct RemoteRuleSet ("option.RemoteRuleSet") {
        /// Its address.
        pub url: String = "url" always,
        /// Tag of the outbound for the download.
        pub download_detour: String = "download_detour",
        /// Time between updates; one day by default.
        pub update_interval: Duration = "update_interval",
    }
}

options! {
    /// The rules of a set.
    pub struct PlainRuleSet ("option.PlainRuleSet") {
        /// A connection matches the set if one rule matches.
        pub rules: Vec<HeadlessRule> = "rules",
    }
}

/// Where the rules of a set come from.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleSetSource {
    /// They stand in the configuration.
    Inline(PlainRuleSet),
    /// A file.
    Local(LocalRuleSet),
    /// A download.
    Remote(RemoteRuleSet),
}

crate::string_enum! {
    /// The form of a rule-set file.
    pub enum RuleSetFormat: "unknown rule-set format: " {
        /// JSON.
        Source = "source",
        /// The binary form, `.srs`.
        Binary = "binary",
    }
}

/// A named set of rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSet {
    /// Its name.
    pub tag: String,
    /// The form of its file; none for an inline set.
    pub format: Option<RuleSetFormat>,
    /// Where its rules come from.
    pub source: RuleSetSource,
}

/// The format that the end of a path tells, ignoring the query of an address.
fn default_format(path: &str) -> Option<RuleSetFormat> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.')?.1 {
        "json" => Some(RuleSetFormat::Source),
        "srs" => Some(RuleSetFormat::Binary),
        _ => None,
    }
}

impl RuleSet {
    fn default_format(&self) -> Option<RuleSetFormat> {
        match &self.source {
            RuleSetSource::Inline(_) => None,
            RuleSetSource::Local(local) => default_format(&local.path),
            RuleSetSource::Remote(remote) => default_format(&remote.url),
        }
    }
}

impl Field for RuleSet {
    fn absent() -> Self {
        Self {
            tag: String::new(),
            format: None,
            source: RuleSetSource::Inline(PlainRuleSet::default()),
        }
    }

    // `null` has no tag, so it is an error like `{}`.
    fn decode_or_null(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if cursor.node().is_null() {
            Err(cursor.error("missing tag"))
        } else {
            Self::decode(cursor)
        }
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(&cursor.pruned(), "option._RuleSet")?;
        object.splitting(true);
        let type_name: String = object.field("type");
        let tag: String = object.field("tag");
        let format: String = object.field("format");
        object.end_pass()?;
        object.splitting(false);
        if tag.is_empty() {
            return Err(cursor.error("missing tag"));
        }
        let source = match type_name.as_str() {
            "" | "inline" => RuleSetSource::Inline(Options::decode_fields(&mut object)),
            "local" => RuleSetSource::Local(Options::decode_fields(&mut object)),
            "remote" => RuleSetSource::Remote(Options::decode_fields(&mut object)),
            other => return Err(cursor.error(format!("unknown rule-set type: {other}"))),
        };
        object.finish(false)?;
        let mut set = Self { tag, format: None, source };
        if !matches!(set.source, RuleSetSource::Inline(_)) {
            set.format = match format.as_str() {
                "" => Some(set.default_format().ok_or_else(|| cursor.error("missing format"))?),
                word => Some(
                    RuleSetFormat::from_word(word)
                        .ok_or_else(|| cursor.error(format!("unknown rule-set format: {word}")))?,
                ),
            };
        }
        Ok(set)
    }

    fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        let type_name = match self.source {
            RuleSetSource::Inline(_) => None,
            RuleSetSource::Local(_) => Some("local"),
            RuleSetSource::Remote(_) => Some("remote"),
        };
        if let Some(type_name) = type_name {
            out.insert("type".to_owned(), type_name.into());
        }
        out.insert("tag".to_owned(), self.tag.as_str().into());
        if let Some(format) = self.format.filter(|format| Some(*format) != self.default_format()) {
            out.insert("format".to_owned(), format.as_str().into());
        }
        match &self.source {
            RuleSetSource::Inline(options) => options.encode_fields(&mut out),
            RuleSetSource::Local(options) => options.encode_fields(&mut out),
            RuleSetSource::Remote(options) => options.encode_fields(&mut out),
        }
        out.into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.RuleSet".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        fn variant<T: Options>(builder: &mut SchemaBuilder, types: &[&str]) -> serde_json::Value {
            let format = RuleSetFormat::schema(builder);
            let mut object = ObjectSchema::new(builder);
            match types {
                [single] => object.constant("type", single),
                several => object.raw("type", json!({"enum": several}), &[]),
            }
            object.property::<String>("tag", &["Name of the rule-set."]);
            object.raw("format", format, &["Form of the file; told by its name by default."]);
            T::describe(&mut object);
            object.build(false)
        }
        builder.define_with("RuleSet", |builder| {
            json!({"anyOf": [
                variant::<PlainRuleSet>(builder, &["", "inline"]),
                variant::<LocalRuleSet>(builder, &["local"]),
                variant::<RemoteRuleSet>(builder, &["remote"]),
            ]})
        })
    }
}

options! {
    /// What a rule of a set looks at.
    pub struct HeadlessMatchers ("option.DefaultHeadlessRule") {
        /// Types of the DNS query; stored but never matched by the reference.
        pub query_type: Listable<QueryType> = "query_type",
        /// `tcp` or `udp`.
        pub network: Listable<String> = "network",
        /// Whole domains.
        pub domain: Listable<String> = "domain",
        /// Ends of domains; with a leading dot, sub-domains only.
        pub domain_suffix: Listable<String> = "domain_suffix",
        /// Parts of domains.
        pub domain_keyword: Listable<String> = "domain_keyword",
        /// Regular expressions for domains.
        pub domain_regex: Listable<String> = "domain_regex",
        /// Prefixes of the source address.
        pub source_ip_cidr: Listable<String> = "source_ip_cidr",
        /// Prefixes of the destination address.
        pub ip_cidr: Listable<String> = "ip_cidr",
        /// Source ports.
        pub source_port: Listable<u16> = "source_port",
        /// Ranges of source ports: `a:b`, `:b` or `a:`.
        pub source_port_range: Listable<String> = "source_port_range",
        /// Destination ports.
        pub port: Listable<u16> = "port",
        /// Ranges of destination ports: `a:b`, `:b` or `a:`.
        pub port_range: Listable<String> = "port_range",
        /// Names of local programs.
        pub process_name: Listable<String> = "process_name",
        /// Paths of local programs.
        pub process_path: Listable<String> = "process_path",
        /// Regular expressions for paths of local programs.
        pub process_path_regex: Listable<String> = "process_path_regex",
        /// Android packages.
        pub package_name: Listable<String> = "package_name",
        /// Kinds of the network in use.
        pub network_type: Listable<InterfaceType> = "network_type",
        /// The network in use is metered.
        pub network_is_expensive: bool = "network_is_expensive",
        /// The network in use is in low data mode.
        pub network_is_constrained: bool = "network_is_constrained",
        /// Names of the Wi-Fi network.
        pub wifi_ssid: Listable<String> = "wifi_ssid",
        /// Addresses of the Wi-Fi access point.
        pub wifi_bssid: Listable<String> = "wifi_bssid",
        /// Match when the rest does not.
        pub invert: bool = "invert",
    }
}

/// A rule of a set.
#[derive(Clone, Debug, PartialEq)]
pub enum HeadlessRule {
    /// Matchers.
    Default(Box<HeadlessMatchers>),
    /// Rules combined.
    Logical(Box<LogicalHeadlessRule>),
}

/// Rules of a set combined.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogicalHeadlessRule {
    /// `and` or `or`.
    pub mode: String,
    /// The inner rules.
    pub rules: Vec<HeadlessRule>,
    /// Match when the rest does not.
    pub invert: bool,
}

impl HeadlessRule {
    /// Whether the rule has conditions; one without is refused when the set is made.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Default(matchers) => {
                **matchers
                    != HeadlessMatchers { invert: matchers.invert, ..HeadlessMatchers::default() }
            }
            Self::Logical(rule) => !rule.rules.is_empty() && rule.rules.iter().all(Self::is_valid),
        }
    }
}

impl Field for HeadlessRule {
    fn absent() -> Self {
        Self::Default(Box::default())
    }

    fn decode_or_null(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if cursor.node().is_null() { Err(cursor.error(NULL_RULE)) } else { Self::decode(cursor) }
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(&cursor.pruned(), "option._HeadlessRule")?;
        let kind = rule_type(&mut object)?;
        object.splitting(false);
        let rule = match kind {
            RuleType::Default => Self::Default(Box::new(Options::decode_fields(&mut object))),
            RuleType::Logical => Self::Logical(Box::new(LogicalHeadlessRule {
                mode: object.field("mode"),
                rules: object.field("rules"),
                invert: object.field("invert"),
            })),
        };
        object.finish(false)?;
        Ok(rule)
    }

    fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        match self {
            Self::Default(matchers) => matchers.encode_fields(&mut out),
            Self::Logical(rule) => encode_logical(&mut out, &rule.mode, &rule.rules, rule.invert),
        }
        out.into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.HeadlessRule".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        builder.define_with("HeadlessRule", |builder| {
            let mut default = ObjectSchema::new(builder);
            default.raw("type", json!({"enum": ["", "default"]}), &[]);
            HeadlessMatchers::describe(&mut default);
            let default = default.build(false);
            let mut logical = ObjectSchema::new(builder);
            logical.constant("type", "logical");
            describe_logical::<Self>(&mut logical);
            json!({"anyOf": [default, logical.build(false)]})
        })
    }
}

/// A rule-set file in its JSON form.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleSetFile {
    /// Version of the format: 1, 2 or 3.
    pub version: u8,
    /// The rules.
    pub rules: PlainRuleSet,
}

impl RuleSetFile {
    /// Decodes a rule-set file.
    ///
    /// # Errors
    /// The first error in the order of the document.
    pub fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(&cursor.pruned(), "option._PlainRuleSetCompat")?;
        object.splitting(true);
        let version: u8 = object.field("version");
        object.end_pass()?;
        object.splitting(false);
        match version {
            1..=3 => {}
            0 => return Err(cursor.error("missing rule-set version")),
            other => return Err(cursor.error(format!("unknown rule-set version: {other}"))),
        }
        let rules = PlainRuleSet::decode_fields(&mut object);
        object.finish(false)?;
        Ok(Self { version, rules })
    }

    /// The canonical form of the file.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        out.insert("version".to_owned(), self.version.into());
        self.rules.encode_fields(&mut out);
        crate::decode::prune(out.into())
    }
}
