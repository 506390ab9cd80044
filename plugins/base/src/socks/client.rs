//! Outbound `socks`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use crosspoint_kernel::addr::{Host, Target};
use crosspoint_kernel::component::{BuildCx, Component, Deps, Dial, Outbound, Spec};
use crosspoint_kernel::error::{DialClass, Side};
use crosspoint_kernel::flow::{BoxPacketIo, BoxStream, Prefixed};
use crosspoint_kernel::net::dial::{self, Dialer, Setup};
use crosspoint_kernel::serve::{HANDSHAKE_TIMEOUT, handshake};
use crosspoint_kernel::session::Network;
use crosspoint_kernel::{BoxFuture, BuildError, DialError, Kind, Plugin};
use crosspoint_schema::decode::{Map, Options as _};
use crosspoint_schema::{ConfigError, RawOptions};
use tokio::io::AsyncWriteExt as _;

use super::SocksOutOptions;
use super::packets::Encapsulated;
use super::wire::{Bound, ClientError, ClientHandshake, ClientStep, Code, Command, Version};
use crate::host;
use crate::read::read_some;
use crosspoint_layers::outer::{OuterOptions, wrap};
use crosspoint_layers::spec::{check, done, server, to_proxy};

inventory::submit! {
    Plugin { kind: Kind::Outbound, type_name: "socks", schema: SocksOutOptions::describe, canonical: |raw| raw.canonical::<SocksOutOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: SocksOutOptions = raw.parse()?;
    let version = match options.version.as_str() {
        "" | "5" => Version::V5,
        "4a" => Version::V4a,
        "4" => Version::V4,
        other => return Err(raw.invalid_at("version", format!("unknown socks version: {other}"))),
    };
    check(&raw, "network_strategy", dial::validate(&options.dial))?;
    let spec = SocksOut { options, version };
    check(&raw, "udp_over_tcp", spec.outer().check())?;
    done(spec)
}

#[derive(Debug)]
struct SocksOut {
    options: SocksOutOptions,
    version: Version,
}

impl SocksOut {
    fn outer(&self) -> OuterOptions<'_> {
        OuterOptions { multiplex: None, udp_over_tcp: self.options.udp_over_tcp.as_ref() }
    }
}

impl Spec for SocksOut {
    fn canonical(&self) -> Map {
        self.options.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&self.options.dial, out);
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let options = &self.options;
            let setup = Setup { server: Some(&options.server.server), ..Setup::default() };
            let client = Client {
                dialer: Dialer::with(&options.dial, &cx, setup)?,
                server: server(&options.server),
                spec: self.clone(),
            };
            let outbound = wrap(Arc::new(client), self.outer(), &cx)?;
            Ok(Component { outbound: Some(outbound), ..Component::default() })
        })
    }
}

struct Client {
    dialer: Dialer,
    server: Target,
    spec: Arc<SocksOut>,
}

impl Client {
    /// Dials the proxy and asks it for `command`.
    async fn ask(
        &self,
        dial: Dial<'_>,
        command: Command,
        target: host::Target<'_>,
    ) -> Result<(BoxStream, Bound), DialError> {
        let options = &self.spec.options;
        let login = (options.username.as_str(), options.password.expose());
        let mut hello = Vec::with_capacity(32);
        let machine = ClientHandshake::start(self.spec.version, command, target, login, &mut hello)
            .map_err(refused)?;
        let stream = self.dialer.connect(dial.to(&self.server)).await.map_err(to_proxy)?;
        handshake(HANDSHAKE_TIMEOUT, talk(stream, machine, hello)).await.map_err(
            |error: DialError| {
                let side =
                    if error.class == DialClass::TimedOut { Side::Proxy } else { error.side };
                let mut error = error.context(format_args!("socks proxy {}", self.server));
                error.side = side;
                error
            },
        )
    }

