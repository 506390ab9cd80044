//! Options of `derp`.

use std::borrow::Cow;

use crosspoint_schema::{
    ConfigError,
    decode::{Cursor, Field, Listable, Options, Secret},
    json_schema::SchemaBuilder,
    options,
    options::{DialOptions, ListenOptions, ServerOptions, TlsInOptions, TlsOutOptions},
};
use serde_json::json;

options! {
    /// A DERP server: relays packets between Tailscale nodes by their public keys.
    pub struct DerpOptions ("option.DERPServiceOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// TLS, which is required.
        pub tls: Option<TlsInOptions> = "tls",
        /// File with the server's key; made when it is not there.
        pub config_path: String = "config_path",
        /// Tags of Tailscale endpoints; nodes of their tailnets may come in.
        pub verify_client_endpoint: Listable<String> = "verify_client_endpoint",
        /// URLs that say who may come in.
        pub verify_client_url: Listable<VerifyUrl> = "verify_client_url",
        /// What `/` shows: a page of its own by default, `blank`, or a URL to be sent to.
        pub home: String = "home",
        /// The other servers of the region.
        pub mesh_with: Listable<MeshOptions> = "mesh_with",
        /// The key that the servers of the region share: 64 hexadecimal digits in lower case.
        pub mesh_psk: Secret = "mesh_psk",
        /// File with that key.
        pub mesh_psk_file: String = "mesh_psk_file",
        /// Answers STUN requests of nodes.
        pub stun: Option<Stun> = "stun",
        /// Bytes a second that each client may send (not in the reference); no limit by default.
        pub client_rate: u64 = "client_rate",
        /// Bytes that each client may send at once, with `client_rate`; 64 KiB at least (not in the reference).
        pub client_burst: u64 = "client_burst",
    }
}

options! {
    /// A URL that says who may come in; unknown members pass.
    pub struct VerifyUrlObject ("option._DERPVerifyClientURLOptions") loose {
        /// The URL.
        pub url: String = "url",
        /// How to get there.
        pub dial: DialOptions = flatten,
    }
}

/// A URL that says who may come in: as a text, or as an object with the way there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifyUrl(pub VerifyUrlObject);

impl Field for VerifyUrl {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        match cursor.node().as_str() {
            Some(url) => {
                Ok(Self(VerifyUrlObject { url: url.to_owned(), dial: DialOptions::default() }))
            }
            None => VerifyUrlObject::decode_object(cursor).map(Self),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        Field::to_json(&self.0)
    }

    fn go_type() -> Cow<'static, str> {
        "option.DERPVerifyClientURLOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "string"}, VerifyUrlObject::schema(builder)]})
    }
}

options! {
    /// Another server of the region.
    pub struct MeshOptions ("option.DERPMeshOptions") {
        /// Where it is.
        pub server: ServerOptions = flatten,
        /// Its name, if not `server`; this is then what is dialled.
        pub host: String = "host",
        /// TLS.
        pub tls: Option<TlsOutOptions> = "tls",
        /// How to get there.
        pub dial: DialOptions = flatten,
    }
}

options! {
    /// How STUN listens; unknown members pass.
    pub struct StunObject ("option._DERPSTUNListenOptions") loose {
        /// Whether it does.
        pub enabled: bool = "Enabled",
        /// Where: all addresses and port 3478 by default.
        pub listen: ListenOptions = flatten,
    }
}

/// STUN: a port, or an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stun(pub StunObject);

impl Field for Stun {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if let Ok(port) = u16::decode(cursor) {
            let listen = ListenOptions { listen_port: port, ..ListenOptions::default() };
            return Ok(Self(StunObject { enabled: true, listen }));
        }
        StunObject::decode_object(cursor).map(Self)
    }

    /// An object, always: what the reference prints where there is nothing but a port, a truth value, it cannot read.
    fn to_json(&self) -> serde_json::Value {
        Field::to_json(&self.0)
    }

    fn is_absent(&self) -> bool {
        false
    }

    fn go_type() -> Cow<'static, str> {
        "option.DERPSTUNListenOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [u16::schema(builder), StunObject::schema(builder)]})
    }
}
