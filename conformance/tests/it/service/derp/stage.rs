//! Servers, and clients that log in to them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::within,
    peers::full_reference,
    ports,
    process::{Launch, Running},
    subject::Subject,
    tailnet::derp::{Client, Hello, Key, Keys, kind},
};
use crosspoint_kernel::resolve::NO_TRAIL;
use crosspoint_schema::options::TlsOutOptions;
use crosspoint_tls::{Client as TlsClient, ClientDefaults, TlsStream};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::tls::certs::{Certs, Files};

/// The name in the server's certificate.
pub(super) const NAME: &str = "derp.test";

/// A client over TLS.
pub(super) type Derp = Client<TlsStream>;

/// Time for one step.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// Whom servers and clients trust.
pub(super) struct World {
    pub(super) certs: Certs,
    pub(super) files: Files,
}

/// A running server.
pub(super) struct Server {
    pub(super) running: Running,
    pub(super) port: u16,
    client: TlsClient,
}

impl World {
    pub(super) fn new() -> Result<Self> {
        let certs = Certs::new("an authority of derp")?;
        let files = certs.issue("derp", &[NAME, "localhost", "127.0.0.1"])?;
        Ok(Self { certs, files })
    }

    /// A configuration with one server; `more` goes into its options.
    pub(super) fn config(&self, port: u16, more: &Value) -> Value {
        let mut service = json!({
            "type": "derp", "tag": "derp", "listen": "127.0.0.1", "listen_port": port, "config_path": "derp.key",
            "tls": {
                "enabled": true, "server_name": NAME, "certificate_path": self.files.certificate,
                "key_path": self.files.key,
            },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            service[key] = value.clone();
        }
        json!({
            "log": { "level": "debug" }, "outbounds": [{ "type": "direct" }], "services": [service],
        })
    }

    /// How a client of ours does TLS.
    pub(super) fn client(&self) -> Result<TlsClient> {
        let mut options = TlsOutOptions { enabled: true, ..TlsOutOptions::default() };
        options.server_name = NAME.to_owned();
        options.certificate_path = self.certs.file().to_string_lossy().into_owned();
        Ok(TlsClient::new(&options, NAME, &ClientDefaults::default())?)
    }

    /// Starts a server on loopback.
    pub(super) async fn start(&self, more: &Value) -> Result<Server> {
        self.start_at(ports::free(), more).await
    }

    pub(super) async fn start_at(&self, port: u16, more: &Value) -> Result<Server> {
        let running = launch(&self.config(port, more))?.start().await?;
        Ok(Server { running, port, client: self.client()? })
    }

    /// A server that somebody else has started.
    pub(super) fn beside(&self, running: Running, port: u16) -> Result<Server> {
        Ok(Server { running, port, client: self.client()? })
    }

    /// A server with whatever stands in `config`, on `port`.
    pub(super) async fn start_with(&self, config: &Value, port: u16) -> Result<Server> {
        let running = launch(config)?.start().await?;
        Ok(Server { running, port, client: self.client()? })
    }
}

/// The program under test; of the reference the one that has DERP.
pub(super) fn launch(config: &Value) -> Result<Launch> {
    let subject = Subject::under_test();
    if subject.is_reference() { full_reference(config) } else { subject.launch(config) }
}

/// Whether the subject can be told to reload and to restart parts; says so if not.
pub(super) fn is_ours(what: &str) -> bool {
    let ours = !Subject::under_test().is_reference();
    if !ours {
        loud::not_run(what, "the reference has no such command");
    }
    ours
}

impl Server {
    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// A TLS connection.
    pub(super) async fn tls(&self) -> Result<TlsStream> {
        let stream = TcpStream::connect(self.addr()).await?;
        tls(&self.client, stream).await
    }

    pub(super) async fn login(&self, keys: &Keys) -> Result<Derp> {
        self.login_as(keys, &Hello::default()).await
    }

