//! The route table: runs the rules for a connection.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, Tag,
    addr::{Host, Target},
    component::{Dep, Outbound},
    flow::Flow,
    resolve::{self, Lookup},
    session::{Network, Session},
    slot::Slot,
    snapshot::{Decision, Namespace, PreMatch, RouteError, RouteTable, Snapshot},
};
use crosspoint_rules::{Facts, Index, RuleSets, is_domain_name};
use crosspoint_schema::{Config, ConfigError, options::RouteOptions};
use tracing::{debug, info};

use crate::{
    action::{Action, Options, Resolve},
    compile::{self, Compiled, Entry},
    nat::{Mapped, Mapping},
    peek::{DNS_ENDS_SNIFFING, Gone, Peek, Sniff},
    process::{FindError, Finder},
};

/// Compiled route rules; immutable, cheap to clone.
#[derive(Clone)]
pub struct Rules(Arc<Table>);

impl Rules {
    /// Compiles `route`, which is that of `config` or a default one, to rules that refer to `sets`.
    ///
    /// # Errors
    /// What the reference refuses when it makes its router, in its words, and what this build does not have.
    pub fn compile(
        route: &RouteOptions,
        config: &Config,
        sets: &RuleSets,
    ) -> Result<Self, ConfigError> {
        let Compiled { entries, find_process, references, missing_rule_set } =
            compile::compile(route, config, sets)?;
        let index = Index::new(entries.iter().map(|entry| &entry.rule));
        let own = config.crosspoint.as_ref();
        let dns_ends_sniffing =
            own.is_some_and(|own| own.compat.iter().any(|name| name == DNS_ENDS_SNIFFING));
        let sets = sets.clone();
        let table = Table {
            entries,
            index,
            find_process,
            sets,
            references,
            missing_rule_set,
            dns_ends_sniffing,
        };
        Ok(Self(Arc::new(table)))
    }

    /// Every tag that the rules refer to, with its JSON path, for planning to refuse what does not exist.
    pub fn references(&self) -> Vec<(Dep, String)> {
        self.0.references.clone()
    }

    /// The error for the first rule that refers to a rule-set which does not exist. The reference finds it at start,
    /// after outbounds, DNS servers and DNS rules.
    pub fn missing_rule_set(&self) -> Option<ConfigError> {
        self.0.missing_rule_set.clone()
    }

    /// The route table of a generation. Tags are looked up in the snapshot that a connection routes with.
    ///
    /// # Errors
    /// When there is no outbound for connections that no rule decides.
    pub fn bind(&self, names: &Namespace) -> Result<Arc<dyn RouteTable>, RouteError> {
        if names.default_outbound.is_none() {
            return Err(RouteError("default outbound not found".to_owned()));
        }
        Ok(self.0.clone())
    }
}

struct Table {
    entries: Vec<Entry>,
    index: Index,
    find_process: bool,
    sets: RuleSets,
    references: Vec<(Dep, String)>,
    missing_rule_set: Option<ConfigError>,
    dns_ends_sniffing: bool,
}

impl Table {
    /// Whether the process behind a connection has to be found first. Rule-sets may want it, too.
    fn find_process(&self) -> bool {
        self.find_process || self.sets.iter().any(|slot| slot.needs_process())
    }
}

/// Where one connection stands in the rules.
struct Run {
    stage: Stage,
    /// The next rule.
    next: usize,
    /// Whether the destination was IPv6 at the beginning; `None` for a name.
    ipv6: Option<bool>,
    /// The destination that the client knows, if a rule has changed it.
    original: Option<Target>,
    /// The made-up address that the client knows the destination by.
    fake: Option<Host>,
    /// Decide only what can be decided before a connection is accepted.
    pre_match: bool,
}

#[derive(Clone, Copy)]
enum Stage {
    Begin,
    Process,
    LegacySniff,
    LegacyResolve,
    Rules,
}

