//! Rules as they are matched.

use crosspoint_kernel::session::Network;

use crate::{
    device,
    facts::Facts,
    item::{AdGuardSet, CidrSet, DomainSet, Keywords, PortSet, Regexes, TextSet, is_private},
    sets::SetItem,
};

/// One comparison.
#[derive(Debug)]
pub(crate) enum Item {
    Inbound(TextSet),
    Ipv6(bool),
    QueryType(Box<[u16]>),
    Network {
        tcp: bool,
        udp: bool,
    },
    AuthUser(TextSet),
    Protocol(TextSet),
    Client(TextSet),
    Domain(DomainSet),
    Keyword(Keywords),
    Regex(Regexes),
    AdGuard(AdGuardSet),
    SourceCidr(CidrSet),
    SourcePrivate,
    Cidr(CidrSet),
    Private,
    /// The answer to a DNS query has an address.
    AnyAddress,
    SourcePort(PortSet),
    Port(PortSet),
    ProcessName(TextSet),
    ProcessPath(TextSet),
    ProcessPathRegex(Regexes),
    User(TextSet),
    UserId(Box<[i32]>),
    /// For whose server a name is looked up; `None` for any.
    Outbound(Option<TextSet>),
    /// The network in use is one of these kinds; see [`device`].
    NetworkType {
        wifi: bool,
    },
    WifiName(TextSet),
    /// What cannot be on this platform: packages, metered networks, a mode without Clash API.
    Never,
}

impl Item {
    fn matches(&self, facts: &Facts<'_>, state: &State) -> bool {
        match self {
            Self::Inbound(set) => set.contains(facts.inbound()),
            Self::Ipv6(wanted) => facts.is_version(*wanted),
            Self::QueryType(types) => {
                facts.query_type() != 0 && types.contains(&facts.query_type())
            }
            Self::Network { tcp, udp } => match facts.session().map(|session| session.network) {
                Some(Network::Tcp) => *tcp,
                Some(Network::Udp) => *udp,
                None => false,
            },
            // An empty text in these lists stands for "none".
            Self::AuthUser(set) => set.contains(facts.user()),
            Self::Protocol(set) => set.contains(facts.protocol()),
            Self::Client(set) => set.contains(facts.client()),
            Self::Domain(set) => facts.domain().is_some_and(|domain| set.contains(domain)),
            Self::Keyword(words) => facts.domain().is_some_and(|domain| words.is_in(domain)),
            Self::Regex(list) => facts.domain().is_some_and(|domain| list.is_match(domain)),
            Self::AdGuard(set) => facts.domain().is_some_and(|domain| set.contains(domain)),
            Self::SourceCidr(set) => facts.source().is_some_and(|ip| set.contains(ip)),
            Self::SourcePrivate => facts.source().is_some_and(is_private),
            Self::Cidr(set) if state.match_source => {
                facts.source().is_some_and(|ip| set.contains(ip))
            }
            Self::Cidr(set) => match facts.destinations() {
                [] => state.accept_empty,
                ips => ips.iter().any(|ip| set.contains(*ip)),
            },
            Self::Private => facts.destinations().iter().any(|ip| is_private(*ip)),
            Self::AnyAddress => !facts.answer().is_empty(),
            Self::SourcePort(set) => set.contains(facts.source_port()),
            Self::Port(set) => set.contains(facts.port()),
            Self::ProcessName(set) => facts
                .path()
                .is_some_and(|path| set.contains(path.rsplit('/').next().unwrap_or_default())),
            Self::ProcessPath(set) => facts.path().is_some_and(|path| set.contains(path)),
            Self::ProcessPathRegex(list) => facts.path().is_some_and(|path| list.is_match(path)),
            Self::User(set) => facts
                .process()
                .and_then(|p| p.user.as_deref())
                .is_some_and(|user| set.contains(user)),
            // Identifiers are signed in the configuration and unsigned in the kernel.
            Self::UserId(list) => {
                facts.process().and_then(|p| p.uid).is_some_and(|uid| list.contains(&(uid as i32)))
            }
            Self::Outbound(None) => !facts.outbound().is_empty(),
            Self::Outbound(Some(set)) => set.contains(facts.outbound()),
            Self::NetworkType { wifi } => *wifi && device::has_default_route(),
            // Without a platform interface the name of the Wi-Fi network is always empty.
            Self::WifiName(set) => set.contains(""),
            Self::Never => false,
        }
    }

