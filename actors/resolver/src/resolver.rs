//! The resolver of one generation.

use std::{io, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture,
    flow::Flow,
    resolve::{Ask, DnsServer, Lookup, Resolve, ResolveError, Strategy},
    session::Session,
    slot::Slot,
    snapshot::{Namespace, Plane},
};
use crosspoint_rules::Facts;
use tracing::{debug, error};

use crate::{
    cache::{Cache, Hit, Key},
    flight::Flights,
    log,
    mapping::Mapping,
    plan::{Compiled, Server},
    predefined::Predefined,
    rule::{Action, Rejecter, Rule, Settings},
    serve,
    server::{Fetched, FlightKey},
    wire::{self, AAAA, Malformed, Query},
};

/// Chooses servers and asks them.
pub(crate) struct Resolver {
    pub(crate) plan: Arc<Compiled>,
    pub(crate) names: Arc<Namespace>,
    default_server: Option<Arc<Slot<dyn DnsServer>>>,
    pub(crate) cache: Option<Arc<Cache>>,
    mapping: Option<Mapping>,
    pub(crate) flights: Flights<FlightKey, Fetched>,
}

/// A server, and how it is asked.
pub(crate) struct Chosen<'a> {
    pub(crate) slot: &'a Arc<Slot<dyn DnsServer>>,
    pub(crate) server: &'a Server,
    pub(crate) settings: Settings,
    /// The rule, where it accepts only answers with certain addresses.
    pub(crate) limit: Option<&'a Rule>,
    /// The connection that asks, for the log.
    pub(crate) conn: Option<u64>,
}

