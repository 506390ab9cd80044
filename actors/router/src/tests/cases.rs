//! Matchers: rules, a connection, the decision. Derived from the reference's matching code.

use super::*;

/// One rule that leads to `a`; everything else ends at `final`.
async fn check(matchers: &str, matching: &[&str], other: &[&str]) {
    let comma = if matchers.is_empty() { "" } else { "," };
    let rules = rules(&format!(r#"{{{matchers}{comma} "outbound": "a"}}"#));
    for (list, expected) in [(matching, "a"), (other, "final")] {
        for connection in list {
            assert_eq!(decide(&rules, connection).await.0, expected, "{matchers} on {connection}");
        }
    }
}

#[tokio::test]
async fn one_matcher() {
    check("", &["tcp x:1"], &[]).await;
    check(r#""invert": true"#, &["tcp x:1"], &[]).await;
    check(r#""inbound": ["m", "0"]"#, &["tcp x:1 in=m", "udp x:1 in=0"], &["tcp x:1 in=1"]).await;
    check(
        r#""ip_version": 4"#,
        &["tcp 1.2.3.4:1", "tcp ::ffff:1.2.3.4:1"],
        &["tcp ::1:1", "tcp x:1"],
    )
    .await;
    check(r#""ip_version": 6"#, &["tcp ::1:1"], &["tcp 1.2.3.4:1", "tcp x:1"]).await;
    check(r#""network": "udp""#, &["udp x:1"], &["tcp x:1"]).await;
    check(r#""network": ["tcp", "icmp"]"#, &["tcp x:1"], &["udp x:1"]).await;
    check(r#""auth_user": "me""#, &["tcp x:1 user=me"], &["tcp x:1", "tcp x:1 user=Me"]).await;
    check(r#""auth_user": """#, &["tcp x:1"], &["tcp x:1 user=me"]).await;
    check(
        r#""protocol": ["tls", "quic"]"#,
        &["tcp x:1 protocol=tls"],
        &["tcp x:1", "tcp x:1 protocol=http"],
    )
    .await;
    check(
        r#""client": "chromium""#,
        &["udp x:1 client=chromium"],
        &["udp x:1 client=firefox", "udp x:1"],
    )
    .await;
    check(r#""port": [80, 443]"#, &["tcp x:80", "tcp 1.2.3.4:443"], &["tcp x:81"]).await;
    check(r#""port_range": [":10", "20:30"]"#, &["tcp x:0", "tcp x:10", "tcp x:25"], &["tcp x:11"])
        .await;
    check(r#""port": 80, "port_range": "90:""#, &["tcp x:80", "tcp x:65535"], &["tcp x:81"]).await;
}

#[tokio::test]
async fn domains() {
    check(
        r#""domain": "a.example""#,
        &["tcp A.Example:1"],
        &["tcp b.a.example:1", "tcp 1.2.3.4:1"],
    )
    .await;
    check(r#""domain": "A.example""#, &[], &["tcp A.example:1", "tcp a.example:1"]).await;
    check(
        r#""domain_suffix": "example""#,
        &["tcp example:1", "tcp a.b.example:1"],
        &["tcp xexample:1"],
    )
    .await;
    check(r#""domain_suffix": ".example""#, &["tcp a.example:1"], &["tcp example:1"]).await;
    check(r#""domain_keyword": "ads""#, &["tcp myADS.example:1"], &["tcp a.example:1"]).await;
    check(
        r#""domain_regex": "^a\\d+\\.""#,
        &["tcp A12.example:1"],
        &["tcp a.example:1", "tcp xa1.example:1"],
    )
    .await;
    // The sniffed domain counts, not the one asked for.
    check(
        r#""domain": "s.example""#,
        &["tcp 1.2.3.4:1 domain=s.example"],
        &["tcp s.example:1 domain=t.example"],
    )
    .await;
    // A group is satisfied by any of its items.
    check(
        r#""domain": "a.example", "domain_suffix": "b.example", "domain_keyword": "c", "ip_cidr": "10.0.0.0/8""#,
        &["tcp a.example:1", "tcp x.b.example:1", "tcp abc:1", "tcp 10.1.1.1:1"],
        &["tcp x.a.example:1", "tcp 11.1.1.1:1"],
    )
    .await;
}

#[tokio::test]
async fn addresses() {
    check(
        r#""ip_cidr": ["10.0.0.0/8", "2001:db8::1"]"#,
        &["tcp 10.1.2.3:1", "tcp 2001:db8::1:1"],
        &["tcp 1.1.1.1:1", "tcp x:1"],
    )
    .await;
    check(
        r#""ip_is_private": true"#,
        &["tcp 192.168.0.1:1", "tcp ::1:1"],
        &["tcp 8.8.8.8:1", "tcp x:1"],
    )
    .await;
    check(r#""source_ip_cidr": "10.0.0.0/8""#, &["tcp x:1 from=10.1.1.1:5"], &["tcp 10.1.1.1:1"])
        .await;
    check(r#""source_ip_is_private": true"#, &["tcp x:1"], &["tcp x:1 from=8.8.8.8:5"]).await;
    check(
        r#""source_ip_cidr": "8.0.0.0/8", "source_ip_is_private": true"#,
        &["tcp x:1", "tcp x:1 from=8.8.8.8:5"],
        &["tcp x:1 from=9.9.9.9:5"],
    )
    .await;
    check(
        r#""source_port": 5, "source_port_range": "10:""#,
        &["tcp x:1 from=1.1.1.1:5", "tcp x:1 from=1.1.1.1:10"],
        &["tcp x:1 from=1.1.1.1:6"],
    )
    .await;
}

#[tokio::test]
async fn groups_and_invert() {
    check(
        r#""domain": "a", "port": 80, "network": "tcp", "source_ip_cidr": "127.0.0.0/8""#,
        &["tcp a:80"],
        &["tcp a:81", "udp a:80", "tcp b:80", "tcp a:80 from=10.0.0.1:1"],
    )
    .await;
    check(r#""domain": "a", "port": 80, "invert": true"#, &["tcp a:81", "tcp b:80"], &["tcp a:80"])
        .await;
    check(r#""network": "udp", "invert": true"#, &["tcp a:81"], &["udp b:80"]).await;
}

#[tokio::test]
async fn what_this_platform_cannot_know() {
    for matchers in [
        r#""package_name": "org.example""#,
        r#""clash_mode": "Global""#,
        r#""network_is_expensive": true"#,
        r#""network_is_constrained": true"#,
        r#""network_type": "ethernet""#,
        r#""wifi_ssid": "home""#,
        r#""wifi_bssid": "00:00:00:00:00:00""#,
    ] {
        check(matchers, &[], &["tcp x:1"]).await;
        check(&format!(r#"{matchers}, "invert": true"#), &["tcp x:1"], &[]).await;
    }
    // The name of the network is always the empty one.
    check(r#""wifi_ssid": """#, &["tcp x:1"], &[]).await;
}

#[tokio::test]
async fn logical_rules() {
    let inner = r#"[{"domain": "a"}, {"port": 80}]"#;
    check(
        &format!(r#""type": "logical", "mode": "and", "rules": {inner}"#),
        &["tcp a:80"],
        &["tcp a:1", "tcp b:80"],
    )
    .await;
    check(
        &format!(r#""type": "logical", "mode": "or", "rules": {inner}"#),
        &["tcp a:1", "tcp b:80"],
        &["tcp b:1"],
    )
    .await;
    check(
        &format!(r#""type": "logical", "mode": "and", "invert": true, "rules": {inner}"#),
        &["tcp a:1", "tcp b:80"],
        &["tcp a:80"],
    )
    .await;
    // Each branch has groups of its own: both domains can never match at once.
    check(
        r#""type": "logical", "mode": "and", "rules": [{"domain": "a"}, {"domain": "b"}]"#,
        &[],
        &["tcp a:1", "tcp b:1"],
    )
    .await;
    // Actions inside are ignored; branches may be logical and inverted themselves.
    check(
        r#""type": "logical", "mode": "or", "rules": [{"domain": "a", "action": "reject"},
           {"type": "logical", "mode": "and", "rules": [{"network": "tcp"}, {"domain": "b", "invert": true}]}]"#,
        &["tcp a:1", "udp a:1", "tcp c:1"],
        &["tcp b:1", "udp c:1"],
    )
    .await;
}

#[tokio::test]
async fn processes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mine = format!("tcp x:1 from={}", client.local_addr().unwrap());
    let far = "tcp x:1 from=192.0.2.1:1";
    let path = std::env::current_exe().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    check(&format!(r#""process_path": {path:?}"#), &[&mine], &[far]).await;
    check(&format!(r#""process_name": {name:?}"#), &[&mine], &[far]).await;
    check(r#""process_path_regex": "^/.*/crosspoint_router-""#, &[&mine], &[far]).await;
    check(&format!(r#""user_id": {uid}"#), &[&mine], &[far]).await;
    check(r#""process_name": "no-such-program""#, &[], &[&mine]).await;
    if uid == 0 {
        check(r#""user": "root""#, &[&mine], &[far]).await;
        check(r#""user": "nobody""#, &[], &[&mine]).await;
    }
}

#[tokio::test]
async fn the_first_match_decides() {
    let rules = rules(
        r#"{"port": 80, "outbound": "a"}, {"port": [80, 81], "outbound": "b"}, {"outbound": "a"}"#,
    );
    assert_eq!(decide(&rules, "tcp x:80").await.0, "a");
    assert_eq!(decide(&rules, "tcp x:81").await.0, "b");
    assert_eq!(decide(&rules, "tcp x:82").await.0, "a");
}
