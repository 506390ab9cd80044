//! Certificates and authorities that change while they are in use.

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::{Kind, component::Incarnation, resolve::NO_TRAIL};
use crosspoint_schema::options::CertificateOptions;
use crosspoint_tls::{Client, ClientDefaults, Plan, Store};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::support::{Authority, options, shake, try_server};

fn who() -> Arc<Incarnation> {
    Arc::new(Incarnation { kind: Kind::Inbound, type_name: "test", tag: "t".into(), epoch: 1 })
}

#[tokio::test]
async fn new_certificates_are_shown_and_old_connections_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    let (old, new) = (Authority::new(), Authority::new());
    let write = |authority: &Authority| {
        let pair = authority.issue_for("a.test");
        std::fs::write(&certificate, pair.certificate).unwrap();
        std::fs::write(&key, pair.key).unwrap();
    };
    write(&old);
    let server = try_server(&json!({"certificate_path": certificate, "key_path": key})).unwrap();
    server.watch(CancellationToken::new(), who());
    let client = |authority: &Authority| {
        super::support::client(json!({"server_name": "a.test", "certificate": authority.pem()}))
    };
    let (near, far) = shake(&client(&old), &server).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert!(shake(&client(&new), &server).await.0.is_err());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // A key that does not fit changes nothing.
    std::fs::write(&key, Authority::new().issue_for("a.test").key).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    shake(&client(&old), &server).await.0.unwrap();
    write(&new);
    let swapped = async {
        while shake(&client(&new), &server).await.0.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), swapped).await.unwrap();
    assert!(shake(&client(&old), &server).await.0.is_err());
    for _ in 0..3 {
        near.write_all(b"ping").await.unwrap();
        let mut heard = [0; 4];
        far.read_exact(&mut heard).await.unwrap();
    }
}

#[tokio::test]
async fn stores_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let pair = authority.issue_for("a.test");
    let server = super::support::server(&pair, json!({}));
    let plan = |value: serde_json::Value| Plan::new(&options::<CertificateOptions>(&value));
    let store = Store::new(plan(json!({"store": "none"})).unwrap());
    let defaults = ClientDefaults { store: Some(store.clone()), ..ClientDefaults::default() };
    let client = Client::new(&options(&json!({})), "a.test", &defaults).unwrap();
    assert!(shake(&client, &server).await.0.is_err());
    // Inline, by file, by directory: one client all along.
    store.install(plan(json!({"store": "none", "certificate": authority.pem()})).unwrap());
    shake(&client, &server).await.0.unwrap();
    // A ticket is at hand, and must not be used with a store that does not know who gave it.
    for _ in 0..2 {
        let (near, far) = shake(&client, &server).await;
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
    store.install(plan(json!({"store": "mozilla"})).unwrap());
    assert!(shake(&client, &server).await.0.is_err());
    let watched = json!({"store": "none", "certificate_directory_path": dir.path()});
    store.install(plan(watched).unwrap());
    assert!(shake(&client, &server).await.0.is_err());
    std::fs::write(dir.path().join("a.pem"), authority.pem()).unwrap();
    let seen = async {
        while shake(&client, &server).await.0.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
    for (value, text) in [
        (json!({"store": "x"}), "unknown certificate store: x"),
        (
            json!({"certificate": "x"}),
            "initializing certificate store: invalid certificate PEM strings",
        ),
        (
            json!({"certificate_path": "/nope"}),
            "initializing certificate store: open /nope: no such file or directory",
        ),
    ] {
        assert_eq!(plan(value).unwrap_err().to_string(), text);
    }
    assert!(plan(json!({"certificate_directory_path": "/nope"})).is_ok());
    assert!(plan(json!({"store": "system"})).is_ok());
}

#[tokio::test]
async fn sessions_are_resumed() {
    // Seen from outside only by what does not fail: the second handshake may use a ticket of the first.
    let server = try_server(&json!({"insecure": true})).unwrap();
    let client = super::support::client(json!({"server_name": "a.test", "insecure": true}));
    for _ in 0..3 {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (near, far) =
            tokio::join!(client.connect(Box::new(near), &NO_TRAIL), server.accept(Box::new(far)));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
