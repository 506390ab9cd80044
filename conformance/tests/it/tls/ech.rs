//! Encrypted Client Hello towards the reference.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::suite::{self, Naming, Origins};
use crosspoint_conformance::net::{Socks, Via};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

use super::{certs::Certs, inbound, outbound};

/// Configurations and keys of a fresh pair.
fn pair() -> Result<(String, String)> {
    let output = Command::new(Subject::Reference.binary()?)
        .args(["generate", "ech-keypair", "public.test"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let at = text.find("-----BEGIN ECH KEYS-----").context("no keys")?;
    let (configs, keys) = text.split_at(at);
    Ok((configs.trim().to_owned(), keys.trim().to_owned()))
}

#[tokio::test]
async fn the_reference_decrypts_our_hello() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let secret = certs.issue("secret", &["secret.test"])?;
    let ((configs, keys), (others, _)) = (pair()?, pair()?);
    let origins = Origins::v4().await?;
    let (far, near, wrong) = (ports::free(), ports::free(), ports::free());
    let mut tls = secret.server();
    tls["ech"] = json!({ "enabled": true, "key": keys });
    let _back =
        Subject::Reference.start(&json!({ "inbounds": [inbound("http", far, tls)] })).await?;
    let client = |config: &str, fragment: bool, tag: &str| {
        let mut out = outbound(
            far,
            json!({ "server_name": "secret.test", "certificate": certs.pem(),
                    "record_fragment": fragment, "ech": { "enabled": true, "config": config } }),
        );
        out["tag"] = json!(tag);
        out
    };
    let (mut good_in, mut wrong_in) =
        (inbound("mixed", near, Value::Null), inbound("mixed", wrong, Value::Null));
    (good_in["tag"], wrong_in["tag"]) = (json!("good"), json!("wrong"));
    let front = Subject::under_test()
        .start(&json!({
            "inbounds": [good_in, wrong_in],
            "outbounds": [client(&configs, true, "right"), client(&others, false, "other")],
            "route": { "rules": [{ "inbound": "wrong", "outbound": "other" }] },
        }))
        .await?;
    let via = Via::from(Socks::v5(([127, 0, 0, 1], near).into()));
    suite::tcp(&via, &origins, Naming::Address).await.with_context(|| front.log_tail())?;
    // With keys of somebody else the server sees the public name only, and cannot prove to be it.
    let via = Via::from(Socks::v5(([127, 0, 0, 1], wrong).into()));
    ensure!(suite::tcp_ping_pong(&via, &origins.echo.addr().into()).await.is_err());
    ensure!(front.log().contains("is not valid for public.test"), "{}", front.log_tail());
    Ok(())
}
