//! Lookups of this program itself: addresses of both families at once.

use std::net::IpAddr;

use crosspoint_kernel::resolve::{Family, Lookup, ResolveError, Strategy, Trail};
use crosspoint_rules::Facts;
use tracing::{debug, error, info};

use crate::{
    resolver::{Choice, Chosen, Resolver, Walk},
    rule::Settings,
    server::Failure,
    wire::{self, Query},
};

/// The addresses of one name: queries for both families.
struct Queries {
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Queries {
    fn new(name: &str) -> Option<Self> {
        Some(Self { v4: wire::question(name, wire::A)?, v6: wire::question(name, wire::AAAA)? })
    }

    fn get(&self, family: Family) -> Option<Query<'_>> {
        let message = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        Query::parse(message).ok()
    }
}

fn failed(name: &str, why: impl std::fmt::Display) -> ResolveError {
    ResolveError::Failed { name: name.into(), message: why.to_string().into() }
}

/// As the reference orders them: IPv4 first, unless IPv6 is preferred.
fn ordered(strategy: Option<Strategy>, v4: Vec<IpAddr>, v6: Vec<IpAddr>) -> Vec<IpAddr> {
    match strategy {
        Some(Strategy::Ipv4Only) => v4,
        Some(Strategy::Ipv6Only) => v6,
        Some(Strategy::PreferIpv6) => [v6, v4].concat(),
        _ => [v4, v6].concat(),
    }
}

impl Resolver {
    pub(crate) async fn find(&self, lookup: Lookup<'_>) -> Result<Vec<IpAddr>, ResolveError> {
        // A final dot says nothing more here.
        let name = match lookup.name {
            "." => ".",
            name => name.strip_suffix('.').unwrap_or(name),
        };
        let found = self.find_any(name, &lookup).await;
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(ResolveError::NotFound { name: name.into() }),
            false => Ok(found),
        });
        let conn = lookup.session.map(|session| session.id);
        match &found {
            Ok(found) => info!(conn, "lookup succeed for {name}: {found:?}"),
            // Whoever asked tells of it; what is not there is no fault of ours.
            Err(ResolveError::NotFound { .. } | ResolveError::Rejected { .. }) => {
                debug!(conn, "lookup failed for {name}");
            }
            Err(why) => error!(conn, "lookup failed for {name}: {why}"),
        }
        found
    }

    async fn find_any(&self, name: &str, lookup: &Lookup<'_>) -> Result<Vec<IpAddr>, ResolveError> {
        let settings = Settings {
            strategy: lookup.strategy.filter(|strategy| *strategy != Strategy::AsIs),
            disable_cache: lookup.disable_cache,
            rewrite_ttl: lookup.rewrite_ttl,
            subnet: lookup.client_subnet,
        };
        let not_found = || ResolveError::NotFound { name: name.into() };
        let queries = Queries::new(name).ok_or_else(not_found)?;
        if let Some(found) = self.at_hand(&queries, &settings) {
            return Ok(found);
        }
        let conn = lookup.session.map(|session| session.id);
        debug!(conn, "lookup domain {name}");
        let facts = Facts::query(lookup.session, name, 0);
        let facts = facts.with_outbound(lookup.outbound.unwrap_or_default());
        let mut walk = Walk::internal(settings, conn);
        loop {
            let chosen = match self.choose(&facts, lookup.server, &mut walk)? {
                Choice::Ask(chosen) => chosen,
                Choice::Refuse(rejecter) if rejecter.drops() => return Err(ResolveError::Dropped),
                Choice::Refuse(_) => return Err(ResolveError::Rejected { name: name.into() }),
                Choice::Fixed(predefined) => {
                    if predefined.rcode() != 0 {
                        return code(predefined.rcode(), name).map(|()| Vec::new());
                    }
                    let (v4, v6) = predefined.addresses().into_iter().partition(IpAddr::is_ipv4);
                    let strategy = walk.settings.strategy.or(self.plan.settings.strategy);
                    return Ok(ordered(strategy, v4, v6));
                }
            };
            let found = self.both(&queries, &chosen, &facts, lookup.trail, name).await;
            match found {
                // The next rule may have a server whose answer is accepted.
                Err(failure) if chosen.limit.is_some() => {
                    debug!(conn, "{failure} for {name}");
                }
                Err(failure) => return Err(failure.for_name(name)),
                Ok(found) => return Ok(found),
            }
        }
    }

    /// Both families from the shared cache, before rules are looked at.
    fn at_hand(&self, queries: &Queries, settings: &Settings) -> Option<Vec<IpAddr>> {
        let one = |family| {
            let hit = self.shared_for(&queries.get(family)?, settings)?;
            let known = hit.reply().rcode() == 0;
            Some(if known { hit.reply().addresses().to_vec() } else { Vec::new() })
        };
        Some(match settings.strategy {
            Some(Strategy::Ipv4Only) => one(Family::V4)?,
            Some(Strategy::Ipv6Only) => one(Family::V6)?,
            own => {
                let strategy = own.or(self.plan.settings.strategy);
                ordered(strategy, one(Family::V4)?, one(Family::V6)?)
            }
        })
    }

    /// Asks for the families that the strategy wants, side by side.
    async fn both(
        &self,
        queries: &Queries,
        chosen: &Chosen<'_>,
        facts: &Facts<'_>,
        trail: &Trail,
        name: &str,
    ) -> Result<Vec<IpAddr>, Failure> {
        let one = async |family| {
            let bad = || Failure::Other(failed(name, "not a name"));
            let query = queries.get(family).ok_or_else(bad)?;
            let (reply, _) = self.ask(&query, chosen, facts, trail).await?;
            code(reply.rcode(), name).map_err(Failure::Other)?;
            Ok(reply.addresses().to_vec())
        };
        let strategy = chosen.settings.strategy;
        match strategy {
            Some(Strategy::Ipv4Only) => return one(Family::V4).await,
            Some(Strategy::Ipv6Only) => return one(Family::V6).await,
            _ => {}
        }
        let (v4, v6): (Result<_, Failure>, Result<_, Failure>) =
            tokio::join!(one(Family::V4), one(Family::V6));
        let (v4, v6) = match (v4, v6) {
            (Ok(v4), Ok(v6)) => (v4, v6),
            // Addresses of one family are enough: the other one's failure is not the name's.
            (Ok(found), Err(_)) if !found.is_empty() => (found, Vec::new()),
            (Err(_), Ok(found)) if !found.is_empty() => (Vec::new(), found),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        Ok(ordered(strategy, v4, v6))
    }
}

/// An answer with an error code is none.
fn code(rcode: u16, name: &str) -> Result<(), ResolveError> {
    match rcode {
        0 => Ok(()),
        3 => Err(ResolveError::NotFound { name: name.into() }),
        other => Err(failed(name, crosspoint_schema::options::Rcode(other.into()))),
    }
}