    fn needs_process(&self) -> bool {
        matches!(
            self,
            Self::ProcessName(_)
                | Self::ProcessPath(_)
                | Self::ProcessPathRegex(_)
                | Self::User(_)
                | Self::UserId(_)
        )
    }
}

/// What the parts of a rule know of each other while it is matched: which of the four OR-groups have matched, and how
/// the rules of a set are to look at addresses. A rule-set shares it with the rule that refers to it; branches of
/// logical rules begin with a new one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    source_address: bool,
    source_port: bool,
    address: bool,
    port: bool,
    /// Something was compared. A rule all of whose comparisons were put off matches, even inverted.
    compared: bool,
    /// Prefixes of rule-sets are those of the source.
    pub(crate) match_source: bool,
    /// Prefixes of rule-sets match where no address is known.
    pub(crate) accept_empty: bool,
    /// Put off what can be told only from the answer to a DNS query.
    before_answer: bool,
    /// Within a rule-set: what fails must still leave the state that the reference leaves.
    pub(crate) in_set: bool,
}

impl State {
    /// For a DNS rule that is matched before the answer is known.
    pub(crate) fn before_answer() -> Self {
        Self { before_answer: true, ..Self::default() }
    }

    /// For a rule of a set by itself.
    pub(crate) fn in_set() -> Self {
        Self { in_set: true, ..Self::default() }
    }

    /// What a branch of a logical rule begins with.
    fn reset(&mut self) {
        let Self { before_answer, in_set, .. } = *self;
        *self = Self { before_answer, in_set, ..Self::default() };
    }

    /// The same rule again, now with the answer.
    pub(crate) fn answered(self) -> Self {
        Self { before_answer: false, ..self }
    }
}

/// A rule with matchers: every group and every other item must match.
#[derive(Debug, Default)]
pub(crate) struct DefaultRule {
    pub(crate) items: Box<[Item]>,
    pub(crate) source_address: Box<[Item]>,
    pub(crate) source_port: Box<[Item]>,
    /// Items of the destination's name.
    pub(crate) name: Box<[Item]>,
    /// Items of the destination's addresses, in one group with those of the name.
    pub(crate) ip: Box<[Item]>,
    pub(crate) port: Box<[Item]>,
    pub(crate) sets: Option<SetItem>,
    pub(crate) invert: bool,
}

impl DefaultRule {
    /// Whether there is nothing to compare: such a rule always matches, even inverted.
    fn is_empty(&self) -> bool {
        let groups = [
            &self.items,
            &self.source_address,
            &self.source_port,
            &self.name,
            &self.ip,
            &self.port,
        ];
        self.sets.is_none() && groups.iter().all(|group| group.is_empty())
    }

    fn matches(&self, facts: &Facts<'_>, state: &mut State) -> bool {
        if self.is_empty() {
            return true;
        }
        // The cheap comparisons first: what fails, fails the rule whatever the rest says. Within a set the groups
        // come first, because the rule that refers to the set sees what they leave behind.
        if !state.in_set && !self.items(facts, state) {
            return self.invert;
        }
        let hurry = !state.in_set && self.sets.is_none();
        let groups: [(&[Item], Flag); 3] = [
            (&self.port, |state| &mut state.port),
            (&self.source_port, |state| &mut state.source_port),
            (&self.source_address, |state| &mut state.source_address),
        ];
        for (items, flag) in groups {
            any(items, facts, state, flag);
            if hurry && !items.is_empty() && !*flag(state) {
                return self.invert;
            }
        }
        let ip: &[Item] = if state.before_answer { &[] } else { &self.ip };
        any(&self.name, facts, state, |state| &mut state.address);
        any(ip, facts, state, |state| &mut state.address);
        if state.in_set && !self.items(facts, state) {
            return self.invert;
        }
        if self.sets.as_ref().is_some_and(|sets| !sets.matches(facts, state)) {
            return self.invert;
        }
        let fails = groups.iter().any(|(items, flag)| !items.is_empty() && !*flag(state))
            || ((!self.name.is_empty() || !ip.is_empty()) && !state.address);
        if fails {
            return self.invert;
        }
        !state.compared || !self.invert
    }

