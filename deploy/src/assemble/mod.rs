//! From configuration files to a blueprint that the kernel can put in force.
//!
//! ```text
//! files → Loaded (merged tree) → Config (typed sections) → Blueprint (specs, rules, settings)
//! ```
//! Everything that is wrong and can be found without touching the system is found here, so that
//! `check` and a reload report the same things.

mod certificate;
mod components;
mod state;
mod unsupported;

use std::{collections::BTreeMap, io, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildError, Kind, Tag,
    component::Dep,
    net::dial,
    snapshot::{DomainResolver, RouteDefaults},
    supervise::{Assembly, Blueprint, Planned, Problem, Settings, Supervision, validate},
};
use crosspoint_rules::live::Library;
use crosspoint_schema::{
    Config, ConfigError,
    decode::Context,
    json::{self, Loaded, Node},
    notice::{self, Deprecation},
    options::{CrosspointOptions, DnsRule, RouteOptions},
};
use crosspoint_store::Stores;

use crate::logging;

/// What `crosspoint` runs without a configuration: a mixed SOCKS/HTTP inbound on loopback.
pub const EMBEDDED: &str = include_str!("../../examples/default.json");

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Files of `-c`, in the order given; `stdin` stands for `stdin`.
    pub files: Vec<String>,
    /// Directories of `-C`.
    pub directories: Vec<String>,
    /// What standard input held: it can be read once only, and a reload reads it again.
    pub stdin: Option<Arc<[u8]>>,
    /// Use [`EMBEDDED`] and no file.
    pub embedded: bool,
    /// Carries answers of DNS servers from one resolver to the next.
    pub keeper: crosspoint_resolver::Keeper,
    /// `--strict`: as if the configuration said `crosspoint.strict`.
    pub strict: bool,
    /// Cache files that are open: a reload goes on with them.
    pub stores: Arc<Stores>,
    /// Rule-sets in force: a reload goes on with those that are the same.
    pub library: Library,
    /// Go on without rule-set files that are missing or wrong, unless strict.
    pub lenient: bool,
}

