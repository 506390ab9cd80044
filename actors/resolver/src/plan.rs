//! The `dns` section, checked and compiled.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use crosspoint_kernel::{
    Tag, component::Dep, net::dial::strategy, resolve::Resolve, snapshot::Namespace,
};
use crosspoint_rules::{Index, RuleSets};
use crosspoint_schema::{
    Config, ConfigError, RawComponent,
    decode::Field,
    json::Node,
    options::{DnsClientOptions, DnsOptions, Optimistic},
};

use crate::{
    cache::{Origin, Policy},
    keeper::Keeper,
    resolver::Resolver,
    rule::{Action, Rule, Settings},
};

/// How long a server may take for one query, as in the reference.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the resolver must know of a server.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// What an old-style server says of queries; between what rules say and the global settings.
    pub(crate) legacy: Settings,
    /// Stands for its tag in cache keys.
    pub(crate) hash: u64,
    pub(crate) origin: Origin,
    /// It makes addresses up: only clients may be told them, and they are not cached.
    pub(crate) fake: bool,
}

/// Everything about a generation's resolver that its configuration tells.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rules: Vec<Rule>,
    /// Which of the rules need to be looked at.
    pub(crate) index: Index,
    pub(crate) settings: Settings,
    /// One cache for each server.
    pub(crate) independent: bool,
    pub(crate) policy: Option<Policy>,
    pub(crate) timeout: Duration,
    pub(crate) reverse_mapping: bool,
    pub(crate) servers: HashMap<Tag, Server>,
    default_server: Option<Tag>,
    /// The server that makes addresses up.
    pub(crate) fake: Option<Tag>,
}

impl Default for Compiled {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            index: Index::default(),
            settings: Settings::default(),
            independent: false,
            policy: Some(Policy::default()),
            timeout: TIMEOUT,
            reverse_mapping: false,
            servers: HashMap::new(),
            default_server: None,
            fake: None,
        }
    }
}

/// The `dns` section, checked and not yet bound to servers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    compiled: Arc<Compiled>,
    references: Vec<(Dep, String)>,
    missing_rule_set: Option<ConfigError>,
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Plan {
    /// Checks the section. Rules refer to `sets`.
    ///
    /// # Errors
    /// What the reference refuses when it makes DNS servers and its DNS router, in its words.
    pub fn compile(config: &Config, sets: &RuleSets) -> Result<Self, ConfigError> {
        let Some(options) = &config.dns else { return Ok(Self::default()) };
        let default_server = if options.final_server.is_empty() {
            options.servers.first().map(|server| server.label().into())
        } else {
            Some(Tag::from(options.final_server.as_str()))
        };
        let (servers, fake) = servers(options, default_server.as_deref(), section(config))?;
        let mut plan = Self::default();
        let mut rules = Vec::with_capacity(options.rules.len());
        for (index, options) in options.rules.iter().enumerate() {
            let rule = Rule::compile(options, sets).map_err(|refusal| {
                let message = format!("parse dns rule[{index}]: {}", refusal.message);
                ConfigError::initialize("dns router", message)
                    .in_path(format!("dns.rules[{index}]{}", refusal.path))
            })?;
            if let Action::Route { server, .. } = &rule.action {
                plan.references
                    .push((Dep::DnsServer(server.clone()), format!("dns.rules[{index}].server")));
            }
            if plan.missing_rule_set.is_none()
                && let Some(tag) = rule.matcher.missing_rule_set()
            {
                let message = format!("initialize DNS rule[{index}]: rule-set not found: {tag}");
                let error = ConfigError::start(message);
                plan.missing_rule_set = Some(error.in_path(format!("dns.rules[{index}].rule_set")));
            }
            rules.push(rule);
        }
        if !options.final_server.is_empty() {
            let server = Dep::DnsServer(options.final_server.as_str().into());
            plan.references.push((server, "dns.final".to_owned()));
        }
        let client = &options.client;
        optimistic(client)?;
        let timeout = client.timeout.map(|timeout| timeout.get());
        let policy = Policy {
            capacity: client.cache_capacity,
            disable_expire: client.disable_expire,
            stale: client.optimistic.as_ref().and_then(Optimistic::stale).unwrap_or_default(),
        };
        plan.compiled = Arc::new(Compiled {
            index: Index::queries(rules.iter().map(|rule| &rule.matcher)),
            rules,
            settings: Settings {
                strategy: strategy(client.strategy),
                subnet: client.client_subnet.map(|subnet| subnet.0),
                ..Settings::default()
            },
            independent: client.independent_cache,
            policy: (!client.disable_cache).then_some(policy),
            timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT),
            reverse_mapping: options.reverse_mapping,
            servers,
            default_server,
            fake,
        });
        Ok(plan)
    }

    /// The tags that the section refers to, and where.
    pub fn references(&self) -> Vec<(Dep, String)> {
        self.references.clone()
    }

    /// The error for the first rule that refers to a rule-set which does not exist. The reference finds it at start,
    /// after outbounds and DNS servers, and before route rules.
    pub fn missing_rule_set(&self) -> Option<ConfigError> {
        self.missing_rule_set.clone()
    }

    /// The resolver on the servers of one generation. It takes over from those before it what still holds.
    pub fn bind(&self, names: &Arc<Namespace>, keeper: &Keeper) -> Arc<dyn Resolve> {
        // Without a `dns` section there is one implicit server.
        let default_server = match &self.compiled.default_server {
            Some(tag) => names.dns.get(tag),
            None => names.dns.values().next(),
        };
        let resolver = Resolver::new(self.compiled.clone(), names.clone(), default_server.cloned());
        keeper.hand_over(&resolver);
        resolver
    }
}