    fn items(&self, facts: &Facts<'_>, state: &mut State) -> bool {
        state.compared |= !self.items.is_empty();
        self.items.iter().all(|item| item.matches(facts, state))
    }

    fn needs_answer(&self) -> bool {
        !self.ip.is_empty() || self.sets.as_ref().is_some_and(SetItem::needs_answer)
    }
}

/// Where a group keeps whether it has matched.
type Flag = fn(&mut State) -> &mut bool;

/// Compares a group, unless it has matched already.
fn any(items: &[Item], facts: &Facts<'_>, state: &mut State, flag: Flag) {
    if !items.is_empty() && !*flag(state) {
        state.compared = true;
        *flag(state) = items.iter().any(|item| item.matches(facts, state));
    }
}

/// A compiled rule. Made by [`Rule::matchers`], [`DnsMatcher::compile`](crate::DnsMatcher::compile), [`Rule::logical`], or of the rules of a set.
#[derive(Debug)]
pub struct Rule(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Default(DefaultRule),
    Logical { or: bool, rules: Box<[Rule]>, invert: bool },
}

impl Rule {
    /// Whether a rule of the router matches a connection.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        self.matches_in(facts, &mut State::default())
    }

    pub(crate) fn matches_in(&self, facts: &Facts<'_>, state: &mut State) -> bool {
        match &self.0 {
            Kind::Default(rule) => rule.matches(facts, state),
            Kind::Logical { or, rules, invert } => {
                // Each branch has groups of its own; what the last one leaves behind is seen by the rule that refers
                // to a set, if this is a rule of one.
                let mut branches = rules.iter().map(|rule| {
                    state.reset();
                    rule.matches_in(facts, state)
                });
                let matched =
                    if *or { branches.any(|branch| branch) } else { branches.all(|branch| branch) };
                matched != *invert
            }
        }
    }

    /// Whether it looks at the process behind a connection. May change when a rule-set is loaded anew.
    pub fn needs_process(&self) -> bool {
        self.any(&|rule| {
            rule.items.iter().any(Item::needs_process)
                || rule.sets.as_ref().is_some_and(SetItem::needs_process)
        })
    }

    /// The tags of its rule-sets, for whoever loads them, with those that do not exist.
    pub fn rule_sets(&self) -> Vec<&str> {
        let mut tags = Vec::new();
        self.walk(&mut |rule| tags.extend(rule.sets.iter().flat_map(SetItem::tags)));
        tags
    }

    /// The first rule-set that it refers to and that does not exist.
    pub fn missing_rule_set(&self) -> Option<&str> {
        let mut missing = None;
        self.walk(&mut |rule| {
            missing = missing.or_else(|| rule.sets.as_ref().and_then(SetItem::missing));
        });
        missing
    }

    /// Whether prefixes of the destination stand in it or in its rule-sets: for DNS rules, an address limit.
    pub(crate) fn needs_answer(&self) -> bool {
        self.any(&DefaultRule::needs_answer)
    }

    fn any(&self, test: &dyn Fn(&DefaultRule) -> bool) -> bool {
        match &self.0 {
            Kind::Default(rule) => test(rule),
            Kind::Logical { rules, .. } => rules.iter().any(|rule| rule.any(test)),
        }
    }

    pub(crate) fn walk<'a>(&'a self, see: &mut dyn FnMut(&'a DefaultRule)) {
        match &self.0 {
            Kind::Default(rule) => see(rule),
            Kind::Logical { rules, .. } => rules.iter().for_each(|rule| rule.walk(see)),
        }
    }
}
