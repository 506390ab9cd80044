//! Who agrees with whom, and what is said when nobody does.

use std::time::Duration;

use crosspoint_kernel::{error::DialClass, flow::Stream as _, resolve::NO_TRAIL};
use crosspoint_tls::TlsStream;
use rcgen::CertificateParams;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use super::support::{Authority, client, self_signed, server, shake, try_client, try_server};

async fn talk(near: TlsStream, far: TlsStream) {
    let (mut near, mut far) = (near, far);
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "question");
    // One direction is closed, the other one is not.
    let mut answer = Vec::new();
    let write = async {
        far.write_all(&[7; 100_000]).await.unwrap();
        far.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(write, near.read_to_end(&mut answer));
    read.unwrap();
    assert_eq!(answer.len(), 100_000);
}

#[tokio::test]
async fn versions_and_protocols_are_agreed_on() {
    let authority = Authority::new();
    let pair = authority.issue_for("a.test");
    let trusting = |more: serde_json::Value| {
        let mut value = json!({"server_name": "a.test", "certificate": authority.pem()});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client(value)
    };
    for (near, far, tls13, alpn) in [
        (json!({}), json!({}), true, None),
        (json!({"max_version": "1.2"}), json!({}), false, None),
        (json!({"min_version": "1.0"}), json!({"max_version": "1.2"}), false, None),
        (json!({"alpn": ["h2", "x"]}), json!({"alpn": "x"}), true, Some(&b"x"[..])),
        (json!({"alpn": "x"}), json!({}), true, None),
        (json!({}), json!({"alpn": "x"}), true, None),
        // A server for HTTP/2 alone lets clients of HTTP/1.1 in.
        (json!({"alpn": "http/1.1"}), json!({"alpn": "h2"}), true, None),
        (
            json!({"max_version": "1.2", "cipher_suites": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}),
            json!({}),
            false,
            None,
        ),
        (json!({"disable_sni": true}), json!({}), true, None),
    ] {
        let (near, far) = shake(&trusting(near), &server(&pair, far)).await;
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_eq!((near.is_tls13(), near.alpn()), (tls13, alpn));
        assert_eq!(far.alpn(), alpn);
        tokio::time::timeout(Duration::from_secs(10), talk(near, far)).await.unwrap();
    }
    let (_, far) = shake(&trusting(json!({})), &server(&pair, json!({}))).await;
    assert_eq!(far.unwrap().server_name(), Some("a.test"));
    let (_, far) = shake(&trusting(json!({"disable_sni": true})), &server(&pair, json!({}))).await;
    assert_eq!(far.unwrap().server_name(), None);
    for (near, far, text) in [
        (json!({"alpn": "x"}), json!({"alpn": "y"}), "no common application protocol"),
        (json!({"min_version": "1.3"}), json!({"max_version": "1.2"}), "no common TLS version"),
        (json!({"max_version": "1.2"}), json!({"min_version": "1.3"}), "no common TLS version"),
    ] {
        let (near, far) = shake(&trusting(near), &server(&pair, far)).await;
        let error = near.err().unwrap();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.class, DialClass::Protocol);
        assert!(far.is_err());
    }
}

#[tokio::test]
async fn certificates_are_judged() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let good = authority.issue_for("a.test");
    let mut past = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    past.not_before = rcgen::date_time_ymd(2001, 1, 1);
    past.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let past = authority.issue(past);
    let mut future = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    future.not_before = rcgen::date_time_ymd(2090, 1, 1);
    future.not_after = rcgen::date_time_ymd(2091, 1, 1);
    let future = authority.issue(future);
    let address = authority.issue_for("127.0.0.1");
    let (own, lord) = (self_signed("a.test", false), self_signed("a.test", true));
    let says = async |trusted: &str, name: &str, pair, text: &str| {
        let client = client(json!({"server_name": name, "certificate": trusted}));
        let (near, _) = shake(&client, &server(pair, json!({}))).await;
        match near {
            Ok(_) => assert_eq!(text, ""),
            Err(error) => {
                let error = error.to_string();
                assert!(!text.is_empty() && error.contains(text), "{error}, expected {text:?}");
            }
        }
    };
    let trusted = authority.pem();
    says(&trusted, "a.test", &good, "").await;
    says(&trusted, "127.0.0.1", &address, "").await;
    says(&trusted, "b.test", &good, "is not valid for b.test, only for a.test").await;
    says(&trusted, "a.test", &past, "expired at 2002-01-01T00:00:00Z").await;
    says(&trusted, "a.test", &future, "is not valid before 2090-01-01").await;
    says(&stranger.pem(), "a.test", &good, "signed by an unknown authority").await;
    // A certificate that the options name as it is, whatever it calls itself.
    says(&own.certificate, "a.test", &own, "").await;
    says(&lord.certificate, "a.test", &lord, "").await;
    says(&lord.certificate, "b.test", &lord, "is not valid for b.test").await;
    says(&trusted, "a.test", &own, "signed by an unknown authority").await;
    // Nobody is trusted without being named, and everybody by `insecure`.
    for (pair, name) in [(&past, "b.test"), (&own, ""), (&lord, "x")] {
        let client = client(json!({"server_name": name, "insecure": true}));
        for max in ["1.2", "1.3"] {
            let (near, _) = shake(&client, &server(pair, json!({"max_version": max}))).await;
            near.unwrap();
        }
    }
}