    pub(super) async fn login_as(&self, keys: &Keys, hello: &Hello) -> Result<Derp> {
        within("log in", STEP, async { Client::login(self.tls().await?, keys, hello).await }).await
    }

    /// A client with a key of its own.
    pub(super) async fn client(&self) -> Result<Derp> {
        self.login(&Keys::generate()?).await
    }

    /// `ctl restart` of the service.
    pub(super) fn restart(&self) -> Result<()> {
        self.running.ctl(&["restart", "service/derp"]).map(drop)
    }

    /// Puts a configuration in force, and waits until it is.
    pub(super) fn reload(&self, config: &Value) -> Result<()> {
        crosspoint_conformance::subject::write_config(self.running.dir(), config)?;
        let answer = self.running.ctl(&["reload"]);
        answer.map(drop).with_context(|| self.running.log_tail())
    }

    /// The secret key in its file.
    pub(super) fn secret(&self) -> Result<[u8; 32]> {
        secret(&self.running.dir().join("derp.key"))
    }
}

/// The key in a file as the reference writes it.
fn secret(path: &Path) -> Result<[u8; 32]> {
    let file: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let text = file["PrivateKey"].as_str().and_then(|key| key.strip_prefix("privkey:"));
    let text = text.context("no privkey: in the file")?;
    ensure!(text.len() == 64 && text.is_ascii(), "{} digits", text.len());
    let bytes: Result<Vec<u8>, _> =
        (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16)).collect();
    bytes?.try_into().ok().context("32 bytes")
}

/// A handshake on a connection.
pub(super) async fn tls(client: &TlsClient, stream: TcpStream) -> Result<TlsStream> {
    stream.set_nodelay(true)?;
    let shaken = client.connect(Box::new(stream), &NO_TRAIL).await;
    shaken.map_err(|error| anyhow::anyhow!("TLS: {error}"))
}

/// The next packet, and from whom it is.
pub(super) async fn packet(client: &mut Derp) -> Result<(Key, Vec<u8>)> {
    let frame = client.reader.expect(kind::RECV).await?;
    let (from, packet) = frame.keyed()?;
    Ok((from, packet.to_vec()))
}

/// Sends a packet and sees it arrive.
pub(super) async fn says(from: &mut Derp, to: &mut Derp, text: &[u8]) -> Result<()> {
    from.writer.send(&to.key, text).await?;
    let (source, heard) = packet(to).await?;
    ensure!(source == from.key, "from somebody else");
    ensure!(heard == text, "{} bytes of {} arrived", heard.len(), text.len());
    Ok(())
}

/// Sends now and again until one arrives; what is on its way to `to` before that is thrown away.
pub(super) async fn comes_through(
    from: &mut Derp,
    to: &mut Derp,
    limit: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let text: [u8; 16] = crosspoint_conformance::tailnet::derp::random()?;
    while begin.elapsed() < limit {
        from.writer.send(&to.key, &text).await?;
        let end = tokio::time::Instant::now() + Duration::from_millis(250);
        while let Ok(frame) = tokio::time::timeout_at(end, to.reader.frame()).await {
            let frame = frame?;
            if frame.kind == kind::RECV && frame.keyed()? == (from.key, &text[..]) {
                return Ok(begin.elapsed());
            }
        }
    }
    anyhow::bail!("nothing came through in {limit:?}")
}

/// Fails unless nothing comes for a while; keep-alives do not count.
pub(super) async fn hears_nothing(client: &mut Derp, how_long: Duration) -> Result<()> {
    let end = tokio::time::Instant::now() + how_long;
    while let Ok(frame) = tokio::time::timeout_at(end, client.reader.frame()).await {
        let frame = frame?;
        ensure!(frame.kind == kind::KEEP_ALIVE, "{frame:?} came");
    }
    Ok(())
}

/// Fails unless the server closes this connection.
pub(super) async fn is_closed(client: &mut Derp) -> Result<()> {
    let reading = async { while client.reader.frame().await.is_ok() {} };
    tokio::time::timeout(STEP, reading).await.context("the connection stays open")
}
