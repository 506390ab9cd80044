//! Asking one server: cache, equal queries under way, and what becomes of its answer.

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::{
    Tag,
    resolve::{DnsServer, Family, Query as Exchange, ResolveError, Strategy, Trail},
};
use crosspoint_rules::Facts;
use tokio::time::timeout;
use tracing::debug;

use crate::{
    cache::{Cache, Key, Origin},
    log,
    resolver::{Chosen, Resolver},
    wire::{Answer, Query, Shared, Subnet, has_hints},
};

const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;

/// How long a refresh that has failed is not tried again.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// What makes two queries under way equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlightKey {
    question: Box<[u8]>,
    server: Tag,
    /// A server that has been restarted since is asked anew.
    epoch: u64,
    rewrite_ttl: Option<u32>,
    hints: Option<Family>,
    /// It is kept only when a rule has accepted it.
    limited: bool,
}

/// An answer that came, or why none did.
pub(crate) type Fetched = Result<Fresh, Arc<str>>;

/// An answer that came just now.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    reply: Shared,
    /// What of it is kept, if it may be.
    keep: Option<Shared>,
}

/// Why a server has not answered a query.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("response rejected")]
    Rejected,
    #[error("response rejected (cached)")]
    RejectedBefore,
    #[error("{0}")]
    Server(Arc<str>),
    #[error(transparent)]
    Other(ResolveError),
}

impl Failure {
    pub(crate) fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected | Self::RejectedBefore)
    }

    pub(crate) fn for_name(self, name: &str) -> ResolveError {
        match self {
            Self::Other(error) => error,
            other => ResolveError::Failed { name: name.into(), message: other.to_string().into() },
        }
    }
}

/// One query on its way, with all that it takes.
struct Work {
    face: Arc<dyn DnsServer>,
    conn: Option<u64>,
    /// As the client sent it, and as it is sent.
    asked: Vec<u8>,
    sent: Option<Vec<u8>>,
    trail: Trail,
    timeout: Duration,
    rewrite_ttl: Option<u32>,
    hints: Option<Family>,
    personal: bool,
    /// Where the answer is kept, if nobody has to accept it first.
    store: Option<Store>,
}

#[derive(Clone)]
struct Store {
    cache: Arc<Cache>,
    key: Key,
    origin: Origin,
}

impl Store {
    fn put(&self, fresh: &Fresh) {
        if let Some(reply) = &fresh.keep {
            self.cache.put(self.key.as_bytes(), reply.clone(), reply.ttl(), self.origin);
        }
    }
}

impl Work {
    async fn run(self) -> Fetched {
        let Ok(query) = Query::parse(&self.asked) else { return Err("bad query".into()) };
        let message = self.sent.as_ref().unwrap_or(&self.asked);
        let exchange = self.face.exchange(Exchange { message, trail: &self.trail });
        let wire = match timeout(self.timeout, exchange).await {
            Ok(Ok(wire)) => wire,
            Ok(Err(error)) => return Err(error.to_string().into()),
            Err(_) => return Err(format!("no answer within {:?}", self.timeout).into()),
        };
        let mut answer = Answer::read(wire, &query).map_err(Arc::<str>::from)?;
        if let Some(family) = self.hints {
            answer.keep_hints(family);
        }
        let ttl = self.rewrite_ttl.unwrap_or_else(|| answer.ttl());
        answer.set_ttl(ttl);
        let keep = matches!(answer.rcode(), NOERROR | NXDOMAIN) && !answer.is_truncated();
        // Options for this client are not for the next one.
        let others = (keep && self.personal)
            .then(|| Arc::new(answer.clone().into_reply(&query, ttl, false)));
        let reply = Arc::new(answer.into_reply(&query, ttl, self.personal));
        let keep = keep.then(|| others.unwrap_or_else(|| reply.clone()));
        let fresh = Fresh { reply, keep };
        log::answer("exchanged", self.conn, &query, &fresh.reply, ttl);
        if let Some(store) = &self.store {
            store.put(&fresh);
        }
        Ok(fresh)
    }
}

