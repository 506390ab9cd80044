//! The action of one rule.

use std::time::Duration;

use crosspoint_kernel::{addr::Host, net::dial, snapshot::Reject};
use crosspoint_rules::{Refusal, is_domain_name};
use crosspoint_schema::options::{
    DialOptions, RejectMethod, ResolveAction, RouteOptionsAction, RuleAction, SniffAction,
};
use tracing::warn;

use crate::{
    action::{Action, Options, Resolve, Sniff},
    reject::Rejecter,
    sniff::Sniffer,
};

/// Compiles an action.
pub(super) fn compile(action: &RuleAction) -> Result<Action, Refusal> {
    Ok(match action {
        RuleAction::Route(route) => Action::Route {
            outbound: route.outbound.as_str().into(),
            options: options(&route.options)?,
        },
        RuleAction::RouteOptions(set) => Action::Options(options(set)?),
        RuleAction::Direct(options) => {
            direct(options)?;
            Action::Direct
        }
        RuleAction::Reject(reject) => {
            let how = match &reject.method {
                RejectMethod::Default => Reject::Refuse,
                RejectMethod::Drop => Reject::Drop,
                RejectMethod::Unknown(word) => {
                    return Err(Refusal::new(
                        "method",
                        format_args!("unknown reject method: {word}"),
                    ));
                }
            };
            Action::Reject(Rejecter::new(how, reject.no_drop))
        }
        RuleAction::HijackDns => Action::HijackDns,
        RuleAction::Sniff(options) => Action::Sniff(sniff(options)?),
        RuleAction::Resolve(options) => Action::Resolve(resolve(options)),
    })
}

/// Checks the action of a rule inside a logical rule: it is never taken, but what the reference refuses is refused.
pub(super) fn check_inner(action: &RuleAction) -> Result<(), Refusal> {
    match action {
        RuleAction::Sniff(options) => sniff(options).map(drop),
        RuleAction::Direct(dial) => direct(dial),
        _ => Ok(()),
    }
}

fn options(o: &RouteOptionsAction) -> Result<Options, Refusal> {
    Ok(Options {
        address: address(&o.override_address),
        port: (o.override_port != 0).then_some(o.override_port),
        fallback_delay: (o.fallback_delay != 0)
            .then(|| Duration::from_nanos(o.fallback_delay.into())),
        disable_domain_unmapping: o.udp_disable_domain_unmapping,
        udp_connect: o.udp_connect,
        udp_timeout: Some(o.udp_timeout.get()).filter(|timeout| !timeout.is_zero()),
        tls_fragment: o
            .tls_fragment
            .then(|| Some(o.tls_fragment_fallback_delay.get()).filter(|delay| !delay.is_zero())),
        tls_record_fragment: o.tls_record_fragment,
    })
}

/// An address or a domain name; anything else is passed over by the reference without a word.
fn address(text: &str) -> Option<Host> {
    if text.is_empty() {
        return None;
    }
    let host = Host::from(text);
    if host.name().is_some_and(|name| !is_domain_name(name)) {
        warn!(
            "override_address {text:?} is neither an address nor a domain name and has no effect"
        );
        return None;
    }
    Some(host)
}

/// The `direct` action is undocumented and does nothing in the reference but to make a dialer, which may fail.
fn direct(dial: &DialOptions) -> Result<(), Refusal> {
    let bound = !dial.bind_interface.is_empty()
        || dial.inet4_bind_address.is_some()
        || dial.inet6_bind_address.is_some()
        || dial.tcp_fast_open;
    let strategy = dial.network_strategy.is_some()
        || (!dial.network_type.is_empty()
            && dial.fallback_network_type.is_empty()
            && dial.fallback_delay.is_zero());
    if bound && strategy {
        let message = "`network_strategy` is conflict with `bind_interface`, `inet4_bind_address`, \
                       `inet6_bind_address` and `tcp_fast_open`";
        return Err(Refusal::new("network_strategy", message));
    }
    Ok(())
}

fn sniff(options: &SniffAction) -> Result<Sniff, Refusal> {
    let parse = |name: &String| {
        Sniffer::parse(name)
            .ok_or_else(|| Refusal::new("sniffer", format_args!("unknown sniffer: {name}")))
    };
    Ok(Sniff {
        sniffers: options.sniffer.iter().map(parse).collect::<Result<_, _>>()?,
        timeout: Some(options.timeout.get()).filter(|timeout| !timeout.is_zero()),
    })
}

fn resolve(options: &ResolveAction) -> Resolve {
    Resolve {
        server: (!options.server.is_empty()).then(|| options.server.as_str().into()),
        strategy: dial::strategy(options.strategy),
        disable_cache: options.disable_cache,
        rewrite_ttl: options.rewrite_ttl,
        client_subnet: options.client_subnet.map(|subnet| subnet.0),
    }
}