/// What rules make of a query.
pub(crate) enum Choice<'a> {
    Ask(Chosen<'a>),
    Refuse(&'a Rejecter),
    Fixed(&'a Predefined),
}

/// Where a query stands in the rules.
#[derive(Default)]
pub(crate) struct Walk {
    next: usize,
    pub(crate) settings: Settings,
    /// Only addresses are asked for.
    addresses: bool,
    /// It comes from a client.
    external: bool,
    /// The connection that asks, for the log.
    conn: Option<u64>,
}

impl Walk {
    /// For a lookup of this program itself.
    pub(crate) fn internal(settings: Settings, conn: Option<u64>) -> Self {
        Self { settings, addresses: true, conn, ..Self::default() }
    }
}

impl Resolver {
    pub(crate) fn new(
        plan: Arc<Compiled>,
        names: Arc<Namespace>,
        default_server: Option<Arc<Slot<dyn DnsServer>>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            names,
            default_server,
            cache: plan.policy.map(|policy| Arc::new(Cache::new(policy))),
            mapping: plan.reverse_mapping.then(Mapping::default),
            flights: Flights::default(),
            plan,
        })
    }

    /// Takes over what the resolver of another generation knows and what still holds.
    pub(crate) fn adopt(&self, before: &Self) {
        if let (Some(mapping), Some(old)) = (&self.mapping, &before.mapping) {
            mapping.adopt(old);
        }
        if let (Some(cache), Some(old)) = (&self.cache, &before.cache) {
            cache.adopt(old, |origin| {
                self.plan.servers.values().any(|server| server.origin == origin)
            });
        }
    }

    /// The answer from the cache that all servers share, which is looked at before rules are.
    fn shared(&self, query: &Query<'_>) -> Option<Hit> {
        let cache = self.cache.as_ref().filter(|_| !self.plan.independent && query.is_plain())?;
        let hit = cache.get(&self.shared_key(query))?;
        (!hit.is_stale()).then_some(hit)
    }

    fn shared_key(&self, query: &Query<'_>) -> Key {
        let subnet = self.plan.settings.subnet.map(wire::Subnet::new).or(query.subnet());
        Key::new(query, subnet.as_ref(), None)
    }

    /// What is at hand for a lookup: the answer without looking at rules.
    pub(crate) fn shared_for(&self, query: &Query<'_>, settings: &Settings) -> Option<Hit> {
        if settings.disable_cache || settings.subnet.is_some() {
            return None;
        }
        self.shared(query)
    }

    /// The server of a tag, with what is known of it.
    fn named(&self, tag: &str, walk: &Walk) -> Result<Chosen<'_>, ResolveError> {
        let slot = self.names.dns.get(tag);
        let slot = slot.ok_or_else(|| ResolveError::NoServer(tag.into()))?;
        Ok(self.chosen(slot, walk.settings, None, walk.conn))
    }

    fn chosen<'a>(
        &'a self,
        slot: &'a Arc<Slot<dyn DnsServer>>,
        settings: Settings,
        limit: Option<&'a Rule>,
        conn: Option<u64>,
    ) -> Chosen<'a> {
        static UNKNOWN: std::sync::LazyLock<Server> = std::sync::LazyLock::new(Server::default);
        let server = self.plan.servers.get(&slot.tag).unwrap_or(&UNKNOWN);
        let mut settings = self.plan.settings.then(&server.legacy).then(&settings);
        // What is made up for a client is kept by the server itself.
        settings.disable_cache |= server.fake;
        Chosen { slot, server, settings, limit, conn }
    }

    /// Goes through the rules to the next one that decides.
    pub(crate) fn choose<'a>(
        &'a self,
        facts: &Facts<'_>,
        named: Option<&str>,
        walk: &mut Walk,
    ) -> Result<Choice<'a>, ResolveError> {
        if let Some(tag) = named {
            return self.named(tag, walk).map(Choice::Ask);
        }
        for at in self.plan.index.candidates(walk.next, facts) {
            let Some(rule) = self.plan.rules.get(at) else { break };
            walk.next = at + 1;
            let limit = rule.matcher.has_address_limit();
            if (limit && !walk.addresses) || !rule.matcher.matches(facts) {
                continue;
            }
            debug!(conn = walk.conn, "DNS match[{at}] => {}", rule.action);
            match &rule.action {
                Action::Route { server, settings } => {
                    let Some(slot) = self.names.dns.get(server) else {
                        error!(conn = walk.conn, "transport not found: {server}");
                        continue;
                    };
                    let settings = walk.settings.then(settings);
                    let chosen = self.chosen(slot, settings, limit.then_some(rule), walk.conn);
                    if chosen.server.fake && !walk.external {
                        continue;
                    }
                    return Ok(Choice::Ask(chosen));
                }
                Action::Options(settings) => walk.settings = walk.settings.then(settings),
                Action::Reject(rejecter) => return Ok(Choice::Refuse(rejecter)),
                Action::Predefined(predefined) => return Ok(Choice::Fixed(predefined)),
            }
        }
        walk.next = self.plan.rules.len();
        let slot = self.default_server.as_ref();
        let slot = slot.ok_or_else(|| ResolveError::NoServer("default".into()))?;
        Ok(Choice::Ask(self.chosen(slot, walk.settings, None, walk.conn)))
    }

    /// Answers a message that is not in the shared cache.
    async fn answer(&self, ask: Ask<'_>, query: Query<'_>) -> Result<Vec<u8>, ResolveError> {
        let name = query.name();
        let conn = ask.session.map(|session| session.id);
        debug!(conn, "exchange {}", log::question(&query));
        let facts = Facts::query(ask.session, &name, query.qtype());
        let addresses = matches!(query.qtype(), wire::A | AAAA | wire::HTTPS);
        let mut walk = Walk { addresses, external: true, conn, ..Walk::default() };
        loop {
            let chosen = match self.choose(&facts, ask.server, &mut walk)? {
                Choice::Ask(chosen) => chosen,
                Choice::Refuse(rejecter) if rejecter.drops() => return Err(ResolveError::Dropped),
                Choice::Refuse(_) => return Ok(query.refuse(wire::REFUSED)),
                Choice::Fixed(predefined) => return Ok(predefined.reply(&query)),
            };
            let unwanted = match chosen.settings.strategy {
                Some(Strategy::Ipv4Only) => query.qtype() == AAAA,
                Some(Strategy::Ipv6Only) => query.qtype() == wire::A,
                _ => false,
            };
            if unwanted {
                debug!(conn, "strategy rejected {name}");
                return Ok(query.reply(0, |_| [0; 3]));
            }
            match self.ask(&query, &chosen, &facts, ask.trail).await {
                Ok((reply, ttl)) => {
                    if let Some(mapping) = self.mapping.as_ref().filter(|_| !chosen.server.fake) {
                        mapping.learn(reply.owners(), ttl);
                    }
                    let mut out = Vec::new();
                    reply.render(&query, ttl, &mut out);
                    return Ok(out);
                }
                // The next rule may have a server whose answer is accepted.
                Err(failure) if failure.is_rejected() => {
                    debug!(conn, "{failure} for {}", log::question(&query));
                }
                Err(failure) => {
                    let failure = failure.for_name(&name);
                    error!(conn, "exchange failed for {}: {failure}", log::question(&query));
                    return Err(failure);
                }
            }
        }
    }

    /// Tells a client what was in the cache.
    fn tell(&self, hit: &Hit, ask: &Ask<'_>, query: &Query<'_>, out: &mut Vec<u8>) {
        let conn = ask.session.map(|session| session.id);
        log::answer("cached", conn, query, hit.reply(), hit.ttl);
        if let Some(mapping) = &self.mapping {
            mapping.learn(hit.reply().owners(), hit.ttl);
        }
        hit.render(query, out);
    }
}

