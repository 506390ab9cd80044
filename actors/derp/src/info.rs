//! What the two sides of a handshake say of themselves: JSON, sealed (tailscale `derp/derp.go`, `derp/derp_client.go`).

use serde::{Deserialize, Serialize};

use crate::{key::MeshKey, limit::Rate};

/// The version of the protocol that is spoken here.
pub const VERSION: u32 = 2;

/// What a client says.
#[derive(Clone, Debug, Default)]
pub struct ClientInfo {
    /// The key of the region: it is one of its servers.
    pub mesh_key: Option<MeshKey>,
    /// The version that it speaks.
    pub version: u32,
    /// It answers pings.
    pub can_ack_pings: bool,
    /// It measures.
    pub prober: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ClientJson {
    #[serde(rename = "meshKey", skip_serializing_if = "String::is_empty")]
    mesh_key: String,
    version: u32,
    #[serde(rename = "CanAckPings")]
    can_ack_pings: bool,
    #[serde(rename = "IsProber", skip_serializing_if = "std::ops::Not::not")]
    is_prober: bool,
}

impl ClientInfo {
    /// Reads the JSON. A mesh key that cannot be one counts as none.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let json: ClientJson = object(json)?;
        Some(Self {
            mesh_key: MeshKey::parse(&json.mesh_key),
            version: json.version,
            can_ack_pings: json.can_ack_pings,
            prober: json.is_prober,
        })
    }

    /// The JSON.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let json = ClientJson {
            mesh_key: self.mesh_key.as_ref().map(MeshKey::expose).unwrap_or_default(),
            version: self.version,
            can_ack_pings: self.can_ack_pings,
            is_prober: self.prober,
        };
        // Texts, numbers and truth values: nothing in it can fail.
        serde_json::to_vec(&json).unwrap_or_default()
    }
}

/// Reads an object; what else could stand for a struct (an array) is none.
fn object<T: serde::de::DeserializeOwned>(json: &[u8]) -> Option<T> {
    json.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(json).ok())?
}

/// What a server says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The version that it speaks.
    pub version: u32,
    /// What a client may send; a client that knows drops what is too much by itself.
    pub rate: Option<Rate>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct ServerJson {
    version: u32,
    #[serde(rename = "TokenBucketBytesPerSecond", skip_serializing_if = "is_zero")]
    per_second: u64,
    #[serde(rename = "TokenBucketBytesBurst", skip_serializing_if = "is_zero")]
    burst: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ServerInfo {
    /// Reads the JSON.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let json: ServerJson = object(json)?;
        let rate = (json.per_second > 0).then(|| Rate::new(json.per_second, json.burst));
        Some(Self { version: json.version, rate })
    }

    /// The JSON.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let (per_second, burst) =
            self.rate.map_or((0, 0), |rate| (rate.bytes_per_second, rate.burst));
        serde_json::to_vec(&ServerJson { version: self.version, per_second, burst })
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_go() {
        let info = ClientInfo::parse(br#"{"version":2,"CanAckPings":true,"AppName":"x"}"#).unwrap();
        assert!(info.can_ack_pings && !info.prober && info.mesh_key.is_none());
        assert_eq!(info.emit(), br#"{"version":2,"CanAckPings":true}"#);
        let key = "0a".repeat(32);
        let json =
            format!(r#"{{"meshKey":"{key}","version":2,"CanAckPings":false,"IsProber":true}}"#);
        let info = ClientInfo::parse(json.as_bytes()).unwrap();
        assert_eq!(info.mesh_key.as_ref().unwrap().expose(), key);
        assert_eq!(info.emit(), json.as_bytes());
        assert!(ClientInfo::parse(br#"{"meshKey":"short"}"#).unwrap().mesh_key.is_none());
        assert!(ClientInfo::parse(b"[]").is_none());

        let info = ServerInfo { version: VERSION, rate: None };
        assert_eq!(info.emit(), br#"{"version":2}"#);
        let info = ServerInfo { version: VERSION, rate: Some(Rate::new(1 << 20, 1 << 21)) };
        assert_eq!(ServerInfo::parse(&info.emit()), Some(info));
    }
}
