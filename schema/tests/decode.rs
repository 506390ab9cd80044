//! The decode API as plugin authors meet it.

use crosspoint_schema::decode::{Addr, Duration, Mark, Prefix, Secret, UdpTimeout, nearest};
use crosspoint_schema::json::{Loaded, pretty};
use crosspoint_schema::options::{DialOptions, DnsRecord, ListenOptions, ServerOptions};
use crosspoint_schema::{Config, ConfigError, Context, Field, Kind, Options, options};
use proptest::prelude::*;

options! {
    /// A protocol.
    pub struct Demo ("option.DemoOptions") {
        /// How it dials.
        pub dial: DialOptions = flatten,
        /// Where to.
        pub server: ServerOptions = flatten,
        /// Password.
        pub password: Secret = "password",
        /// Idle time.
        pub idle: Duration = "idle_timeout",
    }
}

fn decode(text: &str) -> Result<Demo, ConfigError> {
    let loaded = Loaded::from_text("demo.json", text).expect("JSON");
    let cx = Context::new(loaded.sources);
    let config = Config::decode(&loaded.root, &cx)?;
    config.outbounds.first().expect("an outbound").raw(&cx).parse()
}

#[test]
fn options_decode_and_print() {
    let demo = decode(
        r#"{"outbounds": [{"type": "demo", "tag": "d", "SERVER": "a.b", "server_port": 1, "routing_mark": 16,
            "password": "p", "idle_timeout": "90s", "connect_timeout": null, "domain_resolver": {}}]}"#,
    )
    .expect("decodes");
    assert_eq!(demo.server.server, "a.b");
    assert_eq!(demo.idle, Duration::from_secs(90));
    assert_eq!(demo.dial.domain_resolver, None);
    assert_eq!(
        serde_json::Value::Object(demo.to_map()).to_string(),
        r#"{"routing_mark":"0x10","server":"a.b","server_port":1,"password":"p","idle_timeout":"1m30s"}"#
    );
    assert!(!format!("{demo:?}").contains("\"p\""), "a secret is never shown: {demo:?}");
}

#[test]
fn an_error_has_path_place_and_hint() {
    let text =
        "{\n  \"outbounds\": [\n    {\"type\": \"demo\", \"conect_timeout\": \"1s\"}\n  ]\n}";
    let error = decode(text).expect_err("unknown member");
    assert_eq!(error.path, "outbounds[0].conect_timeout");
    assert_eq!(
        error.to_string(),
        "decode config at demo.json: outbounds[0].conect_timeout: json: unknown field \"conect_timeout\"\n  \
         --> demo.json:3:22\n  hint: did you mean `connect_timeout`?"
    );
}

#[test]
fn the_first_error_of_the_document_is_reported() {
    let first = |text: &str| decode(text).expect_err("wrong").path;
    assert_eq!(
        first(r#"{"outbounds":[{"type":"demo","password":1,"server":2,"zzz":3}]}"#),
        "outbounds[0].password"
    );
    assert_eq!(first(r#"{"outbounds":[{"type":"demo","zzz":3,"server":2}]}"#), "outbounds[0].zzz");
}

#[test]
fn create_errors_name_component_and_place() {
    let loaded = Loaded::from_text(
        "c.json",
        "{\"dns\":{\"servers\":[{\"type\":\"udp\",\n\"server\":\"x\"}]}}",
    )
    .expect("JSON");
    let cx = Context::new(loaded.sources);
    let config = Config::decode(&loaded.root, &cx).expect("decodes");
    let raw = config.components(Kind::DnsServer)[0].raw(&cx);
    let error = raw.invalid_at("server", "missing domain resolver for domain server address");
    assert_eq!(
        error.to_string(),
        "initialize DNS server[0]: missing domain resolver for domain server address\n  --> c.json:2:10"
    );
    assert_eq!(raw.label(), "0");
}

#[test]
fn our_own_section_has_defaults() {
    let loaded = Loaded::from_text(
        "c.json",
        r#"{"crosspoint":{"watch":true,"supervision":{"backoff_min":"1s"},"compat":"query_type"}}"#,
    )
    .expect("JSON");
    let config = Config::decode(&loaded.root, &Context::new(loaded.sources)).expect("decodes");
    let own = config.crosspoint.clone().expect("there");
    assert_eq!(own.drain_timeout().as_secs(), 30);
    assert_eq!(own.supervision().backoff_min().as_secs(), 1);
    assert_eq!(own.supervision().backoff_max().as_secs(), 30);
    assert_eq!(own.supervision().max_restarts(), 8);
    assert_eq!(
        pretty(&config.canonical(|raw| raw.to_json())).replace([' ', '\n'], ""),
        r#"{"crosspoint":{"supervision":{"backoff_min":"1s"},"watch":true,"compat":"query_type"}}"#
    );
}

#[test]
fn secrets_compare_in_full() {
    let secret = Secret::new("abc");
    assert!(secret.matches("abc"));
    for other in ["", "ab", "abcd", "abd", "abcabc", "\0\0\0"] {
        assert!(!secret.matches(other), "{other}");
    }
    assert!(Secret::default().matches(""));
    assert!(!Secret::default().matches("\0"));
    assert_eq!(format!("{secret:?}"), "***");
}

#[test]
fn nearest_names() {
    assert_eq!(nearest("listen-port", &["listen", "listen_port"]), Some("listen_port"));
    assert_eq!(nearest("tagg", &["tag", "type"]), Some("tag"));
    assert_eq!(nearest("zzz", &["tag", "type"]), None);
}

#[test]
fn absent_values_print_nothing() {
    assert!(ListenOptions::default().to_map().is_empty());
    assert_eq!(UdpTimeout::absent().encode(), None);
    assert_eq!(Mark(0).get(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn durations_print_what_parses_back(nanos in any::<i64>()) {
        let duration = Duration(nanos);
        prop_assert_eq!(Duration::parse(&duration.to_string()), Ok(duration));
    }

    #[test]
    fn no_text_panics(text in any::<String>(), short in "[0-9.:%/a-f -]{0,24}") {
        for text in [text, short] {
            let _ = (Duration::parse(&text), Addr::parse(&text), Prefix::parse(&text), DnsRecord::parse(&text));
        }
    }

    #[test]
    fn addresses_print_what_parses_back(ip in any::<std::net::IpAddr>(), bits in 0u8..=32) {
        let prefix = Prefix { addr: ip, bits };
        prop_assert_eq!(Prefix::parse(&prefix.to_string()), Ok(prefix));
        prop_assert_eq!(Addr::parse(&ip.to_string()).map(|addr| addr.ip), Ok(ip));
    }

    #[test]
    fn records_print_what_parses_back(
        rtype in prop::sample::select(vec![1u16, 2, 5, 6, 13, 15, 16, 28, 33, 35, 64, 65, 99, 256, 257, 65_280]),
        data in prop::collection::vec(any::<u8>(), 0..40),
        ttl in any::<u32>(),
    ) {
        use std::fmt::Write;
        let mut hex = String::new();
        data.iter().for_each(|byte| { let _ = write!(hex, "{byte:02x}"); });
        let line = format!("a\\.b.c. {ttl} TYPE{rtype} \\# {} {hex}", data.len());
        let record = DnsRecord::parse(&line).expect("generic form");
        prop_assert_eq!(DnsRecord::parse(&record.to_string()), Ok(record));
    }
}
