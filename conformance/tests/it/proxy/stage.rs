//! A program with one inbound of every kind, and the origins behind it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use crosspoint_conformance::net::http::http_origin;
use crosspoint_conformance::net::origin::Origin;
use crosspoint_conformance::net::suite::Origins;
use crosspoint_conformance::ports;
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

/// The user that every inbound with a login knows.
pub(super) const USER: &str = "alice";
/// Her password, with what must survive quoting.
pub(super) const PASSWORD: &str = "p:a ss@1";

/// One program and what it can reach.
pub(super) struct Stage {
    pub(super) ports: Ports,
    pub(super) v4: Origins,
    pub(super) v6: Origins,
    pub(super) web4: Origin,
    pub(super) web6: Origin,
    /// A port on which nothing listens.
    pub(super) closed: u16,
    pub(super) program: Running,
}

/// Where the inbounds listen; each on 127.0.0.1, `mixed6` on ::1.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) mixed: u16,
    pub(super) mixed6: u16,
    pub(super) mixed_login: u16,
    pub(super) socks: u16,
    pub(super) socks_login: u16,
    pub(super) http: u16,
    pub(super) http_login: u16,
    pub(super) direct: u16,
}

impl Stage {
    pub(super) async fn start(subject: &Subject) -> Result<Self> {
        let [mixed, mixed6, mixed_login, socks, socks_login, http, http_login, direct, closed] =
            ports::many();
        let ports =
            Ports { mixed, mixed6, mixed_login, socks, socks_login, http, http_login, direct };
        let (v4, v6) = (Origins::v4().await?, Origins::v6().await?);
        let program = subject.start(&config(&ports, v4.echo.addr())).await?;
        Ok(Self {
            ports,
            v4,
            v6,
            web4: http_origin("127.0.0.1:0").await?,
            web6: http_origin("[::1]:0").await?,
            closed,
            program,
        })
    }
}

impl Ports {
    /// The address of an inbound on IPv4.
    pub(super) fn v4(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// The address of an inbound on IPv6.
    pub(super) fn v6(port: u16) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, port).into()
    }
}

fn config(ports: &Ports, echo: SocketAddr) -> Value {
    let inbound = |kind: &str, tag: &str, port: u16, login: bool| {
        let mut inbound = json!({
            "type": kind, "tag": tag, "listen": "127.0.0.1", "listen_port": port,
        });
        if login {
            inbound["users"] = json!([{ "username": USER, "password": PASSWORD }]);
        }
        inbound
    };
    let mut mixed6 = inbound("mixed", "mixed6", ports.mixed6, false);
    mixed6["listen"] = json!("::1");
    let mut direct = inbound("direct", "direct-in", ports.direct, false);
    direct["override_address"] = json!(echo.ip());
    direct["override_port"] = json!(echo.port());
    json!({
        "log": { "level": "debug" },
        "inbounds": [
            inbound("mixed", "mixed", ports.mixed, false),
            mixed6,
            inbound("mixed", "mixed-login", ports.mixed_login, true),
            inbound("socks", "socks", ports.socks, false),
            inbound("socks", "socks-login", ports.socks_login, true),
            inbound("http", "http", ports.http, false),
            inbound("http", "http-login", ports.http_login, true),
            direct,
        ],
        "outbounds": [{ "type": "direct", "tag": "direct" }],
    })
}
