//! Random rules: the index finds what a scan finds, and nothing that decodes makes compiling panic.

use crosspoint_schema::options::{DefaultRule, RouteOptions, Rule, RuleMatchers};
use proptest::prelude::*;

use super::*;

fn pick(list: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(list).prop_map(str::to_owned), 0..3)
}

/// Matchers from few values, so that connections often match.
fn matchers() -> impl Strategy<Value = RuleMatchers> {
    let names =
        (pick(&["a.x", "b.x", "x", "c.b.x"]), pick(&["x", ".b.x", "a.x"]), pick(&["c", "q"]));
    let addresses = (
        pick(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1", "::/0"]),
        pick(&["127.0.0.0/8", "10.0.0.9"]),
        any::<bool>(),
    );
    let ports = (prop::collection::vec(79u16..82, 0..3), pick(&["80:", ":79"]));
    let texts = (pick(&["in", "m"]), pick(&["me", ""]), pick(&["tcp"]), pick(&["tls", ""]));
    // Each group is there or not, so that rules of all shapes come up.
    let masks = (any::<[bool; 10]>(), prop::bool::weighted(0.2));
    (names, addresses, ports, texts, masks).prop_map(
        |(names, addresses, ports, texts, (mask, invert))| {
            let keep = |at: usize, list: Vec<String>| {
                if mask[at] { list.into() } else { Vec::new().into() }
            };
            RuleMatchers {
                domain: keep(0, names.0),
                domain_suffix: keep(0, names.1),
                domain_keyword: keep(1, names.2),
                ip_cidr: keep(2, addresses.0),
                source_ip_cidr: keep(3, addresses.1),
                ip_is_private: mask[4] && addresses.2,
                port: if mask[5] { ports.0.into() } else { Vec::new().into() },
                port_range: keep(6, ports.1),
                inbound: keep(7, texts.0),
                auth_user: keep(8, texts.1),
                network: keep(9, texts.2),
                protocol: keep(9, texts.3),
                invert,
                ..RuleMatchers::default()
            }
        },
    )
}

fn connections() -> impl Strategy<Value = String> {
    let host = prop::sample::select(
        &["a.x", "x", "d.b.x", "c.b.x", "q", "10.1.2.3", "10.2.0.0", "192.0.2.1", "::1"][..],
    );
    let rest = prop::sample::select(
        &["", " user=me in=m", " from=10.0.0.9:80 protocol=tls", " domain=a.x"][..],
    );
    (prop::sample::select(&["tcp", "udp"][..]), host, 78u16..83, rest)
        .prop_map(|(network, host, port, rest)| format!("{network} {host}:{port}{rest}"))
}

fn compiled(list: &[RuleMatchers]) -> Rules {
    let rule = |(at, matchers): (usize, &RuleMatchers)| {
        let mut rule = DefaultRule { matchers: matchers.clone(), ..DefaultRule::default() };
        let crosspoint_schema::options::RuleAction::Route(route) = &mut rule.action else {
            unreachable!()
        };
        // An outbound that does not exist: the error tells which rule it was.
        route.outbound = format!("rule{at}");
        Rule::Default(Box::new(rule))
    };
    let route = RouteOptions {
        rules: list.iter().enumerate().map(rule).collect(),
        ..RouteOptions::default()
    };
    Rules::compile(&route, &Config::default(), &RuleSets::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_index_finds_what_a_scan_finds(list in prop::collection::vec(matchers(), 24..60), all in prop::collection::vec(connections(), 8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let indexed = compiled(&list);
        let single: Vec<Rules> = list.iter().map(|rule| compiled(std::slice::from_ref(rule))).collect();
        for connection in all {
            let (found, _) = runtime.block_on(decide(&indexed, &connection));
            let scan = single.iter().position(|rule| runtime.block_on(decide(rule, &connection)).0 != "final");
            let expected = scan.map_or("final".to_owned(), |at| format!("outbound not found: rule{at}"));
            prop_assert_eq!(found, expected, "{}", connection);
        }
    }

    #[test]
    fn compiling_never_panics(text in "[a-z0-9./:*()\\[\\]\\\\{},^$-]{0,12}", number in any::<i64>()) {
        for key in ["domain", "domain_suffix", "domain_keyword", "domain_regex", "ip_cidr", "source_ip_cidr", "port_range",
                    "source_port_range", "process_path_regex", "inbound", "network", "override_address", "outbound"] {
            let text = text.replace('\\', "\\\\");
            let _ = compile(&format!(r#"{{"rules": [{{"{key}": "{text}"}}]}}"#));
        }
        let _ = compile(&format!(r#"{{"rules": [{{"ip_version": {number}}}]}}"#));
    }
}

/// Thousands of plain rules compile in milliseconds and are matched without a scan.
#[tokio::test]
async fn many_rules() {
    let list: Vec<RuleMatchers> = (0..5000)
        .map(|n| RuleMatchers {
            domain_suffix: vec![format!("d{n}.example")].into(),
            ..RuleMatchers::default()
        })
        .collect();
    let rules = compiled(&list);
    assert_eq!(decide(&rules, "tcp www.d4999.example:1").await.0, "outbound not found: rule4999");
    assert_eq!(decide(&rules, "tcp www.example:1").await.0, "final");
}