impl Resolver {
    /// The answer of the chosen server, from its cache or from itself, with what is left of its TTL.
    pub(crate) async fn ask(
        &self,
        query: &Query<'_>,
        chosen: &Chosen<'_>,
        facts: &Facts<'_>,
        trail: &Trail,
    ) -> Result<(Shared, u32), Failure> {
        let settings = &chosen.settings;
        let tag = &chosen.slot.tag;
        let subnet = settings.subnet.map(Subnet::new);
        let told = subnet.or(query.subnet());
        let server = self.plan.independent.then_some(chosen.server.hash);
        let key = Key::new(query, told.as_ref(), server);
        let cache = self.cache.as_ref();
        let store = cache
            .filter(|_| !settings.disable_cache && query.is_plain())
            .map(|cache| Store { cache: cache.clone(), key, origin: chosen.server.origin });
        let mut stale = None;
        if let Some(hit) = store.as_ref().and_then(|store| store.cache.get(&store.key)) {
            if !hit.is_stale() {
                log::answer("cached", chosen.conn, query, hit.reply(), hit.ttl);
                return Ok((hit.shared(), hit.ttl));
            }
            // What must be accepted by a rule is not told before it is.
            stale = Some(hit).filter(|_| chosen.limit.is_none());
        }

        let name = || format!("{}.", query.name());
        let state = &self.names.state;
        let remembers = chosen.limit.is_some() && store.is_some() && state.keeps_rejected();
        if remembers && state.rejected(tag, &name(), query.qtype()) {
            return Err(Failure::RejectedBefore);
        }
        // Who is asked on the way to a server asks for itself: waiting for others, who may wait for it, could last.
        let alone = !trail.is_empty() || store.is_none() || query.is_personal();
        let trail = trail.enter(tag).map_err(Failure::Other)?;
        let instance = match (chosen.slot.get().await, &stale) {
            (Ok(instance), _) => instance,
            (Err(_), Some(hit)) => return Ok((hit.shared(), hit.ttl)),
            (Err(error), None) => return Err(Failure::Server(error.to_string().into())),
        };
        let hints = match settings.strategy {
            Some(Strategy::Ipv4Only) => Some(Family::V4),
            Some(Strategy::Ipv6Only) => Some(Family::V6),
            _ => None,
        };
        let work = Work {
            face: instance.face.clone(),
            conn: chosen.conn,
            asked: query.message().to_vec(),
            sent: subnet.filter(|own| query.subnet() != Some(*own)).map(|s| query.with_subnet(&s)),
            trail,
            timeout: self.plan.timeout,
            rewrite_ttl: settings.rewrite_ttl,
            hints: hints.filter(|_| has_hints(query.qtype())),
            personal: query.is_personal() || store.is_none(),
            store: store.clone().filter(|_| chosen.limit.is_none()),
        };
        if let Some(hit) = stale {
            debug!(conn = chosen.conn, "tells {} after its time", query.name());
            if hit.must_refresh() {
                let shared = hit.shared();
                let ttl = hit.ttl;
                tokio::spawn(async move {
                    if let Err(why) = work.run().await {
                        debug!("refresh failed: {why}");
                        tokio::time::sleep(REFRESH_PAUSE).await;
                        hit.refreshed();
                    }
                });
                return Ok((shared, ttl));
            }
            return Ok((hit.shared(), hit.ttl));
        }
        let fresh = if alone {
            work.run().await
        } else {
            let flight = FlightKey {
                question: key.as_bytes().into(),
                server: tag.clone(),
                epoch: instance.life.epoch,
                rewrite_ttl: work.rewrite_ttl,
                hints: work.hints,
                limited: chosen.limit.is_some(),
            };
            let landed = self.flights.run(flight, move || work.run()).await;
            landed.unwrap_or_else(|| Err("the server gave up".into()))
        };
        let fresh = fresh.map_err(Failure::Server)?;
        if let Some(rule) = chosen.limit {
            let reply = &fresh.reply;
            let accepted = reply.rcode() == NOERROR && reply.answers() > 0 && {
                let facts = facts.clone().with_answer(reply.addresses());
                rule.matcher.matches_address_limit(&facts)
            };
            if !accepted {
                log::answer("rejected", chosen.conn, query, reply, reply.ttl());
                if remembers && fresh.keep.is_some() {
                    state.reject(tag, &name(), query.qtype());
                }
                return Err(Failure::Rejected);
            }
            if let Some(store) = &store {
                store.put(&fresh);
            }
        }
        let ttl = fresh.reply.ttl();
        Ok((fresh.reply, ttl))
    }
}
