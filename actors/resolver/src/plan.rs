//! The `dns` section.

use std::{collections::HashMap, sync::Arc};

use crosspoint_kernel::{
    Tag,
    component::Dep,
    net::dial::strategy,
    resolve::{Resolve, Strategy},
    snapshot::Namespace,
};
use crosspoint_schema::{ConfigError, RawComponent, options::DnsOptions};

use crate::resolver::Resolver;

/// The `dns` section, checked and not yet bound to servers.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    default_server: Option<Tag>,
    final_named: bool,
    strategy: Strategy,
    /// Strategies of old-style servers, which stand between that of a lookup and the global one.
    by_server: HashMap<Tag, Strategy>,
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
            return Err(ConfigError::initialize(
                "dns router",
                format!("{what} is not in this build"),
            )
            .in_path(what));
        }
        let mut by_server = HashMap::new();
        for server in &options.servers {
            let strategy = old_strategy(server)?;
            if strategy != Strategy::AsIs {
                by_server.insert(server.label().into(), strategy);
            }
        }
        let final_named = !options.final_server.is_empty();
        let default_server = if final_named {
            Some(options.final_server.as_str().into())
        } else {
            options.servers.first().map(|server| server.label().into())
        };
        Ok(Self {
            default_server,
            final_named,
            strategy: strategy(client.strategy).unwrap_or_default(),
            by_server,
        })
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
        let default_server = default_server.cloned();
        Arc::new(Resolver::new(names.clone(), default_server, self.strategy, self.by_server))
    }
}

/// The strategy of an old-style server; what else it may say about queries needs what this build lacks.
fn old_strategy(server: &RawComponent) -> Result<Strategy, ConfigError> {
    let Some(old) = &server.legacy_dns else { return Ok(Strategy::AsIs) };
    if old.client_subnet.is_some() {
        let what = server.kind.indexed(server.index);
        return Err(ConfigError::initialize(what, "client_subnet is not in this build")
            .in_path(format!("{}.client_subnet", server.path)));
    }
    Ok(strategy(old.strategy).unwrap_or_default())
}
