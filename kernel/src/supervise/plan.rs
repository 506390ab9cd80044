//! Pure planning: what differs between two configurations, and what is wrong with one.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use super::blueprint::{Blueprint, ComponentId, Planned};
use crate::{
    Kind, Tag,
    component::{Change, Claims, Dep, Deps, Spec},
    net::dial::EMPTY_DETOUR,
    plugin::start_rank,
};

/// What a reload does with one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Same options: nothing is touched.
    Keep,
    /// The running instance takes the new options by message.
    Reconfigure,
    /// A new instance is warmed and takes over; flows of the old one go on.
    Replace,
    /// A claim cannot be shared: the old instance stops before the new one starts.
    Exchange,
    /// New.
    Add,
}

/// The difference between the running components and a blueprint.
#[derive(Debug, Default)]
pub struct Plan {
    /// What happens to each component of the new configuration, in start order.
    pub steps: Vec<(Planned, Action)>,
    /// Components that leave.
    pub removed: Vec<ComponentId>,
}

/// A running component, as far as planning needs it.
pub struct Running {
    /// The protocol.
    pub type_name: &'static str,
    /// Its options.
    pub spec: Arc<dyn Spec>,
}

/// Compares.
pub fn plan(running: &HashMap<ComponentId, Running>, components: &[Planned]) -> Plan {
    let mut steps: Vec<_> = components
        .iter()
        .map(|next| {
            let action = running.get(&next.id).map_or(Action::Add, |old| action(old, next));
            (next.clone(), action)
        })
        .collect();
    steps.sort_by_key(|(planned, _)| start_rank(planned.id.kind));
    let wanted: HashSet<_> = components.iter().map(|c| &c.id).collect();
    let mut removed: Vec<_> = running.keys().filter(|id| !wanted.contains(id)).cloned().collect();
    removed.sort();
    removed.reverse();
    Plan { steps, removed }
}

fn action(old: &Running, next: &Planned) -> Action {
    let replace = || {
        let (mut held, mut wanted) = (Claims::default(), Claims::default());
        old.spec.claims(&mut held);
        next.spec.claims(&mut wanted);
        let clash = wanted.0.iter().any(|claim| !claim.lendable() && held.0.contains(claim));
        if clash { Action::Exchange } else { Action::Replace }
    };
    if old.type_name != next.type_name {
        return replace();
    }
    if old.spec.canonical() == next.spec.canonical() {
        return Action::Keep;
    }
    match old.spec.change(&*next.spec) {
        Change::Keep => Action::Keep,
        Change::Reconfigure => Action::Reconfigure,
        Change::Replace => replace(),
    }
}

/// What is wrong between components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the reference finds it when it makes the component; else when it starts it.
    pub early: bool,
    /// Where, as a JSON path; empty for the whole.
    pub path: String,
    /// What, in the words of the reference.
    pub message: String,
}

impl Problem {
    fn at(path: &str, message: String) -> Self {
        Self { early: false, path: path.to_owned(), message }
    }

    fn early(path: &str, message: String) -> Self {
        Self { early: true, ..Self::at(path, message) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Finds what the reference finds only at start or at the first connection: tags that do not exist,
/// circles, and two components that claim the same thing.
///
/// # Errors
/// The first problem.
pub fn validate(blueprint: &Blueprint) -> Result<(), Problem> {
    let names = Names::new(&blueprint.components);
    if let Some(tag) = &blueprint.default_outbound
        && !names.has(&Dep::Outbound(tag.clone()))
    {
        return Err(Problem::at("", format!("default outbound not found: {tag}")));
    }
    for planned in &blueprint.components {
        if let Some(dep) = deps(planned).iter().find(|dep| !names.has(dep)) {
            return Err(missing(planned, dep));
        }
    }
    for (dep, place) in &blueprint.references {
        if !names.has(dep) {
            return Err(unknown(dep, place));
        }
    }
    managed(&blueprint.components)?;
    detours(&blueprint.components)?;
    circles(&blueprint.components)?;
    claims(&blueprint.components)
}

/// A shared part names what does not exist.
fn unknown(dep: &Dep, place: &str) -> Problem {
    match dep {
        Dep::DnsServer(tag) if place == "dns.final" => {
            Problem::at("", format!("default DNS server not found: {tag}"))
        }
        Dep::DnsServer(tag) if place == "route.default_domain_resolver" => {
            Problem::early(place, format!("default domain resolver not found: {tag}"))
        }
        Dep::DnsServer(tag) => Problem::at(place, format!("DNS server not found: {tag}")),
        Dep::Outbound(tag) => Problem::at(place, format!("outbound not found: {tag}")),
        Dep::Inbound(tag) | Dep::Users(tag) => {
            Problem::at(place, format!("inbound not found: {tag}"))
        }
        Dep::Service(tag) => Problem::at(place, format!("service not found: {tag}")),
    }
}

/// A component names what does not exist.
fn missing(planned: &Planned, dep: &Dep) -> Problem {
    let (kind, tag) = (planned.id.kind, &planned.id.tag);
    let late = |message| Problem::at(&planned.path, message);
    match (kind, dep) {
        (Kind::DnsServer, Dep::DnsServer(dep)) => {
            late(format!("dependency[{dep}] not found for server[{tag}]"))
        }
        (_, Dep::DnsServer(dep)) => {
            Problem::early(&planned.path, format!("domain resolver not found: {dep}"))
        }
        (Kind::Outbound | Kind::Endpoint, Dep::Outbound(dep)) => {
            late(format!("dependency[{dep}] not found for outbound[{tag}]"))
        }
        (_, Dep::Outbound(dep)) => late(format!("outbound detour not found: {dep}")),
        (_, Dep::Users(dep)) => {
            let index = deps(planned).iter().position(|other| *other == Dep::Users(dep.clone()));
            let index = index.unwrap_or_default();
            let message = format!("parse SSM server[{index}]: inbound {dep} not found");
            Problem::early(&planned.path, message)
        }
        (_, Dep::Inbound(dep)) => late(format!("inbound detour not found: {dep}")),
        (_, Dep::Service(dep)) => late(format!("service not found: {dep}")),
    }
}

fn deps(planned: &Planned) -> Vec<Dep> {
    let mut deps = Deps::default();
    planned.spec.deps(&mut deps);
    deps.0
}

struct Names<'a>(HashSet<(Kind, &'a str)>);

impl<'a> Names<'a> {
    fn new(components: &'a [Planned]) -> Self {
        Self(components.iter().map(|c| (c.id.kind, &*c.id.tag)).collect())
    }

