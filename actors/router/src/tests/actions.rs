//! Actions: what rules do to a session, and how rules after them see it.

use std::time::Duration;

use crosspoint_kernel::{
    resolve::Strategy,
    session::LegacyInbound,
    snapshot::{PreMatch, Reject},
};

use super::*;

#[tokio::test]
async fn options_are_kept_and_rules_go_on() {
    let rules = rules(
        r#"{"action": "route-options", "override_port": 81, "udp_timeout": "7s", "udp_connect": true},
           {"action": "direct", "bind_interface": "lo"},
           {"port": 81, "action": "route-options", "override_address": "10.0.0.1", "udp_disable_domain_unmapping": true, "fallback_delay": 5},
           {"ip_cidr": "10.0.0.0/8", "outbound": "b"},
           {"outbound": "a"}"#,
    );
    let (word, session) = decide(&rules, "udp x.known:80").await;
    assert_eq!(word, "b");
    assert_eq!(session.target.to_string(), "10.0.0.1:81");
    assert!(session.udp.connect && session.udp.disable_domain_unmapping);
    assert_eq!(session.udp.timeout, Some(Duration::from_secs(7)));
    assert_eq!(session.dial.fallback_delay, Some(Duration::from_nanos(5)));
}

#[tokio::test]
async fn route_sets_options_too() {
    let rules = rules(
        r#"{"outbound": "a", "override_address": "[2001:db8::1]", "udp_timeout": "3s", "tls_fragment": true, "tls_fragment_fallback_delay": "1s", "tls_record_fragment": true}"#,
    );
    let (word, session) = decide(&rules, "tcp x:80").await;
    assert_eq!((word.as_str(), session.target.to_string().as_str()), ("a", "[2001:db8::1]:80"));
    assert!(session.dial.tls_fragment && session.dial.tls_record_fragment);
    assert_eq!(session.dial.tls_fragment_fallback_delay, Some(Duration::from_secs(1)));
    // The reference loses the timeout here, which is a defect of its copy.
    assert_eq!(session.udp.timeout, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn ip_version_remembers_the_beginning() {
    let rules = rules(
        r#"{"action": "route-options", "override_address": "::1"},
           {"ip_version": 4, "outbound": "a"}"#,
    );
    assert_eq!(decide(&rules, "tcp 1.2.3.4:1").await.0, "a");
    assert_eq!(decide(&rules, "tcp x:1").await.0, "final");
}

#[tokio::test]
async fn an_impossible_override_address_changes_nothing() {
    let rules = rules(r#"{"outbound": "a", "override_address": "no name"}"#);
    assert_eq!(decide(&rules, "tcp x:80").await.1.target.to_string(), "x:80");
}

#[tokio::test]
async fn resolved_addresses_match() {
    let by_ip = r#"{"ip_cidr": "192.0.2.0/24", "outbound": "a"}, {"ip_cidr": "2001:db8::/32", "outbound": "b"}"#;
    for (action, expected) in [
        (r#"{"action": "resolve"}"#, "a"),
        (r#"{"action": "resolve", "server": "dns", "strategy": "ipv6_only"}"#, "b"),
        (r#"{"action": "resolve", "server": "none"}"#, "DNS server not found: none"),
        (r#"{"port": 1, "action": "resolve"}"#, "final"),
    ] {
        let rules = rules(&format!("{action}, {by_ip}"));
        let (word, session) = decide(&rules, "tcp h.known:80").await;
        assert_eq!(word, expected, "{action}");
        assert_eq!(session.target.to_string(), "h.known:80");
    }
    let all = rules(&format!(r#"{{"action": "resolve"}}, {by_ip}"#));
    assert_eq!(decide(&all, "tcp 192.0.2.1:80").await.0, "a");
    assert_eq!(decide(&all, "tcp h.unknown:80").await.0, "lookup h.unknown: no such host");
    // An override forgets what was resolved.
    let rules = rules(&format!(
        r#"{{"action": "resolve"}}, {{"action": "route-options", "override_address": "else"}}, {by_ip}"#
    ));
    assert_eq!(decide(&rules, "tcp h.known:80").await.0, "final");
}

#[tokio::test]
async fn what_a_lookup_is_told() {
    let action = r#"{"action": "resolve", "rewrite_ttl": 7, "client_subnet": "192.0.2.0/24"}"#;
    let (word, _) = decide(&rules(action), "tcp h.known:80 from=10.0.0.9:999").await;
    assert_eq!(word, "lookup 7 192.0.2.0/24 of 10.0.0.9:999: no such host");
}

#[tokio::test]
async fn dns_is_taken_over() {
    let rules = rules(
        r#"{"action": "resolve"}, {"port": 53, "action": "hijack-dns"}, {"action": "reject"}"#,
    );
    assert_eq!(decide(&rules, "udp h.known:53").await.0, "hijack-dns");
    assert_eq!(decide(&rules, "tcp 10.0.0.1:53").await.0, "hijack-dns");
    assert_eq!(decide(&rules, "tcp 10.0.0.1:54").await.0, "refuse");
}

#[tokio::test]
async fn made_up_addresses_become_names() {
    let rules = rules(
        r#"{"ip_version": 4, "outbound": "b"}, {"domain": "fake.known", "outbound": "a"},
           {"domain": "told.example", "outbound": "tcp"}"#,
    );
    let (word, session) = decide(&rules, "tcp 198.18.0.1:443").await;
    assert_eq!((word.as_str(), session.target.to_string().as_str()), ("a", "fake.known:443"));
    assert_eq!(
        decide(&rules, "tcp 198.18.0.2:443").await.0,
        "missing fakeip record, try enable `experimental.cache_file`"
    );
    // What the client was told an address for is no destination, but rules see it, unless there is something better.
    let told = self::rules(r#"{"domain": "told.example", "outbound": "a"}"#);
    let (word, session) = decide(&told, "tcp 203.0.113.9:443").await;
    assert_eq!((word.as_str(), session.target.to_string().as_str()), ("a", "203.0.113.9:443"));
    assert_eq!(decide(&told, "tcp 203.0.113.9:443 domain=other.example").await.0, "final");
}

/// One datagram there and back: where it goes, and from where its answer comes.
async fn there_and_back(rules: &Rules, to: &str, from: Option<&str>) -> (String, String) {
    let snapshot = snapshot(rules);
    let mut session = session(&format!("udp {to}"));
    let target = session.target.clone();
    let sent = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut flow = Flow::Packet(Box::new(Echo { target, sent: sent.clone() }));
    assert!(matches!(route(&snapshot, &mut session, &mut flow).await, Ok(Decision::Outbound(_))));
    let Flow::Packet(mut packets) = flow else { panic!("no packets") };
    let mut batch = Batch::new();
    std::future::poll_fn(|cx| packets.poll_recv(cx, &mut batch)).await.unwrap();
    let there = batch.peer(0).to_string();
    if let Some((host, port)) = from.and_then(|from| from.rsplit_once(':')) {
        batch.set_peer(0, Target::new(host, port.parse().unwrap()));
    }
    std::future::poll_fn(|cx| packets.poll_send(cx, &mut batch)).await.unwrap();
    let back = sent.lock().join(" ");
    (there, back)
}

struct Echo {
    target: Target,
    sent: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl PacketIo for Echo {
    fn poll_recv(
        &mut self,
        _: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> std::task::Poll<std::io::Result<usize>> {
        batch.push(b"x", self.target.clone());
        std::task::Poll::Ready(Ok(1))
    }

    fn poll_send(
        &mut self,
        _: &mut std::task::Context<'_>,
        batch: &mut Batch,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.sent.lock().extend((0..batch.len()).map(|at| batch.peer(at).to_string()));
        batch.clear();
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn answers_come_from_the_made_up_address() {
    let fake = "198.18.0.1:53";
    for (text, from, there) in [
        (r#"{"outbound": "a"}"#, None, "fake.known:53"),
        (r#"{"outbound": "a", "udp_disable_domain_unmapping": true}"#, None, "fake.known:53"),
        (r#"{"action": "resolve"}"#, None, "192.0.2.7:53"),
        (
            r#"{"action": "resolve"}, {"outbound": "a", "udp_disable_domain_unmapping": true}"#,
            None,
            "192.0.2.7:53",
        ),
        (r#"{"outbound": "a", "override_address": "10.0.0.1"}"#, None, "10.0.0.1:53"),
        (
            r#"{"outbound": "a", "override_address": "10.0.0.1", "override_port": 54}"#,
            Some("10.0.0.1:54"),
            "10.0.0.1:54",
        ),
    ] {
        let found = there_and_back(&rules(text), fake, from).await;
        assert_eq!(found, (there.to_owned(), fake.to_owned()), "{text}");
    }
    let other = there_and_back(&rules(r#"{"outbound": "a"}"#), fake, Some("192.0.2.9:1")).await;
    assert_eq!(other.1, "192.0.2.9:1");
}

#[tokio::test]
async fn rejections() {
    for (action, expected) in [
        (r#"{"action": "reject"}"#, "refuse"),
        (r#"{"action": "reject", "method": "drop"}"#, "drop"),
    ] {
        assert_eq!(decide(&rules(action), "tcp x:1").await.0, expected);
    }
    for (option, expected) in [("false", "drop"), ("true", "refuse")] {
        let rules = rules(&format!(r#"{{"action": "reject", "no_drop": {option}}}"#));
        for _ in 0..50 {
            assert_eq!(decide(&rules, "tcp x:1").await.0, "refuse");
        }
        assert_eq!(decide(&rules, "tcp x:1").await.0, expected);
    }
}

#[tokio::test]
async fn outbounds_that_are_missing_or_do_not_fit() {
    assert_eq!(decide(&rules("{}"), "tcp x:1").await.0, "outbound not found: ");
    assert_eq!(
        decide(&rules(r#"{"outbound": "none"}"#), "tcp x:1").await.0,
        "outbound not found: none"
    );
    let tcp = rules(r#"{"outbound": "tcp"}"#);
    assert_eq!(decide(&tcp, "tcp x:1").await.0, "tcp");
    assert_eq!(decide(&tcp, "udp x:1").await.0, "UDP is not supported by outbound: tcp");
    let udp = rules(r#"{"outbound": "udp"}"#);
    assert_eq!(decide(&udp, "tcp x:1").await.0, "TCP is not supported by outbound: udp");
}

#[tokio::test]
async fn removed_multiplexing_is_refused() {
    let all = rules("{}");
    let (word, _) = decide(&all, "tcp sp.mux.sing-box.arpa:444").await;
    assert!(word.starts_with("global multiplex is deprecated"), "{word}");
    for name in ["v1.mux.cool", "sp.v2.udp-over-tcp.arpa", "sp.udp-over-tcp.arpa"] {
        let (word, _) = decide(&all, &format!("tcp {name}:1")).await;
        assert!(word.contains("not supported since sing-box v1.7.0"), "{word}");
    }
}

#[tokio::test]
async fn old_inbound_fields_act_before_the_rules() {
    let rules = rules(r#"{"ip_cidr": "2001:db8::/32", "outbound": "b"}"#);
    let snapshot = snapshot(&rules);
    let mut session = session("tcp h.known:80");
    session.legacy = Some(Arc::new(LegacyInbound {
        domain_strategy: Some(Strategy::PreferIpv6),
        ..Default::default()
    }));
    let (mut flow, _far) = silent(&session);
    assert_eq!(word(&route(&snapshot, &mut session, &mut flow).await), "b");
    assert_eq!(session.resolved.len(), 2);
    assert!(session.resolved[0].is_ipv6() && session.legacy.is_none());
}

#[test]
fn before_accept_only_rejections_count() {
    let cases = [
        (r#"{"port": 1, "action": "reject"}"#, "tcp 10.0.0.1:1", PreMatch::Reject(Reject::Refuse)),
        (
            r#"{"port": 1, "action": "reject", "method": "drop"}"#,
            "udp 10.0.0.1:1",
            PreMatch::Reject(Reject::Drop),
        ),
        (r#"{"port": 1, "action": "reject"}"#, "tcp 10.0.0.1:2", PreMatch::Accept),
        (r#"{"outbound": "a"}, {"action": "reject"}"#, "tcp 10.0.0.1:1", PreMatch::Accept),
        (r#"{"action": "sniff"}, {"action": "reject"}"#, "tcp 10.0.0.1:1", PreMatch::Accept),
        (
            r#"{"port": 9, "action": "sniff"}, {"action": "reject"}"#,
            "tcp 10.0.0.1:1",
            PreMatch::Reject(Reject::Refuse),
        ),
        (
            r#"{"action": "resolve"}, {"action": "reject"}"#,
            "tcp 10.0.0.1:1",
            PreMatch::Reject(Reject::Refuse),
        ),
        (r#"{"action": "resolve"}, {"action": "reject"}"#, "tcp h.known:1", PreMatch::Accept),
        (
            r#"{"action": "route-options", "override_port": 5}, {"port": 5, "action": "reject"}"#,
            "tcp 10.0.0.1:1",
            PreMatch::Reject(Reject::Refuse),
        ),
        // Who it is takes time to find out: the accepted connection is told.
        (
            r#"{"process_name": "x", "invert": true, "action": "reject"}"#,
            "tcp 10.0.0.1:1",
            PreMatch::Accept,
        ),
        (r#"{"outbound": "none"}"#, "tcp 10.0.0.1:1", PreMatch::Accept),
    ];
    for (text, connection, expected) in cases {
        let rules = rules(text);
        let snapshot = snapshot(&rules);
        let mut session = session(connection);
        let before = format!("{session:?}");
        assert_eq!(snapshot.routes.pre_match(&mut session, &snapshot), expected, "{text}");
        assert_eq!(format!("{session:?}"), before);
    }
}
