//! What carries a protocol's stream: the V2Ray transports.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Duration, Field, HeaderMap, Listable, Map, ObjectCursor, Options};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::{ConfigError, options};

options! {
    /// HTTP/2, or HTTP/1.1 without TLS.
    pub struct HttpTransport ("option.V2RayHTTPOptions") {
        /// Hosts: the client picks one, the server accepts these.
        pub host: Listable<String> = "host",
        /// Path of the request; the server checks the prefix.
        pub path: String = "path",
        /// Method of the request; PUT by default, the server accepts any when empty.
        pub method: String = "method",
        /// Further headers.
        pub headers: HeaderMap = "headers",
        /// Idle time before a ping.
        pub idle_timeout: Duration = "idle_timeout",
        /// Time for an answer to a ping; 15 seconds by default.
        pub ping_timeout: Duration = "ping_timeout",
    }
}

options! {
    /// WebSocket.
    pub struct WsTransport ("option.V2RayWebsocketOptions") {
        /// Path of the request.
        pub path: String = "path",
        /// Further headers.
        pub headers: HeaderMap = "headers",
        /// Most bytes of data in the request.
        pub max_early_data: u32 = "max_early_data",
        /// Header for that data; in the path when empty.
        pub early_data_header_name: String = "early_data_header_name",
    }
}

options! {
    /// gRPC.
    pub struct GrpcTransport ("option.V2RayGRPCOptions") {
        /// Name of the service.
        pub service_name: String = "service_name",
        /// Idle time before a ping.
        pub idle_timeout: Duration = "idle_timeout",
        /// Time for an answer to a ping; 15 seconds by default.
        pub ping_timeout: Duration = "ping_timeout",
        /// Ping without open streams too.
        pub permit_without_stream: bool = "permit_without_stream",
    }
}

options! {
    /// HTTP Upgrade.
    pub struct HttpUpgradeTransport ("option.V2RayHTTPUpgradeOptions") {
        /// Host of the request.
        pub host: String = "host",
        /// Path of the request, compared as a whole.
        pub path: String = "path",
        /// Further headers.
        pub headers: HeaderMap = "headers",
    }
}

options! {
    /// QUIC, which has no options of its own.
    pub struct QuicTransport ("option.V2RayQUICOptions") {}
}

/// What carries a protocol's stream.
#[derive(Clone, Debug, PartialEq)]
pub enum TransportOptions {
    /// HTTP/2, or HTTP/1.1 without TLS.
    Http(HttpTransport),
    /// WebSocket.
    Ws(WsTransport),
    /// QUIC.
    Quic(QuicTransport),
    /// gRPC.
    Grpc(GrpcTransport),
    /// HTTP Upgrade.
    HttpUpgrade(HttpUpgradeTransport),
}

impl TransportOptions {
    /// The word in `type`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Ws(_) => "ws",
            Self::Quic(_) => "quic",
            Self::Grpc(_) => "grpc",
            Self::HttpUpgrade(_) => "httpupgrade",
        }
    }
}

fn variant<T: Options>(builder: &mut SchemaBuilder, type_name: &str) -> serde_json::Value {
    let mut object = ObjectSchema::new(builder);
    object.constant("type", type_name);
    T::describe(&mut object);
    object.build(false)
}

impl Field for TransportOptions {
    fn absent() -> Self {
        Self::Quic(QuicTransport::default())
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(cursor, "option._V2RayTransportOptions")?;
        object.splitting(true);
        let type_name: String = object.field("type");
        object.end_pass()?;
        object.splitting(false);
        let value = match type_name.as_str() {
            "http" => Self::Http(Options::decode_fields(&mut object)),
            "ws" => Self::Ws(Options::decode_fields(&mut object)),
            "quic" => Self::Quic(Options::decode_fields(&mut object)),
            "grpc" => Self::Grpc(Options::decode_fields(&mut object)),
            "httpupgrade" => Self::HttpUpgrade(Options::decode_fields(&mut object)),
            other => return Err(cursor.error(format!("unknown transport type: {other}"))),
        };
        object.finish(false)?;
        Ok(value)
    }

    fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        out.insert("type".to_owned(), self.type_name().into());
        match self {
            Self::Http(options) => options.encode_fields(&mut out),
            Self::Ws(options) => options.encode_fields(&mut out),
            Self::Quic(options) => options.encode_fields(&mut out),
            Self::Grpc(options) => options.encode_fields(&mut out),
            Self::HttpUpgrade(options) => options.encode_fields(&mut out),
        }
        out.into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.V2RayTransportOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        builder.define_with("Transport", |builder| {
            json!({"oneOf": [
                variant::<HttpTransport>(builder, "http"),
                variant::<WsTransport>(builder, "ws"),
                variant::<QuicTransport>(builder, "quic"),
                variant::<GrpcTransport>(builder, "grpc"),
                variant::<HttpUpgradeTransport>(builder, "httpupgrade"),
            ]})
        })
    }
}
