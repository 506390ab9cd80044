//! Names that a dialer meets, and who resolves them.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicBool},
};

use crosspoint_schema::notice;

use super::settings::{MISSING, ResolverRule, deprecated};
use crate::{
    error::{DialClass, DialError, Side},
    resolve::{Lookup, ResolveError, Strategy},
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
}

impl Names {
    /// The addresses of `name`, in the order in which they should be tried.
    pub(super) async fn lookup(
        &self,
        plane: &Arc<Plane>,
        name: &str,
    ) -> Result<Vec<IpAddr>, DialError> {
        let snapshot = plane.snapshot.load_full();
        let (server, strategy, disable_cache) =
            match (&self.own, &snapshot.defaults.domain_resolver) {
                (Some(own), _) => {
                    (Some(&own.server), own.strategy.or(self.legacy), own.disable_cache)
                }
                (None, Some(route)) => {
                    (Some(&route.server), self.legacy.or(route.strategy), route.disable_cache)
                }
                (None, None) => {
                    let mut tags = snapshot.names.dns.keys();
                    let first = tags.next();
                    let several = tags.next().is_some();
                    if several {
                        self.choose()?;
                    }
                    (first.filter(|_| !several), self.legacy, false)
                }
            };
        let server = server.map(|tag| &**tag);
        let lookup = Lookup { server, strategy, disable_cache, ..Lookup::new(name) };
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
    };
    let mut failed = DialError::new(class, side, error);
    failed.retry = retry;
    failed
}
