//! ECH against servers that know nothing of it. (Servers that do stand in conformance: the reference is one.)

use crosspoint_kernel::resolve::NO_TRAIL;
use serde_json::json;

use super::support::{self_signed, server, shake, try_client};

/// A configuration of public name `public.test`, made with the reference's `generate ech-keypair`.
const CONFIGS: &str = include_str!("ech.pem");

#[tokio::test]
async fn a_server_without_ech_is_refused() {
    let pair = self_signed("public.test", false);
    let options = json!({
        "server_name": "secret.test", "certificate": pair.certificate,
        "ech": {"enabled": true, "config": CONFIGS},
    });
    let client = try_client(&options).unwrap();
    let (near, _) = shake(&client, &server(&pair, json!({}))).await;
    let error = near.err().unwrap();
    assert!(error.to_string().contains("rejected the Encrypted Client Hello"), "{error}");
    assert!(!error.retry);
}

#[tokio::test]
async fn a_configuration_of_the_dns_needs_a_resolver() {
    let options = json!({"server_name": "secret.test", "ech": {"enabled": true}});
    let client = try_client(&options).unwrap();
    let (near, _far) = tokio::io::duplex(1 << 16);
    let error = client.connect(Box::new(near), &NO_TRAIL).await.err().unwrap();
    assert!(error.to_string().contains("fetch ECH config list: no resolver"), "{error}");
}
