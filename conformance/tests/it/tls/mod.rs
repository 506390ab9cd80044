//! TLS on real traffic: the reference, curl and OpenSSL on the other side, certificates of every kind, and what
//! goes over the wire.

pub(crate) mod certs;
mod chained;
mod clients;
mod ech;
mod hostile;
mod live;
mod urltest;
mod wire;

use std::process::Child;

use serde_json::{Value, json};

/// A helper program that ends with the test.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An inbound for tests on loopback.
fn inbound(kind: &str, port: u16, tls: Value) -> Value {
    let mut inbound =
        json!({ "type": kind, "tag": kind, "listen": "127.0.0.1", "listen_port": port });
    if !tls.is_null() {
        inbound["tls"] = tls;
        inbound["tls"]["enabled"] = json!(true);
    }
    inbound
}

/// An outbound to an HTTP proxy with TLS on loopback.
fn outbound(port: u16, mut tls: Value) -> Value {
    tls["enabled"] = json!(true);
    json!({ "type": "http", "tag": "link", "server": "127.0.0.1", "server_port": port, "tls": tls })
}
