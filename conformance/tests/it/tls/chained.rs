//! Subject → reference and back over an HTTP proxy with TLS, with every option that both sides negotiate by.

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::suite::{self, Naming, Origins};
use crosspoint_conformance::net::{Socks, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

use super::{certs::Certs, inbound, outbound};

#[tokio::test]
async fn subject_towards_the_reference() -> Result<()> {
    chain(&Subject::under_test(), &Subject::Reference).await
}

#[tokio::test]
async fn reference_towards_the_subject() -> Result<()> {
    chain(&Subject::Reference, &Subject::under_test()).await
}

#[tokio::test]
async fn subject_towards_itself() -> Result<()> {
    chain(&Subject::under_test(), &Subject::under_test()).await
}

/// Pairs of client and server options that must understand each other.
fn pairs(ca: &str) -> Vec<(&'static str, Value, Value)> {
    let trusting = |more: Value| {
        let mut value = json!({ "certificate": ca, "server_name": "proxy.test" });
        for (key, option) in more.as_object().into_iter().flatten() {
            value[key] = option.clone();
        }
        value
    };
    vec![
        ("defaults", trusting(json!({})), json!({})),
        ("TLS 1.2 at the client", trusting(json!({ "max_version": "1.2" })), json!({})),
        ("TLS 1.2 at the server", trusting(json!({})), json!({ "max_version": "1.2" })),
        (
            "TLS 1.3 alone",
            trusting(json!({ "min_version": "1.3" })),
            json!({ "min_version": "1.3" }),
        ),
        (
            "one cipher suite",
            trusting(json!({ "max_version": "1.2" })),
            json!({ "cipher_suites": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" }),
        ),
        ("ALPN", trusting(json!({ "alpn": ["h2", "http/1.1"] })), json!({ "alpn": "http/1.1" })),
        (
            "ALPN of HTTP/1.1 at a server of HTTP/2",
            trusting(json!({ "alpn": "http/1.1" })),
            json!({ "alpn": "h2" }),
        ),
        ("no server name", trusting(json!({ "disable_sni": true })), json!({})),
        ("an address as name", json!({ "certificate": ca }), json!({})),
        ("records", trusting(json!({ "record_fragment": true })), json!({})),
        (
            "segments",
            trusting(json!({ "fragment": true, "fragment_fallback_delay": "5ms" })),
            json!({}),
        ),
        (
            "segments of records",
            trusting(
                json!({ "fragment": true, "record_fragment": true, "fragment_fallback_delay": "5ms" }),
            ),
            json!({}),
        ),
        (
            "a made-up certificate",
            json!({ "insecure": true, "server_name": "x.test" }),
            Value::Null,
        ),
        (
            "a made-up certificate with RSA",
            json!({ "insecure": true, "server_name": "x.test", "max_version": "1.2",
                    "cipher_suites": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" }),
            Value::Null,
        ),
    ]
}

async fn chain(front: &Subject, back: &Subject) -> Result<()> {
    let certs = Certs::new("the authority")?;
    let files = certs.issue("proxy", &["proxy.test", "127.0.0.1"])?;
    let origins = Origins::v4().await?;
    let mut inbounds = Vec::new();
    let mut outbounds = Vec::new();
    let mut fronts = Vec::new();
    let mut rules = Vec::new();
    for (number, (name, client, server)) in pairs(&certs.pem()).into_iter().enumerate() {
        let [near, far] = ports::many();
        let server = if server.is_null() {
            json!({ "insecure": true })
        } else {
            let mut all = files.server();
            for (key, option) in server.as_object().into_iter().flatten() {
                all[key] = option.clone();
            }
            all
        };
        let mut far_in = inbound(if number % 2 == 0 { "http" } else { "mixed" }, far, server);
        far_in["tag"] = json!(format!("far-{number}"));
        inbounds.push(far_in);
        let mut near_in = inbound("mixed", near, Value::Null);
        near_in["tag"] = json!(format!("near-{number}"));
        fronts.push((name, near, near_in));
        let mut out = outbound(far, client);
        out["tag"] = json!(format!("link-{number}"));
        outbounds.push(out);
        rules.push(
            json!({ "inbound": format!("near-{number}"), "outbound": format!("link-{number}") }),
        );
    }
    let direct = json!([{ "type": "direct" }]);
    let _back = back.start(&json!({ "inbounds": inbounds, "outbounds": direct })).await?;
    let near: Vec<_> = fronts.iter().map(|(_, _, near)| near.clone()).collect();
    let config = json!({
        "inbounds": near, "outbounds": outbounds, "route": { "rules": rules },
    });
    let running = front.start(&config).await?;
    for (name, port, _) in &fronts {
        let via = Via::from(Socks::v5(([127, 0, 0, 1], *port).into()));
        let what = || format!("{} -> {}, {name}", front.name(), back.name());
        suite::tcp(&via, &origins, Naming::Address).await.with_context(what)?;
    }
    ensure!(!running.log().contains("panic"), "{}", running.log_tail());
    Ok(())
}
