//! Two programs in a row, with a login between them: subject → reference and back.

use anyhow::{Context, Result};
use crosspoint_conformance::net::suite::{self, Naming, Origins};
use crosspoint_conformance::net::{Socks, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

use super::stage::{PASSWORD, Ports, USER};

#[tokio::test]
async fn subject_in_front_of_the_reference() -> Result<()> {
    chain(&Subject::under_test(), &Subject::Reference).await
}

#[tokio::test]
async fn reference_in_front_of_the_subject() -> Result<()> {
    chain(&Subject::Reference, &Subject::under_test()).await
}

async fn chain(front: &Subject, back: &Subject) -> Result<()> {
    let [mixed, socks, http, plain] = ports::many();
    let users = json!([{ "username": USER, "password": PASSWORD }]);
    let inbound = |kind: &str, port: u16, users: &Value| json!({ "type": kind, "listen": "127.0.0.1", "listen_port": port, "users": users });
    let none = json!([]);
    let _back = back
        .start(&json!({
            "inbounds": [
                inbound("mixed", mixed, &users),
                inbound("socks", socks, &users),
                inbound("http", http, &users),
                inbound("socks", plain, &none),
            ],
            "outbounds": [{ "type": "direct" }],
        }))
        .await?;

    let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
    let login = json!({ "username": USER, "password": PASSWORD });
    let socks5 = json!({ "type": "socks", "version": "5" });
    let links = [
        ("socks 5 to socks", with(&socks5, socks, Some(&login)), true),
        ("socks 5 to mixed", with(&socks5, mixed, Some(&login)), true),
        ("socks to socks, no login", with(&json!({ "type": "socks" }), plain, None), true),
        ("socks 4a", with(&json!({ "type": "socks", "version": "4a" }), plain, None), false),
        ("http to http", with(&json!({ "type": "http" }), http, Some(&login)), false),
        ("http to mixed", with(&json!({ "type": "http" }), mixed, Some(&login)), false),
    ];
    for (name, outbound, udp) in links {
        let port = ports::free();
        let _front = front
            .start(
                &json!({ "inbounds": [inbound("mixed", port, &users)], "outbounds": [outbound] }),
            )
            .await?;
        let via = Via::from(Socks::v5(Ports::v4(port)).login(USER, PASSWORD));
        let what = || format!("{} -> {}, {name}", front.name(), back.name());
        for naming in [Naming::Address, Naming::Localhost] {
            suite::tcp(&via, &v4, naming).await.with_context(what)?;
            if udp {
                suite::udp(&via, &v4, naming).await.with_context(what)?;
            }
        }
        // SOCKS4 cannot say an IPv6 address; 4a says it as text, which is no name.
        if name != "socks 4a" {
            suite::tcp(&via, &v6, Naming::Address).await.with_context(what)?;
            if udp {
                suite::udp(&via, &v6, Naming::Address).await.with_context(what)?;
            }
        }
    }
    Ok(())
}

fn with(outbound: &Value, port: u16, login: Option<&Value>) -> Value {
    let mut outbound = outbound.clone();
    outbound["tag"] = json!("link");
    outbound["server"] = json!("127.0.0.1");
    outbound["server_port"] = json!(port);
    for (key, value) in login.and_then(Value::as_object).into_iter().flatten() {
        outbound[key] = value.clone();
    }
    outbound
}
