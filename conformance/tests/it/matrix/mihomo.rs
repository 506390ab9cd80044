//! Cells in mihomo's dialect.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    axes::Cell,
    dialect::{METHOD, NAME, PASSWORD, PATH, SERVICE, UUID},
};
use crate::tls::certs::Files;

fn base() -> Value {
    json!({
        "bind-address": "127.0.0.1", "allow-lan": true, "ipv6": true, "mode": "rule",
        "log-level": "warning", "find-process-mode": "off", "profile": { "store-selected": false },
    })
}

/// Servers: cells and their ports.
pub(super) fn server(cells: &[(Cell, u16)], files: &Files) -> Result<Value> {
    // mihomo reads no files outside its own directory, but takes their contents.
    let certificate = std::fs::read_to_string(&files.certificate).context("certificate")?;
    let key = std::fs::read_to_string(&files.key).context("key")?;
    let listeners: Vec<Value> = cells
        .iter()
        .map(|&(cell, port)| {
            let mut listener = match cell.protocol() {
                "shadowsocks" => {
                    json!({ "type": "shadowsocks", "cipher": METHOD, "password": PASSWORD, "udp": true })
                }
                "trojan" => json!({ "users": [{ "username": "a", "password": PASSWORD }] }),
                _ => json!({ "users": [{ "username": "a", "uuid": UUID, "alterId": 0 }] }),
            };
            listener["type"] = json!(cell.protocol());
            listener["name"] = json!(cell.to_string());
            listener["listen"] = json!("127.0.0.1");
            listener["port"] = json!(port);
            match cell.transport() {
                "ws" | "httpupgrade" => listener["ws-path"] = json!(PATH),
                "grpc" => listener["grpc-service-name"] = json!(SERVICE),
                _ => {}
            }
            if cell.tls() {
                listener["certificate"] = json!(certificate);
                listener["private-key"] = json!(key);
            }
            if cell.mux().is_some() {
                listener["mux-option"] = json!({ "padding": cell.padding() });
            }
            listener
        })
        .collect();
    let mut config = base();
    config["listeners"] = json!(listeners);
    config["rules"] = json!(["MATCH,DIRECT"]);
    Ok(config)
}

/// Clients: cells, the port of a SOCKS listener that leads to each, and that of its server.
pub(super) fn client(cells: &[(Cell, u16, u16)]) -> Value {
    let proxies: Vec<Value> = cells
        .iter()
        .map(|&(cell, _, server)| {
            let mut proxy = match cell.protocol() {
                "shadowsocks" => json!({ "type": "ss", "cipher": METHOD, "password": PASSWORD }),
                "trojan" => json!({ "type": "trojan", "password": PASSWORD, "sni": NAME }),
                "vless" => json!({ "type": "vless", "uuid": UUID }),
                _ => json!({ "type": "vmess", "uuid": UUID, "alterId": 0, "cipher": "auto" }),
            };
            proxy["name"] = json!(cell.to_string());
            proxy["server"] = json!("127.0.0.1");
            proxy["port"] = json!(server);
            proxy["udp"] = json!(true);
            match cell.transport() {
                "none" => {}
                "ws" => {
                    proxy["network"] = json!("ws");
                    proxy["ws-opts"] = json!({ "path": PATH });
                }
                "httpupgrade" => {
                    proxy["network"] = json!("ws");
                    proxy["ws-opts"] = json!({ "path": PATH, "v2ray-http-upgrade": true });
                }
                "http" if cell.tls() => {
                    proxy["network"] = json!("h2");
                    proxy["h2-opts"] = json!({ "host": [NAME], "path": PATH });
                }
                "http" => {
                    proxy["network"] = json!("http");
                    proxy["http-opts"] =
                        json!({ "method": "PUT", "path": [PATH], "headers": { "Host": [NAME] } });
                }
                _ => {
                    proxy["network"] = json!("grpc");
                    proxy["grpc-opts"] = json!({ "grpc-service-name": SERVICE });
                }
            }
            if cell.tls() {
                proxy["tls"] = json!(true);
                proxy["servername"] = json!(NAME);
                proxy["skip-cert-verify"] = json!(true);
            }
            if let Some(protocol) = cell.mux() {
                proxy["smux"] = json!({
                    "enabled": true, "protocol": protocol, "padding": cell.padding(),
                    "max-connections": 2, "min-streams": 4,
                });
            }
            proxy
        })
        .collect();
    let listeners: Vec<Value> = cells
        .iter()
        .map(|(cell, entry, _)| {
            json!({
                "name": format!("in {cell}"), "type": "socks", "listen": "127.0.0.1", "port": entry,
                "udp": true, "proxy": cell.to_string(),
            })
        })
        .collect();
    let mut config = base();
    config["proxies"] = json!(proxies);
    config["listeners"] = json!(listeners);
    config["rules"] = json!(["MATCH,REJECT"]);
    config
}