/// What has to be done before the rules can go on.
enum Step<'a> {
    Done(Result<Decision, RouteError>),
    FindProcess,
    Sniff(Sniff<'a>),
    Resolve(Cow<'a, Resolve>),
    /// Pre-match cannot tell.
    Unknown,
}

impl Run {
    fn new(pre_match: bool) -> Self {
        Self { stage: Stage::Begin, next: 0, ipv6: None, original: None, fake: None, pre_match }
    }

    /// Goes on until something slow has to be done or a decision is made. Never waits.
    fn advance<'a>(
        &mut self,
        table: &'a Table,
        session: &mut Session,
        snapshot: &Snapshot,
    ) -> Step<'a> {
        loop {
            match self.stage {
                Stage::Begin => {
                    self.stage = Stage::Process;
                    if let Some(error) = removed_feature(session) {
                        return Step::Done(Err(RouteError(error.to_owned())));
                    }
                    if !self.pre_match && session.process.is_none() && table.find_process() {
                        return Step::FindProcess;
                    }
                }
                Stage::Process => {
                    self.stage = Stage::LegacySniff;
                    if let Err(error) = self.name_address(session, &*snapshot.resolver) {
                        return Step::Done(Err(error));
                    }
                    self.ipv6 = session.target.host.ip().map(|ip| ip.is_ipv6());
                    if let Some(old) =
                        session.legacy.as_deref().filter(|old| old.sniff && !self.pre_match)
                    {
                        return Step::Sniff(Sniff {
                            sniffers: &[],
                            timeout: old.sniff_timeout,
                            override_destination: old.sniff_override_destination,
                        });
                    }
                }
                Stage::LegacySniff => {
                    self.stage = Stage::LegacyResolve;
                    let strategy = session.legacy.as_deref().and_then(|old| old.domain_strategy);
                    if strategy.is_some() && has_name(session) {
                        return Step::Resolve(Cow::Owned(Resolve {
                            strategy,
                            ..Resolve::default()
                        }));
                    }
                }
                Stage::LegacyResolve => {
                    self.stage = Stage::Rules;
                    session.legacy = None;
                }
                Stage::Rules => return self.rules(table, session, &snapshot.names),
            }
        }
    }

    /// Finds the name that a client means by an address: that of a made-up one takes its place, that which the client
    /// was told the address for is noted.
    fn name_address(
        &mut self,
        session: &mut Session,
        resolver: &dyn resolve::Resolve,
    ) -> Result<(), RouteError> {
        let Some(ip) = session.target.host.ip() else { return Ok(()) };
        match resolver.fake_name(ip) {
            Some(None) => {
                let why = "missing fakeip record, try enable `experimental.cache_file`";
                return Err(RouteError(why.to_owned()));
            }
            Some(Some(name)) if !name.is_empty() => {
                debug!(conn = session.id, "found fakeip domain: {name}");
                self.fake =
                    Some(std::mem::replace(&mut session.target.host, Host::Name(name.into())));
                session.udp.disable_domain_unmapping = false;
            }
            Some(_) => {}
            None if session.domain.is_none() => {
                session.domain = resolver.mapped_name(ip);
                if let Some(name) = &session.domain {
                    debug!(conn = session.id, "found reserve mapped domain: {name}");
                }
            }
            None => {}
        }
        Ok(())
    }

    fn rules<'a>(
        &mut self,
        table: &'a Table,
        session: &mut Session,
        names: &Namespace,
    ) -> Step<'a> {
        loop {
            let Some((at, entry)) = self.find(table, session) else {
                return Step::Done(default_outbound(session, names));
            };
            self.next = at + 1;
            if self.pre_match && session.process.is_none() && entry.needs_process() {
                return Step::Unknown;
            }
            debug!(conn = session.id, "match[{at}] => {}", entry.action);
            match &entry.action {
                Action::Direct => {}
                Action::Options(options) => self.apply(options, session),
                Action::Route { outbound, options } => {
                    self.apply(options, session);
                    return Step::Done(outbound_by_tag(outbound, session, names));
                }
                Action::Reject(rejecter) => {
                    return Step::Done(Ok(Decision::Reject(rejecter.next())));
                }
                Action::Sniff(_) if self.pre_match => return Step::Unknown,
                Action::Sniff(action) => {
                    return Step::Sniff(Sniff {
                        sniffers: &action.sniffers,
                        timeout: action.timeout,
                        override_destination: false,
                    });
                }
                Action::Resolve(action) if has_name(session) => {
                    return Step::Resolve(Cow::Borrowed(action));
                }
                Action::Resolve(_) => {}
                Action::HijackDns => return Step::Done(Ok(Decision::HijackDns)),
            }
        }
    }

    /// The next rule that matches; before accept also one that cannot be judged yet.
    fn find<'a>(&self, table: &'a Table, session: &Session) -> Option<(usize, &'a Entry)> {
        let facts = Facts::connection(session, self.ipv6);
        table.index.candidates(self.next, &facts).find_map(|at| {
            let entry = table.entries.get(at)?;
            let unknown = self.pre_match && session.process.is_none() && entry.needs_process();
            (unknown || entry.rule.matches(&facts)).then_some((at, entry))
        })
    }

    fn apply(&mut self, options: &Options, session: &mut Session) {
        if options.overrides() && self.original.is_none() {
            self.original = Some(session.target.clone());
        }
        options.apply(session);
        // A client that knows a made-up address can be answered from no other.
        session.udp.disable_domain_unmapping &= self.fake.is_none();
    }

    /// How datagrams have to be mapped so that the client does not notice what rules did to its destination.
    fn mapping(&self, session: &Session) -> Option<Mapping> {
        let target = &session.target;
        match (session.resolved.first(), &self.original) {
            (Some(ip), original) if target.host.name().is_some() => Some(Mapping::Host {
                client: original.as_ref().unwrap_or(target).host.clone(),
                server: (*ip).into(),
                back: self.fake.is_some() || !session.udp.disable_domain_unmapping,
            }),
            (_, Some(original)) if original != target => {
                Some(Mapping::Target { client: original.clone(), server: target.clone() })
            }
            _ => None,
        }
    }
}

