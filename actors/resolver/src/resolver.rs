//! The resolver of one generation.

use std::{collections::HashMap, io, net::IpAddr, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, Tag,
    flow::Flow,
    resolve::{DnsServer, Family, Lookup, NO_TRAIL, Query, Resolve, ResolveError, Strategy},
    session::Session,
    slot::{Instance, Slot},
    snapshot::{Namespace, Plane},
};
use hickory_proto::op::ResponseCode;
use tokio::time::timeout;
use tracing::debug;

use crate::{flight::Flights, message};

/// How long a server may take for one query, as in the reference.
const TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<Vec<IpAddr>, ResolveError>;

/// What makes two queries equal: the same life of the same server, name and family.
type Key = (Tag, u64, Box<str>, Family);

/// Chooses servers and asks them.
pub(crate) struct Resolver {
    names: Arc<Namespace>,
    default_server: Option<Arc<Slot<dyn DnsServer>>>,
    strategy: Strategy,
    by_server: HashMap<Tag, Strategy>,
    flights: Flights<Key, Answer>,
}

impl Resolver {
    pub(crate) fn new(
        names: Arc<Namespace>,
        default_server: Option<Arc<Slot<dyn DnsServer>>>,
        strategy: Strategy,
        by_server: HashMap<Tag, Strategy>,
    ) -> Self {
        Self { names, default_server, strategy, by_server, flights: Flights::default() }
    }

    async fn ask(&self, lookup: Lookup<'_>) -> Answer {
        // A final dot says nothing more here; servers know names without it.
        let name = match lookup.name {
            "." => ".",
            name => name.strip_suffix('.').unwrap_or(name),
        };
        let slot = match lookup.server {
            Some(tag) => self.names.dns.get(tag),
            None => self.default_server.as_ref(),
        };
        let no_server = || ResolveError::NoServer(lookup.server.unwrap_or("default").into());
        let slot = slot.ok_or_else(no_server)?;
        let server = slot.get().await.map_err(|error| failed(name, error))?;
        let query = |family| self.query(&server, name, family, lookup.disable_cache);
        let both = async || {
            let (v4, v6) = tokio::join!(query(Family::V4), query(Family::V6));
            match (v4, v6) {
                (Ok(v4), Ok(v6)) => Ok((v4, v6)),
                // Addresses of one family are enough: the other one's failure is not the name's.
                (Ok(found), Err(_)) if !found.is_empty() => Ok((found, Vec::new())),
                (Err(_), Ok(found)) if !found.is_empty() => Ok((Vec::new(), found)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        };
        // As the reference orders them: IPv4 first, unless IPv6 is preferred.
        let found = match self.strategy(&lookup, &slot.tag) {
            Strategy::Ipv4Only => query(Family::V4).await?,
            Strategy::Ipv6Only => query(Family::V6).await?,
            Strategy::PreferIpv6 => both().await.map(|(v4, v6)| [v6, v4].concat())?,
            Strategy::AsIs | Strategy::PreferIpv4 => {
                both().await.map(|(v4, v6)| [v4, v6].concat())?
            }
        };
        if found.is_empty() {
            return Err(ResolveError::NotFound { name: name.into() });
        }
        debug!(server = %slot.tag, "lookup succeed for {name}: {found:?}");
        Ok(found)
    }

    /// The lookup's own strategy, else the server's, else the global one. "As is" stands for none.
    fn strategy(&self, lookup: &Lookup<'_>, server: &Tag) -> Strategy {
        let own = lookup.strategy.filter(|strategy| *strategy != Strategy::AsIs);
        own.or_else(|| self.by_server.get(server).copied()).unwrap_or(self.strategy)
    }

    /// Asks for one family. Who bypasses the cache wants an answer of its own.
    async fn query(
        &self,
        server: &Arc<Instance<dyn DnsServer>>,
        name: &str,
        family: Family,
        alone: bool,
    ) -> Answer {
        if alone {
            return exchange(server.face.clone(), name.into(), family).await;
        }
        let key = (server.life.tag.clone(), server.life.epoch, name.into(), family);
        let start = || exchange(server.face.clone(), name.into(), family);
        let answer = self.flights.run(key, start).await;
        answer.unwrap_or_else(|| Err(failed(name, "the server gave up")))
    }
}

async fn exchange(server: Arc<dyn DnsServer>, name: Box<str>, family: Family) -> Answer {
    let query = message::query(0, &name, family).and_then(|query| query.to_vec());
    let query = query.map_err(|error| failed(&name, error))?;
    let query = Query { message: &query, trail: &NO_TRAIL };
    let answer = match timeout(TIMEOUT, server.exchange(query)).await {
        Ok(answer) => answer.map_err(|error| failed(&name, error))?,
        Err(_) => return Err(failed(&name, format_args!("no answer within {TIMEOUT:?}"))),
    };
    let answer = message::read(&answer).map_err(|error| failed(&name, error))?;
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(message::addresses(&answer).collect()),
        ResponseCode::NXDomain => Err(ResolveError::NotFound { name }),
        code => Err(failed(&name, code)),
    }
}

fn failed(name: &str, why: impl std::fmt::Display) -> ResolveError {
    ResolveError::Failed { name: name.into(), message: why.to_string().into() }
}

impl Resolve for Resolver {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(self.ask(lookup))
    }

    fn serve<'a>(
        &'a self,
        session: &'a Session,
        flow: Flow,
        plane: &'a Plane,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(crate::serve::flow(session, flow, plane))
    }
}