/// "Format error" for a message that cannot be answered otherwise: no question is repeated.
fn format_error(message: &[u8]) -> Vec<u8> {
    let mut out = message.get(..wire::HEADER).unwrap_or_default().to_vec();
    let kept = out.get(2).copied().unwrap_or(0) & 0x79;
    wire::put(&mut out, 2, &[0x80 | kept, 0x81]);
    wire::put(&mut out, 4, &[0; 8]);
    out
}

impl Resolve for Resolver {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(self.find(lookup))
    }

    fn exchange<'a>(&'a self, ask: Ask<'a>) -> BoxFuture<'a, Result<Vec<u8>, ResolveError>> {
        let query = match Query::parse(ask.message) {
            Ok(query) => query,
            Err(why) => {
                let answer = match why {
                    Malformed::NoQuery => Err(ResolveError::Dropped),
                    Malformed::Broken => Ok(format_error(ask.message)),
                };
                return Box::pin(std::future::ready(answer));
            }
        };
        if let Some(hit) = self.shared(&query) {
            let mut out = Vec::new();
            self.tell(&hit, &ask, &query, &mut out);
            return Box::pin(std::future::ready(Ok(out)));
        }
        Box::pin(self.answer(ask, query))
    }

    fn exchange_now(&self, ask: Ask<'_>, out: &mut Vec<u8>) -> bool {
        let Ok(query) = Query::parse(ask.message) else { return false };
        match self.shared(&query) {
            Some(hit) => {
                self.tell(&hit, &ask, &query, out);
                true
            }
            None => false,
        }
    }

    fn serve<'a>(
        &'a self,
        session: &'a Session,
        flow: Flow,
        plane: &'a Plane,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(serve::flow(session, flow, plane))
    }

    fn fake_name(&self, ip: IpAddr) -> Option<Option<Box<str>>> {
        let slot = self.names.dns.get(self.plan.fake.as_ref()?)?;
        slot.now()?.face.fake_ip()?.name(ip)
    }

    fn mapped_name(&self, ip: IpAddr) -> Option<Box<str>> {
        self.mapping.as_ref()?.name(ip)
    }

    fn flush(&self) {
        if let Some(cache) = &self.cache {
            debug!("forgets {} answers", cache.len());
            cache.clear();
        }
    }
}
