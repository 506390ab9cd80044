//! Names that a dialer meets, and who resolves them.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
};

use crosspoint_schema::notice;

use super::settings::{MISSING, ResolverRule, deprecated};
use crate::{
    Tag,
    error::{DialClass, DialError, Side},
    resolve::{Lookup, ResolveError, Strategy, Trail},
    session::Session,
    snapshot::{DomainResolver, Plane},
};

/// The resolver of one dialer: its own, else the one of `route`, else the only DNS server, else DNS rules.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) own: Option<DomainResolver>,
    /// Dial field `domain_strategy`.
    pub(super) legacy: Option<Strategy>,
    /// What to do when there are several servers to choose from.
    pub(super) rule: ResolverRule,
    /// The outbound that dials, for DNS rules.
    pub(super) outbound: Option<Tag>,
}

impl Names {
    /// The addresses of `name`, in the order in which they should be tried.
    pub(super) async fn lookup(
        &self,
        plane: &Arc<Plane>,
        name: &str,
        session: Option<&Session>,
        trail: &Trail,
    ) -> Result<Vec<IpAddr>, DialError> {
        let snapshot = plane.snapshot.load_full();
        let outbound = self.outbound.as_deref();
        let mut lookup = Lookup { session, outbound, trail, ..Lookup::new(name) };
        let named = match (&self.own, &snapshot.defaults.domain_resolver) {
            (Some(own), _) => Some((own, own.strategy.or(self.legacy))),
            (None, Some(route)) => Some((route, self.legacy.or(route.strategy))),
            (None, None) => None,
        };
        if let Some((named, strategy)) = named {
            lookup.server = Some(&named.server);
            lookup.strategy = strategy;
            lookup.disable_cache = named.disable_cache;
            lookup.rewrite_ttl = named.rewrite_ttl;
            lookup.client_subnet = named.client_subnet;
        } else {
            let mut tags = snapshot.names.dns.keys();
            let first = tags.next();
            let several = tags.next().is_some();
            if several {
                self.choose()?;
            }
            lookup.server = first.filter(|_| !several).map(|tag| &**tag);
            lookup.strategy = self.legacy;
        }
        snapshot.resolver.lookup(lookup).await.map_err(|error| failed(&error))
    }

    /// Whether DNS rules may choose the server, because nobody has named one.
    fn choose(&self) -> Result<(), DialError> {
        static SAID: AtomicBool = AtomicBool::new(false);
        if self.rule == ResolverRule::Lenient {
            deprecated(&notice::MISSING_DOMAIN_RESOLVER, &SAID);
            return Ok(());
        }
        Err(DialError::new(DialClass::HostUnreachable, Side::Local, MISSING))
    }
}

fn failed(error: &ResolveError) -> DialError {
    let (class, side, retry) = match error {
        ResolveError::NotFound { .. } => (DialClass::HostUnreachable, Side::Target, false),
        ResolveError::NoServer(_) => (DialClass::Down, Side::Local, false),
        ResolveError::Failed { .. } => (DialClass::HostUnreachable, Side::Local, true),
        ResolveError::Rejected { .. } | ResolveError::Dropped => {
            (DialClass::Rejected, Side::Local, false)
        }
        ResolveError::Loop(_) => (DialClass::Loop, Side::Local, false),
    };
    let mut failed = DialError::new(class, side, error);
    failed.retry = retry;
    failed
}
