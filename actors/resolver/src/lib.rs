//! Name resolution for dialers and rules: chooses the DNS server, asks for both address families side
//! by side, and orders the answer by strategy.
//!
//! This build has no DNS rules and no cache; options that need them are refused at start.

use std::{net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, Tag,
    component::Dep,
    resolve::{DnsServer, Family, Lookup, Resolve, ResolveError, Strategy},
    slot::Slot,
    snapshot::Namespace,
};
use crosspoint_schema::{
    ConfigError,
    options::{DnsOptions, DomainStrategy},
};

/// The `dns` section, checked and not yet bound to servers.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    default_server: Option<Tag>,
    final_named: bool,
    strategy: Strategy,
}

impl Plan {
    /// Checks the section.
    ///
    /// # Errors
    /// An option that this build does not have.
    pub fn compile(options: Option<&DnsOptions>) -> Result<Self, ConfigError> {
        let Some(options) = options else { return Ok(Self::default()) };
        let client = &options.client;
        let wanted = [
            (!options.rules.is_empty(), "dns.rules"),
            (options.reverse_mapping, "dns.reverse_mapping"),
            (client.disable_expire, "dns.disable_expire"),
            (client.independent_cache, "dns.independent_cache"),
            (client.cache_capacity != 0, "dns.cache_capacity"),
            (client.client_subnet.is_some(), "dns.client_subnet"),
        ];
        if let Some((_, what)) = wanted.into_iter().find(|(used, _)| *used) {
            let message = format!("{what} is not in this build");
            return Err(ConfigError::create("initialize dns router", message).in_path(what));
        }
        let final_named = !options.final_server.is_empty();
        let default_server = if final_named {
            Some(options.final_server.as_str().into())
        } else {
            options.servers.first().map(|server| server.label().into())
        };
        Ok(Self { default_server, final_named, strategy: strategy(client.strategy) })
    }

    /// The tags that the section refers to, and where.
    pub fn references(&self) -> Vec<(Dep, String)> {
        let named = self.default_server.iter().filter(|_| self.final_named);
        named.map(|tag| (Dep::DnsServer(tag.clone()), "dns.final".to_owned())).collect()
    }

    /// The resolver on the servers of one generation.
    pub fn bind(self, names: &Arc<Namespace>) -> Arc<dyn Resolve> {
        // Without a `dns` section there is one implicit server.
        let default_server = match &self.default_server {
            Some(tag) => names.dns.get(tag),
            None => names.dns.values().next(),
        };
        Arc::new(Resolver {
            default_server: default_server.cloned(),
            names: names.clone(),
            strategy: self.strategy,
        })
    }
}

fn strategy(strategy: DomainStrategy) -> Strategy {
    match strategy {
        DomainStrategy::AsIs => Strategy::AsIs,
        DomainStrategy::PreferIpv4 => Strategy::PreferIpv4,
        DomainStrategy::PreferIpv6 => Strategy::PreferIpv6,
        DomainStrategy::Ipv4Only => Strategy::Ipv4Only,
        DomainStrategy::Ipv6Only => Strategy::Ipv6Only,
    }
}

struct Resolver {
    names: Arc<Namespace>,
    default_server: Option<Arc<Slot<dyn DnsServer>>>,
    strategy: Strategy,
}

impl Resolver {
    async fn ask(&self, lookup: Lookup<'_>) -> Result<Vec<IpAddr>, ResolveError> {
        let slot = match lookup.server {
            Some(tag) => self.names.dns.get(tag),
            None => self.default_server.as_ref(),
        };
        let slot =
            slot.ok_or_else(|| ResolveError::NoServer(lookup.server.unwrap_or("default").into()))?;
        let server = slot.get().await.map_err(|error| ResolveError::Failed {
            name: lookup.name.into(),
            message: error.to_string().into(),
        })?;
        let ask = |family| server.face.lookup(lookup.name, family);
        let both = async || {
            let (v4, v6) = tokio::join!(ask(Family::V4), ask(Family::V6));
            match (v4, v6) {
                // One family is enough: the other one's failure is not the name's.
                (Ok(v4), Ok(v6)) => Ok((v4, v6)),
                (Ok(v4), Err(_)) if !v4.is_empty() => Ok((v4, Vec::new())),
                (Err(_), Ok(v6)) if !v6.is_empty() => Ok((Vec::new(), v6)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        };
        // As the reference orders them: IPv4 first, unless IPv6 is preferred.
        let found = match lookup.strategy.unwrap_or(self.strategy) {
            Strategy::Ipv4Only => ask(Family::V4).await?,
            Strategy::Ipv6Only => ask(Family::V6).await?,
            Strategy::PreferIpv6 => both().await.map(|(v4, v6)| [v6, v4].concat())?,
            Strategy::AsIs | Strategy::PreferIpv4 => {
                both().await.map(|(v4, v6)| [v4, v6].concat())?
            }
        };
        if found.is_empty() {
            return Err(ResolveError::NotFound { name: lookup.name.into() });
        }
        Ok(found)
    }
}

impl Resolve for Resolver {
    fn lookup<'a>(
        &'a self,
        lookup: Lookup<'a>,
    ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        Box::pin(self.ask(lookup))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crosspoint_kernel::{Kind, component::Incarnation};

    /// Knows two names: `both` and `six`; everything else fails.
    struct Fixed;

    impl DnsServer for Fixed {
        fn lookup<'a>(
            &'a self,
            name: &'a str,
            family: Family,
        ) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
            Box::pin(async move {
                match (name, family) {
                    ("both", Family::V4) => Ok(vec![IpAddr::from([192, 0, 2, 1])]),
                    ("both" | "six", Family::V6) => Ok(vec!["2001:db8::1".parse().unwrap()]),
                    ("six", Family::V4) => {
                        Err(ResolveError::Failed { name: name.into(), message: "no".into() })
                    }
                    _ => Err(ResolveError::NotFound { name: name.into() }),
                }
            })
        }
    }

    fn resolver(plan: Plan) -> Arc<dyn Resolve> {
        let mut names = Namespace::default();
        let slot: Arc<Slot<dyn DnsServer>> = Slot::new("a".into());
        let life =
            Incarnation { kind: Kind::DnsServer, type_name: "t", tag: "a".into(), epoch: 1 };
        slot.set(Arc::new(life), Arc::new(Fixed));
        names.dns.insert("a".into(), slot);
        plan.bind(&Arc::new(names))
    }

    #[tokio::test]
    async fn strategies_choose_and_order() {
        let resolver = resolver(Plan::default());
        let (v4, v6): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        for (strategy, expected) in [
            (Strategy::AsIs, vec![v4, v6]),
            (Strategy::PreferIpv4, vec![v4, v6]),
            (Strategy::PreferIpv6, vec![v6, v4]),
            (Strategy::Ipv4Only, vec![v4]),
            (Strategy::Ipv6Only, vec![v6]),
        ] {
            let lookup = Lookup { strategy: Some(strategy), ..Lookup::new("both") };
            assert_eq!(resolver.lookup(lookup).await.unwrap(), expected, "{strategy:?}");
        }
        assert_eq!(resolver.lookup(Lookup::new("six")).await.unwrap(), [v6]);
        assert!(matches!(
            resolver.lookup(Lookup::new("none")).await,
            Err(ResolveError::NotFound { .. })
        ));
        let other = Lookup { server: Some("b"), ..Lookup::new("both") };
        assert!(matches!(resolver.lookup(other).await, Err(ResolveError::NoServer(_))));
    }
}