/// Why a configuration cannot be used. Displays as the text behind `FATAL[0000] `.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Files cannot be read, parsed or merged.
    #[error(transparent)]
    Load(#[from] json::LoadError),
    /// Something in it is wrong.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// A deprecated feature is used whose environment variable is not set.
    #[error("{}", .0.refusal())]
    Deprecated(&'static Deprecation),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

/// A configuration whose sections are decoded and whose components are not.
#[derive(Debug)]
pub struct Decoded {
    /// The sections.
    pub config: Config,
    /// Places and deprecation notices.
    pub cx: Context,
    /// Each file by itself, for `format`.
    pub files: Vec<(String, Node)>,
    /// The merged tree.
    pub root: Node,
}

/// Reads and decodes.
///
/// # Errors
/// See [`Failure`].
pub fn decode(input: &Input) -> Result<Decoded, Failure> {
    let Loaded { sources, files, root } = if input.embedded {
        Loaded::from_text("(embedded default)", EMBEDDED)?
    } else {
        json::Loader {
            files: input.files.clone(),
            directories: input.directories.clone(),
            stdin: &mut || match &input.stdin {
                Some(bytes) => Ok(bytes.to_vec()),
                None => Err(io::Error::new(io::ErrorKind::NotFound, "standard input was not read")),
            },
        }
        .load()?
    };
    let cx = Context::new(sources);
    if files.len() > 1 {
        // The reference decodes each file strictly before it merges them.
        for (_, node) in &files {
            Config::decode(node, &cx)?;
        }
    }
    let config = Config::decode(&root, &cx)?;
    Ok(Decoded { config, cx, files, root })
}

/// Logs every deprecated feature in use, once per process, and refuses those that the reference
/// refuses (parity/semantics.md §3.5).
fn notices(cx: &Context) -> Result<(), Failure> {
    for notice in cx.notices.list() {
        let refused = notice.refused(std::env::var(notice.env_name()).ok().as_deref());
        logging::deprecated(notice, refused);
        if refused {
            return Err(Failure::Deprecated(notice));
        }
    }
    Ok(())
}

/// A configuration with everything parsed.
struct Parsed {
    decoded: Decoded,
    components: Vec<Planned>,
    route: RouteOptions,
    log: logging::Settings,
    certificates: Arc<crosspoint_tls::Plan>,
}

fn parse(input: &Input, extra: Vec<Planned>) -> Result<Parsed, Failure> {
    let decoded = decode(input)?;
    let log = logging::Settings::new(decoded.config.log.as_ref())
        .map_err(|why| ConfigError::create("create log factory", why))?;
    let certificates = certificate::plan(decoded.config.certificate.as_ref())?;
    unsupported::refuse(&decoded)?;
    let parsed = components::parse(&decoded);
    let mut dns_rules = decoded.config.dns.iter().flat_map(|dns| &dns.rules);
    if dns_rules.any(DnsRule::names_outbound) {
        decoded.cx.notices.push(&notice::OUTBOUND_DNS_RULE_ITEM);
    }
    // A deprecated feature is reported even when something else is wrong, as in the reference.
    notices(&decoded.cx)?;
    let mut components = parsed?;
    components.extend(extra);
    let route = decoded.config.route.clone().unwrap_or_default();
    Ok(Parsed { decoded, components, route, log, certificates })
}

/// Reads the configuration and makes a blueprint of it. `extra` are components of the daemon itself
/// (control socket, file watch).
///
/// # Errors
/// See [`Failure`].
pub fn blueprint(input: &Input, extra: Vec<Planned>) -> Result<Blueprint, Failure> {
    let Parsed { decoded, mut components, route, log, certificates } = parse(input, extra)?;
    let config = &decoded.config;
    let own = config.crosspoint.clone().unwrap_or_default();
    let default_outbound = default_outbound(config, &route, &components);
    let strict = input.strict || own.strict;
    let draft = input.library.plan(config, strict);
    let sets = draft.sets();
    let rules = crosspoint_router::Rules::compile(&route, config, &sets)?;
    draft.load(input.lenient && !strict)?;
    let missing_rule_set = rules.missing_rule_set();
    let resolver = crosspoint_resolver::Plan::compile(config, &sets)?;
    let late = resolver.missing_rule_set().or(missing_rule_set);
    components.extend(draft.components());
    let keeper = input.keeper.clone();
    let mut references = rules.references();
    references.extend(resolver.references());
    let defaults = route_defaults(&route);
    if let Some(resolver) = &defaults.domain_resolver {
        references.push((
            Dep::DnsServer(resolver.server.clone()),
            "route.default_domain_resolver".to_owned(),
        ));
    }
    certificate::first(&certificates);
    let outbound = |tag: &str| {
        let dialled = |kind| matches!(kind, Kind::Outbound | Kind::Endpoint);
        components.iter().any(|c| dialled(c.id.kind) && &*c.id.tag == tag)
    };
    let late = late.or_else(|| draft.missing_detour(outbound));
    // Strict as the reference: it listens when all rule-sets are there.
    let before_inbounds = (strict && draft.is_waiting()).then(|| {
        let library = input.library.clone();
        Box::pin(async move { library.settled().await }) as BoxFuture<'static, _>
    });
    let blueprint = Blueprint {
        components,
        references,
        default_outbound,
        state: state::open(config, &input.stores),
        assemble: Box::new(move |names| {
            Ok(Assembly {
                routes: rules.bind(names).map_err(BuildError::options)?,
                resolver: resolver.bind(names, &keeper),
                defaults,
            })
        }),
        settings: settings(&own, strict),
        shared: shared(config),
        on_commit: Box::new(move || {
            draft.commit();
            log.apply();
            certificate::install(certificates);
        }),
        before_inbounds,
    };
    match validate(&blueprint) {
        // The reference finds these last.
        Ok(()) => late.map_or(Ok(blueprint), |error| Err(error.into())),
        Err(problem) => Err(describe(problem, &decoded).into()),
    }
}

/// A problem between components, as an error with a place.
fn describe(problem: Problem, Decoded { config, cx, .. }: &Decoded) -> ConfigError {
    let Problem { early, path, message } = problem;
    let raw = config.all_components().find(|raw| raw.path == path);
    // What the reference finds when it makes a component carries the component's index; a missing
    // default resolver is found by the first outbound that needs it.
    let error = match raw {
        Some(raw) if early => ConfigError::initialize(raw.kind.indexed(raw.index), message),
        None if early => ConfigError::initialize(Kind::Outbound.indexed(0), message),
        _ => ConfigError::start(message),
    };
    error.in_path(path).at(raw.and_then(|raw| cx.locate(raw.span())))
}

/// What `check` does: everything but building.
///
/// # Errors
/// See [`Failure`].
pub fn check(input: &Input) -> Result<(), Failure> {
    blueprint(input, Vec::new()).map(drop)
}

/// What `format` prints for one tree: the canonical form.
///
/// # Errors
/// See [`Failure`].
pub fn canonical(root: &Node, cx: &Context) -> Result<serde_json::Value, Failure> {
    let config = Config::decode(root, cx)?;
    let failure = std::cell::OnceCell::new();
    let value = config.canonical(|raw| match components::canonical(raw, cx) {
        Ok(options) => serde_json::Value::Object(options),
        // A type that is not in this build is printed as it was written.
        Err(error) if !error.is_decode() => json::to_json(&raw.options),
        Err(error) => {
            // The first one counts.
            let _ = failure.set(error);
            serde_json::Value::Null
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error.into()),
        None => Ok(value),
    }
}

/// `route.final`, else the first outbound, else the built-in direct one.
fn default_outbound(config: &Config, route: &RouteOptions, components: &[Planned]) -> Option<Tag> {
    if !route.final_outbound.is_empty() {
        return Some(route.final_outbound.as_str().into());
    }
    match config.outbounds.first() {
        Some(first) => Some(first.label().into()),
        None => components
            .iter()
            .find(|c| c.id.kind == Kind::Outbound && c.path.is_empty())
            .map(|c| c.id.tag.clone()),
    }
}

fn route_defaults(route: &RouteOptions) -> RouteDefaults {
    RouteDefaults {
        auto_detect_interface: route.auto_detect_interface,
        interface: (!route.default_interface.is_empty())
            .then(|| route.default_interface.as_str().into()),
        mark: route.default_mark.get(),
        fallback_delay: Some(route.default_fallback_delay.get()).filter(|delay| !delay.is_zero()),
        domain_resolver: route.default_domain_resolver.as_ref().map(|resolver| DomainResolver {
            server: resolver.server.as_str().into(),
            strategy: dial::strategy(resolver.strategy),
            disable_cache: resolver.disable_cache,
            rewrite_ttl: resolver.rewrite_ttl,
            client_subnet: resolver.client_subnet.map(|subnet| subnet.0),
        }),
    }
}

fn settings(own: &CrosspointOptions, strict: bool) -> Settings {
    let supervision = own.supervision();
    Settings {
        supervision: Supervision {
            backoff_min: supervision.backoff_min(),
            backoff_max: supervision.backoff_max(),
            max_restarts: supervision.max_restarts(),
            window: supervision.window(),
            reset_after: supervision.reset_after(),
            pulse: supervision.pulse(),
            ..Supervision::default()
        },
        drain: own.drain_timeout(),
        strict,
    }
}

/// Canonical text of the sections that are no components.
fn shared(config: &Config) -> BTreeMap<&'static str, serde_json::Value> {
    let mut bare = config.clone();
    bare.inbounds.clear();
    bare.outbounds.clear();
    bare.endpoints.clear();
    bare.services.clear();
    if let Some(dns) = &mut bare.dns {
        dns.servers.clear();
    }
    let sections = bare.canonical(|_| serde_json::Value::Null);
    ["log", "dns", "ntp", "certificate", "route", "experimental", "crosspoint"]
        .into_iter()
        .filter_map(|key| Some((key, sections.get(key)?.clone())))
        .collect()
}