/// Whether the destination is a name that can be looked up.
fn has_name(session: &Session) -> bool {
    session.target.host.name().is_some_and(is_domain_name)
}

/// Destinations that stood for multiplexing on any inbound, which the reference has removed.
fn removed_feature(session: &Session) -> Option<&'static str> {
    if session.network != Network::Tcp {
        return None;
    }
    Some(match session.target.host.name()? {
        "sp.mux.sing-box.arpa" => {
            "global multiplex is deprecated since sing-box v1.7.0, enable multiplex in Inbound fields instead."
        }
        "v1.mux.cool" => "global multiplex (v2ray legacy) not supported since sing-box v1.7.0.",
        "sp.v2.udp-over-tcp.arpa" => "global UoT not supported since sing-box v1.7.0.",
        "sp.udp-over-tcp.arpa" => "global UoT (legacy) not supported since sing-box v1.7.0.",
        _ => return None,
    })
}

fn outbound_by_tag(
    tag: &Tag,
    session: &Session,
    names: &Namespace,
) -> Result<Decision, RouteError> {
    let slot =
        names.outbounds.get(tag).ok_or_else(|| RouteError(format!("outbound not found: {tag}")))?;
    usable(slot, session, "outbound")
}

fn default_outbound(session: &Session, names: &Namespace) -> Result<Decision, RouteError> {
    let slot = names.default_outbound.as_ref();
    let slot = slot.ok_or_else(|| RouteError("default outbound not found".to_owned()))?;
    usable(slot, session, "default outbound")
}

/// The outbound, unless it is known not to carry that network. One that is being restarted says so itself.
fn usable(
    slot: &Arc<Slot<dyn Outbound>>,
    session: &Session,
    what: &str,
) -> Result<Decision, RouteError> {
    if slot.now().is_some_and(|instance| !instance.face.supports(session.network)) {
        let network = match session.network {
            Network::Tcp => "TCP",
            Network::Udp => "UDP",
        };
        return Err(RouteError(format!("{network} is not supported by {what}: {}", slot.tag)));
    }
    Ok(Decision::Outbound(slot.clone()))
}

