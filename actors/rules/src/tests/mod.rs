//! Rules and rule-sets as options against connections and queries.

mod cost;
mod dns;
mod hostile;
mod naive;
mod random;
mod sets;

use std::{collections::HashMap, sync::Arc};

use crosspoint_kernel::{
    Kind,
    addr::Target,
    component::Incarnation,
    session::{Network, Session},
};
use crosspoint_schema::{
    decode::{Context, Cursor, Field},
    json::Loaded,
    options::{DnsRule, HeadlessRule, PlainRuleSet, Rule as RuleOptions, RuleSetFile},
};

use crate::{Compat, Compiled, DnsMatcher, Facts, Rule, RuleSetSlot, RuleSets};

/// Decodes a part of a configuration.
fn decode<T: Field>(text: &str) -> T {
    let Loaded { sources, root, .. } = Loaded::from_text("test.json", text).unwrap();
    T::decode(&Cursor::new(&root, "", &Context::new(sources)))
        .unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn file(rules: &str) -> RuleSetFile {
    let rules = decode::<Vec<HeadlessRule>>(&format!("[{rules}]"));
    RuleSetFile { version: 3, rules: PlainRuleSet { rules } }
}

/// Rule-sets with these tags and rules.
fn sets(compat: Compat, list: &[(&str, &str)]) -> RuleSets {
    let slot = |(tag, rules): &(&str, &str)| {
        let slot = RuleSetSlot::new(tag);
        slot.store(Arc::new(Compiled::from_file(file(rules), compat).unwrap()));
        slot
    };
    RuleSets::new(list.iter().map(slot), compat)
}

/// Compiles a rule of the router without its action.
fn rule(options: &RuleOptions, sets: &RuleSets) -> Rule {
    match options {
        RuleOptions::Default(default) => Rule::matchers(&default.matchers, sets).unwrap(),
        RuleOptions::Logical(logical) => {
            Rule::logical(&logical.mode, &logical.rules, logical.invert, |inner| {
                Ok(self::rule(inner, sets))
            })
            .unwrap()
        }
    }
}

/// A connection as tests write it: `tcp example.org:443 from=10.0.0.9:999 in=mixed user=me`.
fn session(text: &str) -> Box<Session> {
    let mut words = text.split_whitespace();
    let network = if words.next() == Some("udp") { Network::Udp } else { Network::Tcp };
    let (host, port) = words.next().unwrap().rsplit_once(':').unwrap();
    let fields: HashMap<&str, &str> = words.map(|word| word.split_once('=').unwrap()).collect();
    let source = fields.get("from").unwrap_or(&"127.0.0.1:40000").parse().unwrap();
    let tag = fields.get("in").unwrap_or(&"in");
    let inbound =
        Incarnation { kind: Kind::Inbound, type_name: "test", tag: (*tag).into(), epoch: 1 };
    let target = Target::new(host, port.parse().unwrap());
    let mut session = Session::new(1, Arc::new(inbound), network, source, target);
    session.user = fields.get("user").map(|user| (*user).into());
    session.domain = fields.get("domain").map(|domain| (*domain).into());
    session.resolved = fields.get("ip").iter().map(|ip| ip.parse().unwrap()).collect();
    session
}

fn facts(session: &Session) -> Facts<'_> {
    Facts::connection(session, session.target.host.ip().map(|ip| ip.is_ipv6()))
}

/// Whether a rule of the router, as JSON, matches a connection.
fn matches(options: &str, sets: &RuleSets, connection: &str) -> bool {
    rule(&decode::<RuleOptions>(options), sets).matches(&facts(&session(connection)))
}

fn dns_rule(options: &str, sets: &RuleSets) -> DnsMatcher {
    DnsMatcher::compile(&decode::<DnsRule>(options), sets).unwrap()
}
