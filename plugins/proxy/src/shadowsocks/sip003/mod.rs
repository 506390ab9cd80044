//! SIP003 plugins that are built in, at the client.
//!
//! | module | what it is |
//! |---|---|
//! | [`args`] | options in one text |
//! | [`codec`] | what a plugin puts around bytes |
//! | [`obfs`] | `obfs-local` |
//! | [`mux`] | what `v2ray-plugin` puts around bytes inside its WebSocket |

pub mod args;
pub mod codec;
pub mod mux;
pub mod obfs;
#[cfg(test)]
mod tests;

use crosspoint_kernel::flow::BoxStream;
use crosspoint_schema::{
    decode::{HeaderMap, Listable},
    options::{ServerOptions, TlsOutOptions, TransportOptions, WsTransport},
};

use args::{Args, ArgsError};
use codec::Wrapped;

/// A plugin that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PluginError {
    /// Its options.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// There is no such plugin.
    #[error("plugin not found: {0}")]
    Unknown(String),
    /// A mode of `obfs-local`.
    #[error("unknown obfs mode {0}")]
    Obfs(String),
    /// A mode of `v2ray-plugin`.
    #[error("v2ray-plugin: unknown mode: {0}")]
    Mode(String),
    /// No number.
    #[error("parse mux value: {0:?} is no number")]
    Mux(String),
}

/// A plugin of a client: it lies between the connection to the server and the protocol.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plugin {
    /// TLS around all of it.
    pub(super) tls: Option<TlsOutOptions>,
    /// What carries the stream.
    pub(super) transport: Option<TransportOptions>,
    inner: Inner,
}

/// What comes inside.
#[derive(Clone, Debug, PartialEq)]
enum Inner {
    Nothing,
    Http { host: String, port: u16 },
    Tls { host: String },
    Mux,
}

impl Plugin {
    /// The plugin of that name with these options; none without a name.
    ///
    /// # Errors
    /// [`PluginError`].
    pub(super) fn new(
        name: &str,
        options: &str,
        server: &ServerOptions,
    ) -> Result<Option<Self>, PluginError> {
        if name.is_empty() {
            return Ok(None);
        }
        let args = Args::parse(options)?;
        match name {
            "obfs-local" => obfs_local(&args, server).map(Some),
            "v2ray-plugin" => v2ray_plugin(&args).map(Some),
            other => Err(PluginError::Unknown(other.to_owned())),
        }
    }

    /// Puts the plugin around a stream to the server.
    pub(super) fn wrap(&self, stream: BoxStream) -> BoxStream {
        match &self.inner {
            Inner::Nothing => stream,
            Inner::Http { host, port } => Wrapped::boxed(stream, obfs::Http::new(host, *port)),
            Inner::Tls { host } => Wrapped::boxed(stream, obfs::Tls::new(host)),
            Inner::Mux => Wrapped::boxed(stream, mux::Mux::default()),
        }
    }
}

fn obfs_local(args: &Args, server: &ServerOptions) -> Result<Plugin, PluginError> {
    // A request without a host is none: then it is the server's.
    let host = args.get("obfs-host").filter(|host| !host.is_empty());
    let host = host.unwrap_or(&server.server).to_owned();
    let inner = match args.get("obfs").unwrap_or("http") {
        "http" => Inner::Http { host, port: server.server_port },
        "tls" => Inner::Tls { host },
        other => return Err(PluginError::Obfs(other.to_owned())),
    };
    Ok(Plugin { tls: None, transport: None, inner })
}

fn v2ray_plugin(args: &Args) -> Result<Plugin, PluginError> {
    let list = |text: String| Listable(vec![text]);
    let tls = args.get("tls").map(|_| TlsOutOptions {
        enabled: true,
        server_name: args.get("host").unwrap_or_default().to_owned(),
        certificate_path: args.get("cert").unwrap_or_default().to_owned(),
        certificate: args.get("certRaw").map_or_else(Listable::default, |raw| {
            list(format!("-----BEGIN CERTIFICATE-----\n{raw}\n-----END CERTIFICATE-----"))
        }),
        ..TlsOutOptions::default()
    });
    let (transport, mux) = match args.get("mode").unwrap_or("websocket") {
        "websocket" => {
            let host = args.get("host").unwrap_or("cloudfront.com").to_owned();
            let transport = WsTransport {
                path: args.get("path").unwrap_or("/").to_owned(),
                headers: HeaderMap([("Host".to_owned(), list(host))].into()),
                ..WsTransport::default()
            };
            let mux = args.get("mux").unwrap_or("1");
            let mux: i64 = mux.parse().map_err(|_| PluginError::Mux(mux.to_owned()))?;
            (TransportOptions::Ws(transport), mux > 0)
        }
        "quic" => (TransportOptions::Quic(Default::default()), false),
        other => return Err(PluginError::Mode(other.to_owned())),
    };
    let inner = if mux { Inner::Mux } else { Inner::Nothing };
    Ok(Plugin { tls, transport: Some(transport), inner })
}