impl RouteTable for Table {
    fn route<'a>(
        &'a self,
        session: &'a mut Session,
        flow: &'a mut Flow,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<Decision, RouteError>> {
        let mut run = Run::new(false);
        // Most connections need nothing slow: they cost a small allocation and no state machine.
        match run.advance(self, session, snapshot) {
            Step::Done(result) => {
                if let Ok(Decision::Outbound(_)) = &result {
                    map_packets(&run, session, flow);
                }
                Box::pin(std::future::ready(result))
            }
            step => Box::pin(drive(self, run, step, session, flow, snapshot)),
        }
    }

    fn pre_match(&self, session: &mut Session, snapshot: &Snapshot) -> PreMatch {
        // What options change must not last: the rules run again when the connection is accepted.
        let mut session = session.clone();
        match Run::new(true).advance(self, &mut session, snapshot) {
            Step::Done(Ok(Decision::Reject(how))) => PreMatch::Reject(how),
            // Everything else, errors included, is told to the accepted connection.
            _ => PreMatch::Accept,
        }
    }
}

async fn drive(
    table: &Table,
    mut run: Run,
    mut step: Step<'_>,
    session: &mut Session,
    flow: &mut Flow,
    snapshot: &Snapshot,
) -> Result<Decision, RouteError> {
    let mut peek = Peek::new(table.dns_ends_sniffing);
    loop {
        match step {
            Step::Done(result) => {
                if result.is_ok() {
                    peek.give_back(flow);
                }
                if let Ok(Decision::Outbound(_)) = &result {
                    map_packets(&run, session, flow);
                }
                return result;
            }
            Step::FindProcess => {
                // Our end of the client's connection makes the search exact.
                let here = match flow {
                    Flow::Stream(stream) => stream.local_addr(),
                    Flow::Packet(_) => None,
                };
                find_process(session, here).await;
            }
            Step::Sniff(sniff) => peek.sniff(sniff, session, flow).await?,
            Step::Resolve(action) => {
                let lookup = Lookup {
                    server: action.server.as_deref(),
                    strategy: action.strategy,
                    disable_cache: action.disable_cache,
                    rewrite_ttl: action.rewrite_ttl,
                    client_subnet: action.client_subnet,
                    session: Some(&*session),
                    ..Lookup::new(session.target.host.name().unwrap_or_default())
                };
                let found = snapshot.resolver.lookup(lookup).await;
                session.resolved = found.map_err(|error| RouteError(error.to_string()))?;
                debug!(conn = session.id, "resolved {:?}", session.resolved);
            }
            Step::Unknown => {}
        }
        step = run.advance(table, session, snapshot);
    }
}

/// Lets a client see what it knows; `run` knows what has become of its destination.
fn map_packets(run: &Run, session: &Session, flow: &mut Flow) {
    let Flow::Packet(packets) = flow else { return };
    let name = match &run.original {
        Some(original) => &original.host,
        None => &session.target.host,
    };
    let fake = run.fake.as_ref().map(|fake| Mapping::Host {
        client: fake.clone(),
        server: name.clone(),
        back: true,
    });
    // The made-up address lies nearest to the client.
    for mapping in fake.into_iter().chain(run.mapping(session)) {
        let inner = std::mem::replace(packets, Box::new(Gone));
        *packets = Box::new(Mapped::new(inner, mapping));
    }
}

async fn find_process(session: &mut Session, here: Option<SocketAddr>) {
    match Finder::global().find(session.network, session.source, here).await {
        Ok(process) => {
            info!(
                conn = session.id,
                user = process.user.as_deref(),
                uid = process.uid,
                "found process path: {}",
                process.path.as_deref().unwrap_or("unknown"),
            );
            session.process = Some(Box::new(process));
        }
        Err(FindError::Remote) => {}
        Err(error) => info!(conn = session.id, "failed to search process: {error}"),
    }
}
