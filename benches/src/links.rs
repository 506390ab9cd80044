//! S2, S3, S4: both ends of a protocol are the same program. SOCKS5 comes in at the front, which speaks the protocol to the
//! back, which goes direct. CPU and memory are counted of both.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::scenario::{BACK, PORT};

/// A protocol between two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Shadowsocks of SIP004, aes-128-gcm.
    Shadowsocks,
    /// Shadowsocks of SIP022, 2022-blake3-aes-128-gcm.
    Shadowsocks2022,
    /// Trojan over TLS 1.3; the client verifies a P-256 certificate that its own authority has issued.
    Trojan,
    /// VLESS over WebSocket, without TLS.
    VlessWs,
}

/// What goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Down,
    Up,
    Conn,
    Udp,
    Idle,
}

/// Names of figures in the report and in the JSON.
pub(crate) struct Keys {
    pub(crate) down: [&'static str; 2],
    pub(crate) up: [&'static str; 2],
    pub(crate) conn: [&'static str; 4],
    pub(crate) udp: [&'static str; 4],
    pub(crate) idle: [&'static str; 5],
}

macro_rules! keys {
    ($link:literal) => {
        Keys {
            down: [concat!($link, "_down_cpu"), concat!($link, "_down_rate")],
            up: [concat!($link, "_up_cpu"), concat!($link, "_up_rate")],
            conn: [
                concat!($link, "_conn_cpu"),
                concat!($link, "_conn_rate"),
                concat!($link, "_conn_p99"),
                concat!($link, "_conn_lost"),
            ],
            udp: [
                concat!($link, "_udp_cpu"),
                concat!($link, "_udp_rate"),
                concat!($link, "_udp_p99"),
                concat!($link, "_udp_lost"),
            ],
            idle: [
                concat!($link, "_idle_rss"),
                concat!($link, "_idle_conn"),
                concat!($link, "_idle_fds"),
                concat!($link, "_idle_after"),
                concat!($link, "_idle_fds_left"),
            ],
        }
    };
}

/// The name that the certificate is for.
const NAME: &str = "bench.test";
/// 16 bytes in base64.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const UUID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

/// Writes an authority (`ca.pem`) and what it issues (`cert.pem`, `key.pem`) into a directory.
pub(crate) fn make_certificates(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &authority)?;
    for (file, text) in [
        ("ca.pem", authority.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(file), text).with_context(|| format!("write {file}"))?;
    }
    Ok(())
}

impl Link {
    pub(crate) fn keys(self) -> &'static Keys {
        const SHADOWSOCKS: Keys = keys!("ss");
        const SHADOWSOCKS_2022: Keys = keys!("ss22");
        const TROJAN: Keys = keys!("trojan");
        const VLESS_WS: Keys = keys!("ws");
        match self {
            Link::Shadowsocks => &SHADOWSOCKS,
            Link::Shadowsocks2022 => &SHADOWSOCKS_2022,
            Link::Trojan => &TROJAN,
            Link::VlessWs => &VLESS_WS,
        }
    }

    /// The configurations of the back and of the front; `dir` holds the certificates.
    pub(crate) fn configs(self, dir: &Path) -> (Value, Value) {
        let file = |name: &str| json!(dir.join(name));
        let (mut inbound, mut outbound) = match self {
            Link::Shadowsocks | Link::Shadowsocks2022 => {
                let method = match self {
                    Link::Shadowsocks => "aes-128-gcm",
                    _ => "2022-blake3-aes-128-gcm",
                };
                let end = json!({ "type": "shadowsocks", "method": method, "password": KEY });
                (end.clone(), end)
            }
            Link::Trojan => (
                json!({
                    "type": "trojan", "users": [{ "name": "one", "password": "secret" }],
                    "tls": {
                        "enabled": true, "server_name": NAME,
                        "certificate_path": file("cert.pem"), "key_path": file("key.pem"),
                    },
                }),
                json!({
                    "type": "trojan", "password": "secret",
                    "tls": { "enabled": true, "server_name": NAME, "certificate_path": file("ca.pem") },
                }),
            ),
            Link::VlessWs => {
                let transport = json!({ "type": "ws", "path": "/bench" });
                (
                    json!({
                        "type": "vless", "users": [{ "name": "one", "uuid": UUID }],
                        "transport": transport,
                    }),
                    json!({ "type": "vless", "uuid": UUID, "transport": transport }),
                )
            }
        };
        for (key, value) in
            [("tag", json!("in")), ("listen", json!("127.0.0.1")), ("listen_port", json!(BACK))]
        {
            inbound[key] = value;
        }
        for (key, value) in
            [("tag", json!("out")), ("server", json!("127.0.0.1")), ("server_port", json!(BACK))]
        {
            outbound[key] = value;
        }
        let back = json!({
            "log": { "level": "error" },
            "inbounds": [inbound],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
        });
        let front = json!({
            "log": { "level": "error" },
            "inbounds": [
                { "type": "socks", "tag": "in", "listen": "127.0.0.1", "listen_port": PORT },
            ],
            "outbounds": [outbound],
        });
        (back, front)
    }
}
