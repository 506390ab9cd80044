//! Outbound `http`: asks a proxy for a tunnel.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::error::{DialClass, Side};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream, Prefixed};
use crosspoint_kernel::net::dial::{self, Dialer, Setup};
use crosspoint_kernel::serve::{HANDSHAKE_TIMEOUT, handshake};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::snapshot::Plane;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use crosspoint_tls::ClientDefaults;
use tokio::io::AsyncWriteExt as _;

use super::options::HttpOutOptions;
use super::wire::{Connect, ConnectError, ConnectOptions, read_connect_answer};
use crate::host;
use crate::read::read_some;
use crosspoint_layers::spec::{check, done, server, to_proxy};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "http", schema: HttpOutOptions::describe, canonical: |raw| raw.canonical::<HttpOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: HttpOutOptions = raw.parse()?;
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    if let Some(tls) = &options.tls {
        tls.note_deprecated(raw.notices());
    }
    check(&raw, "tls", tls(&options, None).map(drop))?;
    done(HttpOut(options))
}

/// TLS towards the proxy, if the options want it.
fn tls(
    options: &HttpOutOptions,
    plane: Option<Arc<Plane>>,
) -> Result<Option<crosspoint_tls::Client>, BuildError> {
    let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) else { return Ok(None) };
    let defaults = ClientDefaults { plane, ..ClientDefaults::default() };
    Ok(Some(crosspoint_tls::Client::new(tls, &options.server.server, &defaults)?))
}

#[derive(Debug)]
struct HttpOut(HttpOutOptions);

impl Spec for HttpOut {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.0.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let options = &self.0;
            let connect = Connect::new(&ConnectOptions {
                username: &options.username,
                password: options.password.expose(),
                path: &options.path,
                headers: options.headers.iter().collect(),
            });
            let setup = Setup { server: Some(&options.server.server), ..Setup::default() };
            let client = Client {
                tls: tls(options, Some(cx.plane.clone()))?,
                dialer: Dialer::with(&options.dial, &cx, setup)?,
                server: server(&options.server),
                connect: connect.map_err(BuildError::options)?,
            };
            Ok(Component { outbound: Some(Arc::new(client)), ..Component::default() })
        })
    }
}

struct Client {
    tls: Option<crosspoint_tls::Client>,
    dialer: Dialer,
    server: Target,
    connect: Connect,
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async move {
            let mut request = Vec::with_capacity(256);
            self.connect.emit(&host::Target::from(dial.target), &mut request).map_err(refused)?;
            let open =
                || async { self.dialer.connect(dial.to(&self.server)).await.map_err(to_proxy) };
            let stream: BoxStream = match &self.tls {
                None => open().await?,
                Some(tls) => {
                    let stream = tls.dial(open, dial.trail).await;
                    Box::new(stream.map_err(|error| {
                        error.context(format_args!("http proxy {}", self.server))
                    })?)
                }
            };
            handshake(HANDSHAKE_TIMEOUT, ask(stream, &request)).await.map_err(|error: DialError| {
                let mut error = error.context(format_args!("http proxy {}", self.server));
                // A time-out of the handshake is the proxy's, whatever the system calls it.
                error.side = Side::Proxy;
                error
            })
        })
    }

    fn associate<'a>(&'a self, _dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("an HTTP proxy carries no UDP")) })
    }

    fn supports(&self, network: Network) -> bool {
        network == Network::Tcp
    }
}

/// Sends the request and waits for the tunnel.
async fn ask(mut stream: BoxStream, request: &[u8]) -> Result<BoxStream, DialError> {
    let failed = |error: std::io::Error| DialError::from_io(&error, Side::Proxy);
    stream.write_all(request).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut held = Vec::new();
    loop {
        let (searched, mut answer) = (held.len(), Ok(None));
        let n = poll_fn(|cx| {
            let n = ready!(read_some(&mut stream, cx, |bytes| {
                if held.is_empty() {
                    // Nearly always the whole answer and nothing else: no buffer is needed.
                    answer = read_connect_answer(bytes, 0);
                    match answer {
                        Ok(Some(len)) => held = bytes.get(len..).unwrap_or_default().to_vec(),
                        _ => held = bytes.to_vec(),
                    }
                } else {
                    held.extend_from_slice(bytes);
                    answer = read_connect_answer(&held, searched);
                    if let Ok(Some(len)) = answer {
                        held.drain(..len);
                    }
                }
            }))?;
            Poll::Ready(Ok(n))
        });
        if n.await.map_err(failed)? == 0 {
            return Err(DialError::protocol("closed before its answer"));
        }
        if answer.map_err(refused)?.is_some() {
            return Ok(if held.is_empty() {
                stream
            } else {
                Box::new(Prefixed::new(Bytes::from(held), stream))
            });
        }
    }
}

fn refused(error: ConnectError) -> DialError {
    let (class, side) = match error {
        ConnectError::HostAndPath => (DialClass::Other, Side::Local),
        ConnectError::Head(_) => (DialClass::Protocol, Side::Proxy),
        ConnectError::Unauthorized => (DialClass::Auth, Side::Proxy),
        ConnectError::Method => (DialClass::Unsupported, Side::Proxy),
        ConnectError::Status(403) => (DialClass::Rejected, Side::Proxy),
        ConnectError::Status(502) => (DialClass::Other, Side::Target),
        ConnectError::Status(503) => (DialClass::Down, Side::Proxy),
        ConnectError::Status(504) => (DialClass::TimedOut, Side::Target),
        ConnectError::Status(_) => (DialClass::Other, Side::Proxy),
    };
    DialError::new(class, side, error)
}
