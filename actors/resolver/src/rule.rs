//! DNS rules: conditions and what follows.

use std::{collections::VecDeque, fmt, time::Duration};

use crosspoint_kernel::{Tag, net::dial::strategy, resolve::Strategy};
use crosspoint_rules::{DnsMatcher, Refusal, RuleSets};
use crosspoint_schema::{
    decode::Prefix,
    options::{DnsRouteOptionsAction, DnsRule, DnsRuleAction, RejectAction, RejectMethod},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::predefined::Predefined;

/// Refusals of one rule within [`WINDOW`] after which further queries get no answer.
const LIMIT: usize = 50;
const WINDOW: Duration = Duration::from_secs(30);

/// How a query is asked. `None` leaves it to the next one in line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) strategy: Option<Strategy>,
    pub(crate) disable_cache: bool,
    pub(crate) rewrite_ttl: Option<u32>,
    pub(crate) subnet: Option<Prefix>,
}

impl Settings {
    fn new(options: &DnsRouteOptionsAction) -> Self {
        Self {
            strategy: strategy(options.strategy),
            disable_cache: options.disable_cache,
            rewrite_ttl: options.rewrite_ttl,
            subnet: options.client_subnet.map(|subnet| subnet.0),
        }
    }

    /// What a later rule says counts more.
    pub(crate) fn then(self, later: &Self) -> Self {
        Self {
            strategy: later.strategy.or(self.strategy),
            disable_cache: later.disable_cache || self.disable_cache,
            rewrite_ttl: later.rewrite_ttl.or(self.rewrite_ttl),
            subnet: later.subnet.or(self.subnet),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(strategy) = self.strategy {
            words.push(format!("strategy={strategy:?}"));
        }
        if self.disable_cache {
            words.push("disable-cache".to_owned());
        }
        words.extend(self.rewrite_ttl.map(|ttl| format!("rewrite-ttl={ttl}")));
        words.extend(self.subnet.map(|subnet| format!("client-subnet={subnet}")));
        f.write_str(&words.join(","))
    }
}

/// What happens when a rule matches.
#[derive(Debug)]
pub(crate) enum Action {
    Route { server: Tag, settings: Settings },
    Options(Settings),
    Reject(Rejecter),
    Predefined(Predefined),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { server, settings } if *settings == Settings::default() => {
                write!(f, "route({server})")
            }
            Self::Route { server, settings } => write!(f, "route({server},{settings})"),
            Self::Options(settings) => write!(f, "route-options({settings})"),
            Self::Reject(rejecter) if rejecter.drop => f.write_str("reject(drop)"),
            Self::Reject(_) => f.write_str("reject"),
            Self::Predefined(predefined) => predefined.fmt(f),
        }
    }
}

/// How one rule refuses queries, and how often it did lately.
#[derive(Debug)]
pub(crate) struct Rejecter {
    drop: bool,
    no_drop: bool,
    /// The last [`LIMIT`] refusals, oldest first.
    recent: Mutex<VecDeque<Instant>>,
}

impl Rejecter {
    fn new(options: &RejectAction) -> Self {
        let drop = options.method == RejectMethod::Drop;
        Self { drop, no_drop: options.no_drop, recent: Mutex::default() }
    }

    /// Whether one more query is to get no answer at all.
    pub(crate) fn drops(&self) -> bool {
        if self.drop || self.no_drop {
            return self.drop;
        }
        let now = Instant::now();
        let mut recent = self.recent.lock();
        let full = recent.len() == LIMIT;
        let flood =
            full && recent.front().is_some_and(|first| now.duration_since(*first) <= WINDOW);
        if full {
            recent.pop_front();
        }
        recent.push_back(now);
        flood
    }
}

/// A rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) matcher: DnsMatcher,
    pub(crate) action: Action,
}

impl Rule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// What the reference refuses, to be put behind `parse dns rule[N]: `.
    pub(crate) fn compile(rule: &DnsRule, sets: &RuleSets) -> Result<Self, Refusal> {
        let matcher = DnsMatcher::compile(rule, sets);
        if let DnsRuleAction::Route(route) = rule.action()
            && route.server.is_empty()
            && rule.is_valid()
        {
            // Found after missing conditions and before everything else.
            return Err(Refusal::whole("missing server field"));
        }
        let action = match rule.action() {
            DnsRuleAction::Route(route) => Action::Route {
                server: route.server.as_str().into(),
                settings: Settings::new(&route.options),
            },
            DnsRuleAction::RouteOptions(options) => Action::Options(Settings::new(options)),
            DnsRuleAction::Reject(options) => Action::Reject(Rejecter::new(options)),
            DnsRuleAction::Predefined(options) => Action::Predefined(Predefined::new(options)),
        };
        Ok(Self { matcher: matcher?, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_fifty_first_refusal_within_thirty_seconds_is_silent() {
        let rejecter = Rejecter::new(&RejectAction::default());
        assert!((0..50).all(|_| !rejecter.drops()));
        assert!(rejecter.drops());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(!rejecter.drops());
        let never = Rejecter { no_drop: true, ..Rejecter::new(&RejectAction::default()) };
        assert!((0..200).all(|_| !never.drops()));
        let always =
            Rejecter::new(&RejectAction { method: RejectMethod::Drop, ..RejectAction::default() });
        assert!(always.drops());
    }
}