    fn has(&self, dep: &Dep) -> bool {
        match dep {
            Dep::Outbound(tag) => {
                self.0.contains(&(Kind::Outbound, tag)) || self.0.contains(&(Kind::Endpoint, tag))
            }
            Dep::DnsServer(tag) => self.0.contains(&(Kind::DnsServer, tag)),
            // An endpoint is an inbound as well.
            Dep::Users(tag) => self.0.contains(&(Kind::Inbound, tag)),
            Dep::Inbound(tag) => {
                self.0.contains(&(Kind::Inbound, tag)) || self.0.contains(&(Kind::Endpoint, tag))
            }
            Dep::Service(tag) => self.0.contains(&(Kind::Service, tag)),
        }
    }
}

/// Services that manage users of an inbound that takes none.
fn managed(components: &[Planned]) -> Result<(), Problem> {
    for service in components.iter().filter(|c| c.id.kind == Kind::Service) {
        let deps = deps(service);
        let tags = deps.iter().filter_map(|dep| match dep {
            Dep::Users(tag) => Some(tag),
            _ => None,
        });
        for (index, tag) in tags.enumerate() {
            let id = ComponentId::new(Kind::Inbound, tag.clone());
            let refuses = |c: &&Planned| c.id == id && !c.spec.takes_users();
            if let Some(inbound) = components.iter().find(refuses) {
                let message = format!(
                    "parse SSM server[{index}]: inbound/{}[{tag}] is not a SSM server",
                    inbound.type_name
                );
                return Err(Problem::early(&service.path, message));
            }
        }
    }
    Ok(())
}

/// DNS servers whose detour is no way of its own. (Outbounds with such a detour fail at a dial.)
fn detours(components: &[Planned]) -> Result<(), Problem> {
    let empty: HashSet<&str> = components
        .iter()
        .filter(|c| c.id.kind == Kind::Outbound && c.spec.is_empty_direct())
        .map(|c| &*c.id.tag)
        .collect();
    let senseless = |c: &&Planned| c.spec.detour().is_some_and(|tag| empty.contains(tag));
    match components.iter().find(senseless) {
        None => Ok(()),
        Some(planned) => {
            let (kind, tag) = (planned.id.kind.name(), &planned.id.tag);
            let message = format!("start {kind}/{}[{tag}]: {EMPTY_DETOUR}", planned.type_name);
            Err(Problem::at(&planned.path, message))
        }
    }
}

/// Outbounds and DNS servers refer to each other (detour, domain_resolver): one graph.
fn circles(components: &[Planned]) -> Result<(), Problem> {
    type Node = (bool, Tag);
    let node = |dep: &Dep| -> Option<Node> {
        match dep {
            Dep::Outbound(tag) => Some((false, tag.clone())),
            Dep::DnsServer(tag) => Some((true, tag.clone())),
            _ => None,
        }
    };
    let mut graph: HashMap<Node, Vec<Node>> = HashMap::new();
    for planned in components {
        let own = match planned.id.kind {
            Kind::Outbound | Kind::Endpoint => (false, planned.id.tag.clone()),
            Kind::DnsServer => (true, planned.id.tag.clone()),
            Kind::Inbound | Kind::Service => continue,
        };
        graph.insert(own, deps(planned).iter().filter_map(node).collect());
    }
    let mut done: HashSet<Node> = HashSet::new();
    let mut starts: Vec<_> = graph.keys().cloned().collect();
    starts.sort();
    for start in starts {
        // Depth first with an explicit path, so that a long chain cannot overflow the stack.
        let mut path: Vec<(Node, usize)> = vec![(start, 0)];
        while let Some((node, next)) = path.last_mut() {
            let edges = graph.get(node).map_or(&[][..], Vec::as_slice);
            let Some(to) = edges.get(*next).cloned() else {
                done.insert(node.clone());
                path.pop();
                continue;
            };
            *next += 1;
            if let Some(from) = path.iter().position(|(seen, _)| *seen == to) {
                let kind = if path[from..].iter().all(|((dns, _), _)| *dns) {
                    "server"
                } else {
                    "outbound"
                };
                let mut names: Vec<&str> =
                    path[from..].iter().map(|((_, tag), _)| &**tag).collect();
                names.push(&to.1);
                let message = format!("circular {kind} dependency: {}", names.join(" -> "));
                return Err(Problem::at("", message));
            }
            if !done.contains(&to) {
                path.push((to, 0));
            }
        }
    }
    Ok(())
}

fn claims(components: &[Planned]) -> Result<(), Problem> {
    let mut held = HashMap::new();
    for planned in components {
        let mut claims = Claims::default();
        planned.spec.claims(&mut claims);
        for claim in claims.0 {
            if let Some(other) = held.insert(claim.clone(), &planned.id) {
                let message = format!("{claim} is already taken by {other}");
                return Err(Problem::at(&planned.path, message));
            }
        }
    }
    Ok(())
}
