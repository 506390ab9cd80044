//! S2, S3, S4, S6: both ends of a protocol are the same program. SOCKS5 comes in at the front, which speaks the protocol to the
//! back, which goes direct. CPU and memory are counted of both.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::load::bulk::Opening;
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
    /// VLESS with Vision over TLS 1.3; what goes through it looks like TLS, too.
    Vision,
    /// WireGuard in user space. The origins are asked for at the back's address in the tunnel, which stands for loopback.
    WireGuard,
}

/// What goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// On as many connections as elsewhere.
    Down,
    Up,
    /// On that many.
    DownOn(usize),
    UpOn(usize),
    Conn,
    RoundTrip,
    Udp,
    Idle,
}

/// Names of figures in the report and in the JSON.
pub(crate) struct Keys {
    pub(crate) down: [&'static str; 2],
    pub(crate) up: [&'static str; 2],
    /// The same on one connection.
    pub(crate) down_one: [&'static str; 2],
    pub(crate) up_one: [&'static str; 2],
    pub(crate) conn: [&'static str; 4],
    pub(crate) rr: [&'static str; 3],
    pub(crate) udp: [&'static str; 4],
    pub(crate) idle: [&'static str; 5],
}

macro_rules! keys {
    ($link:literal) => {
        Keys {
            down: [concat!($link, "_down_cpu"), concat!($link, "_down_rate")],
            up: [concat!($link, "_up_cpu"), concat!($link, "_up_rate")],
            down_one: [concat!($link, "_down1_cpu"), concat!($link, "_down1_rate")],
            up_one: [concat!($link, "_up1_cpu"), concat!($link, "_up1_rate")],
            rr: [concat!($link, "_rr_cpu"), concat!($link, "_rr_rate"), concat!($link, "_rr_p99")],
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
/// Addresses in the tunnel, and keys: private and public.
const BACK_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const FRONT_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const BACK_KEYS: [&str; 2] = [
    "mBbWmJQIzno+0pkaaFCLpopk3YFm75Qhc1Q/irDkr2U=",
    "hzR4LDOO/jJ8RJ2rZuhN2vTnvMFzwgBlOG7JyO/tvnw=",
];
const FRONT_KEYS: [&str; 2] = [
    "uEXxpxzthdn4lC06cBXbC+vkFFTXYcMmXNnxVG5wKFo=",
    "OzIMpkl1deCVcv8PN8BR1hg6qlIBg909Ikdn1gHYpEg=",
];
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
        const VISION: Keys = keys!("vision");
        const WIREGUARD: Keys = keys!("wg");
        match self {
            Link::Shadowsocks => &SHADOWSOCKS,
            Link::Shadowsocks2022 => &SHADOWSOCKS_2022,
            Link::Trojan => &TROJAN,
            Link::VlessWs => &VLESS_WS,
            Link::Vision => &VISION,
            Link::WireGuard => &WIREGUARD,
        }
    }

    /// How streams through it begin.
    pub(crate) fn opening(self) -> Opening {
        match self {
            Link::Vision => Opening::Tls,
            _ => Opening::Nothing,
        }
    }

    /// The address that the origins of a load are asked for at, if it is not loopback.
    pub(crate) fn host(self) -> Option<Ipv4Addr> {
        matches!(self, Link::WireGuard).then_some(BACK_INSIDE)
    }

    /// The configurations of the back and of the front; `dir` holds the certificates.
    pub(crate) fn configs(self, dir: &Path) -> (Value, Value) {
        let file = |name: &str| json!(dir.join(name));
        let server_tls = json!({
            "enabled": true, "server_name": NAME,
            "certificate_path": file("cert.pem"), "key_path": file("key.pem"),
        });
        let client_tls =
            json!({ "enabled": true, "server_name": NAME, "certificate_path": file("ca.pem") });
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
                    "tls": server_tls,
                }),
                json!({ "type": "trojan", "password": "secret", "tls": client_tls }),
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
            Link::Vision => {
                let flow = "xtls-rprx-vision";
                (
                    json!({
                        "type": "vless", "users": [{ "name": "one", "uuid": UUID, "flow": flow }],
                        "tls": server_tls,
                    }),
                    json!({ "type": "vless", "uuid": UUID, "flow": flow, "tls": client_tls }),
                )
            }
            Link::WireGuard => return wireguard(),
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

/// As in [`Link::configs`]. Both ends listen for SOCKS5, so that one sees when they are ready; the tunnel goes over UDP to
/// the same port.
fn wireguard() -> (Value, Value) {
    let end = |port: u16, tunnel: Value| {
        json!({
            "log": { "level": "error" },
            "inbounds": [{ "type": "socks", "tag": "in", "listen": "127.0.0.1", "listen_port": port }],
            "endpoints": [tunnel],
            "outbounds": [{ "type": "direct", "tag": "direct" }],
            "route": {
                "rules": [{ "inbound": "in", "action": "route", "outbound": "tunnel" }],
                "final": "direct",
            },
        })
    };
    let back = json!({
        "type": "wireguard", "tag": "tunnel", "address": [format!("{BACK_INSIDE}/32")],
        "private_key": BACK_KEYS[0], "listen_port": BACK,
        "peers": [{ "public_key": FRONT_KEYS[1], "allowed_ips": [format!("{FRONT_INSIDE}/32")] }],
    });
    let front = json!({
        "type": "wireguard", "tag": "tunnel", "address": [format!("{FRONT_INSIDE}/32")],
        "private_key": FRONT_KEYS[0],
        "peers": [{
            "public_key": BACK_KEYS[1], "address": "127.0.0.1", "port": BACK,
            "allowed_ips": [format!("{BACK_INSIDE}/32")],
        }],
    });
    (end(BACK, back), end(PORT, front))
}