/// Refuses what would make `optimistic` an option that does nothing.
fn optimistic(client: &DnsClientOptions) -> Result<(), ConfigError> {
    let with = match (client.disable_cache, client.disable_expire) {
        (true, _) => "disable_cache",
        (_, true) => "disable_expire",
        _ => return Ok(()),
    };
    if client.optimistic.as_ref().and_then(Optimistic::stale).is_none() {
        return Ok(());
    }
    let message = format!("`optimistic` is conflict with `{with}`");
    Err(ConfigError::initialize("dns router", message).in_path("dns.optimistic"))
}

/// A hash of everything but the servers that answers depend on.
fn section(config: &Config) -> u64 {
    let Some(dns) = &config.dns else { return 0 };
    let mut text = dns.to_json_with(|_| Default::default()).to_string();
    // Rules may refer to these.
    if let Some(route) = &config.route {
        text += &route.rule_set.iter().map(|set| set.to_json().to_string()).collect::<String>();
    }
    hash_of(&text)
}

/// What each server says, and which one makes addresses up.
fn servers(
    options: &DnsOptions,
    default: Option<&str>,
    section: u64,
) -> Result<(HashMap<Tag, Server>, Option<Tag>), ConfigError> {
    let mut servers = HashMap::new();
    let mut fake: Option<Tag> = None;
    for raw in &options.servers {
        let tag = Tag::from(raw.label());
        let refuse = |message: &str| {
            let error = ConfigError::initialize(raw.kind.indexed(raw.index), message);
            Err(error.in_path(raw.path.clone()))
        };
        let is_fake = raw.type_name == "fakeip";
        if is_fake && default == Some(&*tag) {
            return refuse("default server cannot be fakeip");
        }
        if is_fake && fake.replace(tag.clone()).is_some() {
            return refuse("multiple fakeip server are not supported");
        }
        let origin = Origin { section, server: hash_of(&raw.to_json().to_string()) };
        // Of several servers with one tag the last one counts, as in the reference.
        servers.insert(
            tag.clone(),
            Server { legacy: legacy(raw), hash: hash_of(&tag), origin, fake: is_fake },
        );
    }
    if let Some(group) = options.servers.iter().find(|raw| is_group_of(raw, fake.as_deref())) {
        let error = ConfigError::initialize(
            group.kind.indexed(group.index),
            "a group cannot have a fakeip server",
        );
        return Err(error.in_path(format!("{}.servers", group.path)));
    }
    Ok((servers, fake))
}

/// Whether a server is a group that this one is in.
fn is_group_of(raw: &RawComponent, tag: Option<&str>) -> bool {
    let members = raw.options.as_object().and_then(|options| options.get("servers"));
    let Some((members, tag)) = members.zip(tag) else { return false };
    let one = members.value.as_str() == Some(tag);
    let among = |members: &[Node]| members.iter().any(|member| member.as_str() == Some(tag));
    raw.type_name == "group" && (one || members.value.as_array().is_some_and(among))
}

fn legacy(raw: &RawComponent) -> Settings {
    let Some(old) = &raw.legacy_dns else { return Settings::default() };
    Settings {
        strategy: strategy(old.strategy),
        subnet: old.client_subnet.map(|subnet| subnet.0),
        ..Settings::default()
    }
}
