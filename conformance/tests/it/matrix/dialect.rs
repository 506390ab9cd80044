//! Cells in the dialect that we share with the reference.

use std::path::Path;

use serde_json::{Value, json};

use super::axes::Cell;
use crate::tls::certs::Files;

pub(super) const UUID: &str = "7b1e2c4a-0d7f-4c52-9a3e-2f3f0a7d1c11";
pub(super) const PASSWORD: &str = "pw-crosspoint";
pub(super) const METHOD: &str = "aes-128-gcm";
/// The name in the certificate.
pub(super) const NAME: &str = "localhost";
pub(super) const PATH: &str = "/matrix";
pub(super) const SERVICE: &str = "matrix";

/// Servers: cells and their ports.
pub(super) fn server(cells: &[(Cell, u16)], files: &Files) -> Value {
    let inbounds: Vec<Value> = cells
        .iter()
        .map(|&(cell, port)| {
            let mut inbound = match cell.protocol() {
                "shadowsocks" => json!({ "method": METHOD, "password": PASSWORD }),
                "trojan" => json!({ "users": [{ "name": "a", "password": PASSWORD }] }),
                "vless" => json!({ "users": [{ "name": "a", "uuid": UUID }] }),
                _ => json!({ "users": [{ "name": "a", "uuid": UUID, "alterId": 0 }] }),
            };
            inbound["type"] = json!(cell.protocol());
            inbound["tag"] = json!(cell.to_string());
            inbound["listen"] = json!("127.0.0.1");
            inbound["listen_port"] = json!(port);
            layers(&mut inbound, cell);
            if cell.tls() {
                inbound["tls"] = files.server();
                inbound["tls"]["enabled"] = json!(true);
            }
            if cell.mux().is_some() {
                inbound["multiplex"] = json!({ "enabled": true, "padding": cell.padding() });
            }
            inbound
        })
        .collect();
    json!({
        "log": { "level": "debug" },
        "inbounds": inbounds,
        "outbounds": [{ "type": "direct", "tag": "direct" }],
    })
}

/// Clients: cells, the port of a SOCKS inbound that leads to each, and that of its server.
pub(super) fn client(cells: &[(Cell, u16, u16)], authority: &Path) -> Value {
    let entries: Vec<Value> = cells
        .iter()
        .map(|(cell, entry, _)| {
            let tag = format!("in {cell}");
            json!({ "type": "socks", "tag": tag, "listen": "127.0.0.1", "listen_port": entry })
        })
        .collect();
    let exits: Vec<Value> = cells
        .iter()
        .map(|&(cell, _, server)| {
            let mut outbound = match cell.protocol() {
                "shadowsocks" => json!({ "method": METHOD, "password": PASSWORD }),
                "trojan" => json!({ "password": PASSWORD }),
                "vless" => json!({ "uuid": UUID }),
                _ => json!({ "uuid": UUID, "security": "auto" }),
            };
            outbound["type"] = json!(cell.protocol());
            outbound["tag"] = json!(format!("out {cell}"));
            outbound["server"] = json!("127.0.0.1");
            outbound["server_port"] = json!(server);
            layers(&mut outbound, cell);
            if cell.tls() {
                outbound["tls"] =
                    json!({ "enabled": true, "server_name": NAME, "certificate_path": authority });
            }
            if let Some(protocol) = cell.mux() {
                outbound["multiplex"] = json!({
                    "enabled": true, "protocol": protocol, "padding": cell.padding(),
                    "max_connections": 2, "min_streams": 4,
                });
            }
            outbound
        })
        .collect();
    let rules: Vec<Value> = cells
        .iter()
        .map(|(cell, ..)| json!({ "inbound": format!("in {cell}"), "outbound": format!("out {cell}") }))
        .collect();
    json!({
        "log": { "level": "debug" },
        "inbounds": entries,
        "outbounds": exits,
        "route": { "rules": rules },
    })
}

/// What is the same on both sides.
fn layers(options: &mut Value, cell: Cell) {
    options["transport"] = match cell.transport() {
        "none" => return,
        kind @ ("ws" | "httpupgrade") => json!({ "type": kind, "path": PATH }),
        "http" => json!({ "type": "http", "host": [NAME], "path": PATH }),
        kind => json!({ "type": kind, "service_name": SERVICE }),
    };
}