#[tokio::test]
async fn insecure_servers_make_certificates_up() {
    let minting = try_server(&json!({"insecure": true})).unwrap();
    for options in [
        json!({"server_name": "a.test", "insecure": true}),
        json!({"server_name": "127.0.0.1", "insecure": true}),
        // RSA is all that this one takes.
        json!({"server_name": "a.test", "insecure": true, "max_version": "1.2",
               "cipher_suites": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}),
    ] {
        let (near, far) = shake(&client(options), &minting).await;
        talk(near.unwrap(), far.unwrap()).await;
    }
    let (near, _) = shake(&client(json!({"server_name": "a.test"})), &minting).await;
    let error = near.err().unwrap().to_string();
    assert!(error.contains("signed by an unknown authority"), "{error}");
}

#[test]
fn options_are_checked() {
    let pair = self_signed("a.test", false);
    for (value, text) in [
        (json!({}), "missing server_name or insecure=true"),
        (json!({"server_name": "a b"}), "invalid server_name"),
        (json!({"server_name": "x", "certificate": "x"}), "failed to parse certificate"),
        (
            json!({"server_name": "x", "certificate_path": "/nowhere.pem"}),
            "read certificate: open /nowhere.pem: no such file or directory",
        ),
        (json!({"server_name": "x", "utls": {"enabled": true}}), "uTLS is not in this build"),
        (json!({"server_name": "x", "reality": {"enabled": true}}), "REALITY is not in this build"),
        (json!({"server_name": "x", "alpn": [""]}), "invalid ALPN protocol"),
        (
            json!({"server_name": "x", "ech": {"enabled": true, "config": "x"}}),
            "invalid ECH configs pem",
        ),
        (
            json!({"server_name": "x", "ech": {"enabled": true, "config_path": "/nowhere"}}),
            "read ECH config: open /nowhere: no such file or directory",
        ),
        (json!({"server_name": "127.0.0.1", "ech": {"enabled": true}}), "needs a domain"),
    ] {
        let error = try_client(&value).err().unwrap_or_default();
        assert!(error.contains(text), "{value}: {error:?}");
    }
    for (value, text) in [
        (json!({}), "missing certificate"),
        (json!({"key": pair.key}), "missing certificate"),
        (json!({"certificate": pair.certificate}), "missing key"),
        (json!({"certificate": pair.certificate, "insecure": true}), "missing key"),
        (
            json!({"certificate": pair.certificate, "key": self_signed("a.test", false).key}),
            "parse x509 key pair: tls: private key does not match public key",
        ),
        (
            json!({"certificate": "x", "key": "x"}),
            "failed to find any PEM data in certificate input",
        ),
        (json!({"certificate_path": "/nowhere", "key": "x"}), "read certificate: open /nowhere:"),
        (json!({"certificate": "x", "key_path": "/nowhere"}), "read key: open /nowhere:"),
        (json!({"acme": {"domain": "a.test"}}), "ACME is not in this build"),
        (json!({"acme": {}}), "missing certificate"),
        (json!({"insecure": true, "ech": {"enabled": true}}), "missing ECH keys"),
        (
            json!({"insecure": true, "ech": {"enabled": true, "key": "x"}}),
            "Encrypted Client Hello at the server is not in this build",
        ),
        (json!({"reality": {"enabled": true}}), "REALITY is not in this build"),
    ] {
        let error = try_server(&value).err().unwrap_or_default();
        assert!(error.contains(text), "{value}: {error:?}");
    }
}

#[tokio::test]
async fn nonsense_ends_handshakes() {
    let pair = self_signed("a.test", false);
    let server = server(&pair, json!({}));
    for nonsense in [
        &b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x05\x01\x00",
        b"",
    ] {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        near.write_all(nonsense).await.unwrap();
        near.shutdown().await.unwrap();
        assert!(server.accept(Box::new(far)).await.is_err());
    }
    let client = client(json!({"server_name": "a.test", "insecure": true}));
    for nonsense in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"\x15\x03\x03\x00\x02\x02\x28", b""]
    {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        far.write_all(nonsense).await.unwrap();
        far.shutdown().await.unwrap();
        let error = client.connect(Box::new(near), &NO_TRAIL).await.err().unwrap();
        assert_eq!(error.class, DialClass::Protocol, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_handshakes() {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let client = client(json!({"server_name": "a.test", "insecure": true}));
    let error = client.connect(Box::new(near), &NO_TRAIL).await.err().unwrap();
    assert_eq!(error.class, DialClass::TimedOut, "{error}");
    let (_near, far) = tokio::io::duplex(1 << 16);
    let server = try_server(&json!({"insecure": true})).unwrap();
    assert!(server.accept(Box::new(far)).await.err().unwrap().is_quiet());
}

#[tokio::test]
async fn an_end_without_farewell_is_an_error() {
    let minting = try_server(&json!({"insecure": true})).unwrap();
    let client = client(json!({"server_name": "a.test", "insecure": true}));
    let (near, far) = shake(&client, &minting).await;
    let (mut near, far) = (near.unwrap(), far.unwrap());
    assert!(near.raw_tcp().is_none() && near.is_write_vectored());
    drop(far);
    let mut rest = Vec::new();
    let error = near.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}
