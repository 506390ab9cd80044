//! Routes for sockets that are bound to an interface, and for nobody else.
//!
//! A socket that is bound to an interface reaches every address of IPv4 through it: Linux takes a destination without a
//! route to be on the link (`ip_route_output_key_hash_rcu`). For IPv6 it wants a route. It lies in a table of its own, which
//! a policy rule opens for sockets that are bound to the interface; the traffic of all others goes where it went. The
//! reference does the same (sing-tun without `auto_route`).

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crosspoint_kernel::vault::{Trace, Vault};
use crosspoint_network::{ORIGIN, Route, Rule, Setup};
use ipnet::Ipv6Net;
use parking_lot::Mutex;

use crate::Tun;

/// Our tables are counted from here by the number of their interface.
const TABLES: u32 = 0x4350_0000;

/// Routes of one interface. They go when this is dropped, and when the process ends.
pub struct Scope {
    rule: Rule,
    index: u32,
    routes: Mutex<BTreeSet<Ipv6Net>>,
    removed: AtomicBool,
}

impl Scope {
    /// Leads those networks through the interface. A rule that a process which was killed has left behind is taken
    /// away.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(tun: &Tun, networks: &[Ipv6Net], vault: &Vault) -> io::Result<Arc<Self>> {
        let mut setup = Setup::open()?;
        let mine =
            |rule: &Rule| rule.origin == ORIGIN && rule.output.as_deref() == Some(tun.name());
        let (left, rules): (Vec<_>, Vec<_>) = setup.rules6()?.into_iter().partition(mine);
        for rule in &left {
            setup.delete_rule6(rule)?;
        }
        let rule = Rule {
            priority: priority(&rules),
            output: Some(tun.name().into()),
            table: TABLES.wrapping_add(tun.index()),
            origin: ORIGIN,
        };
        setup.add_rule6(&rule)?;
        let (index, routes) = (tun.index(), Mutex::default());
        let scope = Arc::new(Self { rule, index, routes, removed: AtomicBool::new(false) });
        let trace: Arc<dyn Trace> = scope.clone();
        vault.trace(Arc::downgrade(&trace));
        scope.set(networks)?;
        Ok(scope)
    }

    /// Leads those networks through the interface, and no others.
    ///
    /// # Errors
    /// What the system says; networks that it takes are in force all the same.
    pub fn set(&self, networks: &[Ipv6Net]) -> io::Result<()> {
        let mut setup = Setup::open()?;
        let mut routes = self.routes.lock();
        let next: BTreeSet<_> = Ipv6Net::aggregate(&networks.to_vec()).into_iter().collect();
        let route = |net: &Ipv6Net| Route {
            network: (net.network().into(), net.prefix_len()),
            index: self.index,
            table: self.rule.table,
        };
        // First the new ones: a network that is cut in two stays reachable.
        let mut result = Ok(());
        for net in next.difference(&routes) {
            result = setup.add_route(&route(net)).and(result);
        }
        for net in routes.difference(&next) {
            result = setup.delete_route(&route(net)).and(result);
        }
        *routes = next;
        result
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Trace for Scope {
    fn remove(&self) {
        if self.removed.swap(true, Ordering::Relaxed) {
            return;
        }
        let gone = Setup::open().and_then(|mut setup| setup.delete_rule6(&self.rule));
        if let Err(error) = gone {
            let name = self.rule.output.as_deref().unwrap_or_default();
            tracing::warn!("take away the policy rule of interface {name}: {error}");
        }
    }
}

/// Before every other rule, but behind the one of local addresses.
fn priority(rules: &[Rule]) -> u32 {
    let first = rules.iter().map(|rule| rule.priority).filter(|priority| *priority > 0).min();
    first.map_or(u32::from(u16::MAX) / 2, |first| first - 1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_comes_first() {
        let rule = |priority| Rule { priority, ..Rule::default() };
        assert_eq!(priority(&[rule(0), rule(32_766)]), 32_765);
        assert_eq!(priority(&[rule(0), rule(100), rule(32_766)]), 99);
        assert_eq!(priority(&[rule(0), rule(1)]), 1);
        assert_eq!(priority(&[]), 32_767);
    }
}