    async fn stream(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let Host::Name(name) = &dial.target.host else {
            return Ok(self.ask(dial, Command::Connect, dial.target.into()).await?.0);
        };
        if self.spec.version != Version::V4 {
            return Ok(self.ask(dial, Command::Connect, dial.target.into()).await?.0);
        }
        // SOCKS4 carries IPv4 addresses alone: resolve here, and try one after another.
        let addresses = self.dialer.addresses(dial, name).await?;
        let mut last = DialError::new(
            DialClass::HostUnreachable,
            Side::Target,
            format_args!("lookup {name}: no IPv4 address"),
        );
        for ip in addresses.into_iter().filter(std::net::IpAddr::is_ipv4) {
            let target = host::Target::new(ip.into(), dial.target.port);
            match self.ask(dial, Command::Connect, target).await {
                Ok((stream, _)) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn packets(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        if self.spec.version != Version::V5 {
            return Err(DialError::unsupported("SOCKS4 has no UDP"));
        }
        let (control, bound) =
            self.ask(dial, Command::Associate, host::Target::UNSPECIFIED).await?;
        let relay = match bound.host {
            // "Where you reached me": the answer of servers that do not know their own address.
            Ok(ip) if ip.is_unspecified() => {
                Target { host: self.server.host.clone(), port: bound.port }
            }
            Ok(ip) => Target::from(SocketAddr::new(ip, bound.port)),
            Err(name) => Target::new(&*name, bound.port),
        };
        let packets = self.dialer.associate_connected(dial.to(&relay)).await.map_err(to_proxy)?;
        Ok(Box::new(Encapsulated::client(packets, control, relay)))
    }
}

impl Outbound for Client {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.stream(dial))
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(self.packets(dial))
    }

    fn supports(&self, network: Network) -> bool {
        match network {
            Network::Tcp => self.spec.options.network.tcp(),
            Network::Udp => self.spec.options.network.udp(),
        }
    }
}

/// Runs the handshake to its end. Payload that came with the reply stays in front of the stream.
async fn talk(
    mut stream: BoxStream,
    mut machine: ClientHandshake<'_>,
    mut out: Vec<u8>,
) -> Result<(BoxStream, Bound), DialError> {
    let failed = |error: std::io::Error| DialError::from_io(&error, Side::Proxy);
    let mut held = Vec::new();
    loop {
        if !out.is_empty() {
            stream.write_all(&out).await.map_err(failed)?;
            stream.flush().await.map_err(failed)?;
            out.clear();
        }
        let mut step = Ok(ClientStep::More { used: 0 });
        let n = poll_fn(|cx| {
            let n = ready!(read_some(&mut stream, cx, |bytes| {
                // What is used at once, which is nearly everything, needs no buffer of its own.
                if held.is_empty() {
                    step = machine.advance(bytes, &mut out);
                    if let Ok(ClientStep::More { used } | ClientStep::Done { used, .. }) = &step {
                        held = bytes.get(*used..).unwrap_or_default().to_vec();
                    }
                } else {
                    held.extend_from_slice(bytes);
                    step = machine.advance(&held, &mut out);
                    if let Ok(ClientStep::More { used } | ClientStep::Done { used, .. }) = &step {
                        held.drain(..*used);
                    }
                }
            }))?;
            Poll::Ready(Ok(n))
        });
        if n.await.map_err(failed)? == 0 {
            return Err(DialError::protocol("closed before its answer"));
        }
        if let ClientStep::Done { bound, .. } = step.map_err(refused)? {
            let stream = if held.is_empty() {
                stream
            } else {
                Box::new(Prefixed::new(Bytes::from(held), stream))
            };
            return Ok((stream, bound));
        }
    }
}

fn refused(error: ClientError) -> DialError {
    let (class, side) = match &error {
        ClientError::Version(_) | ClientError::Address => (DialClass::Protocol, Side::Proxy),
        ClientError::Method(_) | ClientError::Credentials => (DialClass::Auth, Side::Proxy),
        ClientError::Unsupported(_) => (DialClass::Unsupported, Side::Local),
        ClientError::Rejected(code) => match code {
            Code::Refused => (DialClass::Refused, Side::Target),
            Code::NetworkUnreachable => (DialClass::NetworkUnreachable, Side::Target),
            Code::HostUnreachable => (DialClass::HostUnreachable, Side::Target),
            Code::TtlExpired => (DialClass::TimedOut, Side::Target),
            Code::NotAllowed => (DialClass::Rejected, Side::Proxy),
            Code::CommandUnsupported | Code::AddressUnsupported => {
                (DialClass::Unsupported, Side::Proxy)
            }
            Code::Failure | Code::Succeeded => (DialClass::Other, Side::Proxy),
        },
    };
    DialError::new(class, side, error)
}
