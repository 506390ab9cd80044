//! A client of DERP version 2, written for tests and loads: it shares no line with the service that it talks to.
//!
//! Facts of the protocol: a frame is a byte of type, a big-endian `u32` of length, and so many bytes. The server begins with
//! its key, the client answers with its own and a NaCl box of JSON, the server with another box; then packets flow.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::rand;
use crypto_box::{PublicKey, SalsaBox, SecretKey, aead::Aead};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// What the server's first frame begins with.
pub const MAGIC: &[u8] = "DERP🔑".as_bytes();
/// Longest packet of a client.
pub const MAX_PACKET: usize = 64 << 10;

/// Types of frames.
pub mod kind {
    /// Server: magic and key.
    pub const SERVER_KEY: u8 = 0x01;
    /// Client: key, nonce, box.
    pub const CLIENT_INFO: u8 = 0x02;
    /// Server: nonce, box.
    pub const SERVER_INFO: u8 = 0x03;
    /// Client: destination, packet.
    pub const SEND: u8 = 0x04;
    /// Server: source, packet.
    pub const RECV: u8 = 0x05;
    /// Server: nothing.
    pub const KEEP_ALIVE: u8 = 0x06;
    /// Client: 1 or 0.
    pub const NOTE_PREFERRED: u8 = 0x07;
    /// Server: key of a peer, reason (0 it left, 1 it was never here).
    pub const PEER_GONE: u8 = 0x08;
    /// Server to a mesh peer: key, 16 bytes of address, port, flags.
    pub const PEER_PRESENT: u8 = 0x09;
    /// Mesh peer: source, destination, packet.
    pub const FORWARD: u8 = 0x0a;
    /// Mesh peer: nothing.
    pub const WATCH: u8 = 0x10;
    /// Mesh peer: key of who is to be closed.
    pub const CLOSE_PEER: u8 = 0x11;
    /// Either: 8 bytes.
    pub const PING: u8 = 0x12;
    /// Either: the 8 bytes.
    pub const PONG: u8 = 0x13;
}

/// A public key.
pub type Key = [u8; 32];

/// The key pair of a client.
#[derive(Clone)]
pub struct Keys {
    secret: SecretKey,
    /// By which others send to it.
    pub public: Key,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:02x?})", &self.public[..4])
    }
}

impl Keys {
    /// A new pair.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub fn generate() -> Result<Self> {
        Ok(Self::from_secret(random()?))
    }

    /// The pair of a secret key.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        let secret = SecretKey::from(secret);
        let public = *secret.public_key().as_bytes();
        Self { secret, public }
    }
}

/// How a client introduces itself.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// `Derp-Fast-Start`: no HTTP answer is waited for.
    pub fast: bool,
    /// The key of a mesh, in hexadecimal.
    pub mesh: Option<String>,
    /// `Host` of the request.
    pub host: String,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// What is behind the length.
    pub body: Vec<u8>,
}

impl Frame {
    /// As it goes over the wire.
    pub fn bytes(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// The key at the beginning and the rest.
    ///
    /// # Errors
    /// When the frame is too short for a key.
    pub fn keyed(&self) -> Result<(Key, &[u8])> {
        let (key, rest) = self.body.split_first_chunk::<32>().context("a frame without a key")?;
        Ok((*key, rest))
    }
}

/// Reads frames; no byte is lost when [`Reader::frame`] is dropped half-way.
#[derive(Debug)]
pub struct Reader<S> {
    stream: ReadHalf<S>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out.
    used: usize,
}

impl<S: AsyncRead + AsyncWrite> Reader<S> {
    /// The next frame.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn frame(&mut self) -> Result<Frame> {
        loop {
            let ready = &self.buffer[self.used..];
            if let Some((head, rest)) = ready.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                ensure!(length <= 1 << 20, "a frame of {length} bytes");
                if let Some(body) = rest.get(..length) {
                    let frame = Frame { kind: head[0], body: body.to_vec() };
                    self.used += 5 + length;
                    return Ok(frame);
                }
            }
            self.more().await?;
        }
    }

    /// Reads what is there without making frames of it: how many there were of `kind`, and how many others.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn count(&mut self, kind: u8) -> Result<(u64, u64)> {
        let (mut of_kind, mut others) = (0, 0);
        while of_kind + others == 0 {
            self.more().await?;
            while let Some((head, rest)) = self.buffer[self.used..].split_first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if rest.len() < length {
                    break;
                }
                self.used += 5 + length;
                if head[0] == kind { of_kind += 1 } else { others += 1 }
            }
        }
        Ok((of_kind, others))
    }

    /// The next frame of a type, whatever comes before it, within ten seconds.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn expect(&mut self, kind: u8) -> Result<Frame> {
        let limit = Duration::from_secs(10);
        let search = async {
            loop {
                let frame = self.frame().await?;
                if frame.kind == kind {
                    return anyhow::Ok(frame);
                }
            }
        };
        tokio::time::timeout(limit, search)
            .await
            .with_context(|| format!("no frame 0x{kind:02x} in {limit:?}"))?
    }

    /// Everything up to an empty line.
    async fn head(&mut self) -> Result<String> {
        loop {
            let ready = &self.buffer[self.used..];
            if let Some(end) = ready.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&ready[..end]).into_owned();
                self.used += end + 4;
                return Ok(text);
            }
            ensure!(ready.len() < 16 << 10, "an endless head");
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<()> {
        self.buffer.drain(..self.used);
        self.used = 0;
        if self.buffer.capacity() < 16 << 10 {
            self.buffer.reserve(16 << 10);
        }
        let read = self.stream.read_buf(&mut self.buffer).await.context("read")?;
        ensure!(read > 0, "the server has closed");
        Ok(())
    }

    /// Gives the memory of the buffer back: for connections that are to be idle.
    pub fn shrink(&mut self) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.shrink_to_fit();
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct Writer<S>(WriteHalf<S>);

impl<S: AsyncRead + AsyncWrite> Writer<S> {
    /// Sends a packet.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, to: &Key, packet: &[u8]) -> Result<()> {
        self.frame(kind::SEND, &[to, packet]).await
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn frame(&mut self, kind: u8, parts: &[&[u8]]) -> Result<()> {
        self.raw(&Frame::bytes(kind, parts)).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).await.context("write")?;
        self.0.flush().await.context("flush")
    }
}

/// A client that is logged in.
#[derive(Debug)]
pub struct Client<S> {
    /// By which others send to it.
    pub key: Key,
    /// The server's key.
    pub server: Key,
    /// What the server said of itself.
    pub info: Value,
    /// What comes in.
    pub reader: Reader<S>,
    /// What goes out.
    pub writer: Writer<S>,
}

impl<S: AsyncRead + AsyncWrite> Client<S> {
    /// Asks for the upgrade, and logs in.
    ///
    /// # Errors
    /// When the server refuses or speaks another protocol.
    pub async fn login(stream: S, keys: &Keys, hello: &Hello) -> Result<Self> {
        let (reader, writer, server) = Self::upgrade(stream, hello).await?;
        Self::enter(reader, writer, server, keys, hello).await
    }

    /// Logs in on a stream that begins with the server's key: what is inside a WebSocket.
    ///
    /// # Errors
    /// As [`Client::login`].
    pub async fn login_inside(stream: S, keys: &Keys, hello: &Hello) -> Result<Self> {
        let (read, write) = tokio::io::split(stream);
        let mut reader = Reader { stream: read, buffer: Vec::new(), used: 0 };
        let server = greeting(&reader.frame().await.context("the server's key")?)?;
        Self::enter(reader, Writer(write), server, keys, hello).await
    }

    async fn enter(
        mut reader: Reader<S>,
        mut writer: Writer<S>,
        server: Key,
        keys: &Keys,
        hello: &Hello,
    ) -> Result<Self> {
        let mut info = json!({ "version": 2, "CanAckPings": true, "IsProber": false });
        if let Some(mesh) = &hello.mesh {
            info["meshKey"] = json!(mesh);
        }
        let nacl = SalsaBox::new(&PublicKey::from(server), &keys.secret);
        let nonce: [u8; 24] = random()?;
        let sealed = nacl.encrypt(&nonce.into(), info.to_string().as_bytes()).ok();
        let sealed = sealed.context("seal")?;
        writer.frame(kind::CLIENT_INFO, &[&keys.public, &nonce, &sealed]).await?;
        let frame = reader.frame().await.context("the server's answer to the login")?;
        ensure!(frame.kind == kind::SERVER_INFO, "another frame than the server's information");
        let (nonce, sealed) = frame.body.split_first_chunk::<24>().context("no nonce")?;
        let opened = nacl.decrypt(&(*nonce).into(), sealed).ok().context("a box of another key")?;
        let info = serde_json::from_slice(&opened)?;
        Ok(Self { key: keys.public, server, info, reader, writer })
    }

    /// The part before the login: the request, the answer if one is asked for, and the server's key.
    ///
    /// # Errors
    /// As [`Client::login`].
    pub async fn upgrade(stream: S, hello: &Hello) -> Result<(Reader<S>, Writer<S>, Key)> {
        let (read, write) = tokio::io::split(stream);
        let mut reader = Reader { stream: read, buffer: Vec::new(), used: 0 };
        let mut writer = Writer(write);
        let fast = if hello.fast { "Derp-Fast-Start: 1\r\n" } else { "" };
        let host = if hello.host.is_empty() { "derp.test" } else { &hello.host };
        let request = format!(
            "GET /derp HTTP/1.1\r\nHost: {host}\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n{fast}\r\n"
        );
        writer.raw(request.as_bytes()).await?;
        let mut said = None;
        if !hello.fast {
            let head = reader.head().await?;
            ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
            let header = |name: &str| {
                let mut lines = head.lines().filter_map(|line| line.split_once(": "));
                lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
            };
            ensure!(header("Derp-Version") == Some("2"), "{head}");
            ensure!(header("Upgrade").is_some_and(|to| to.eq_ignore_ascii_case("derp")), "{head}");
            said = Some(header("Derp-Public-Key").context("no key in the answer")?.to_owned());
        }
        let key = greeting(&reader.frame().await.context("the server's key")?)?;
        if let Some(said) = said {
            ensure!(said == hex(&key), "{said} in the answer, {} in the greeting", hex(&key));
        }
        Ok((reader, writer, key))
    }
}

fn greeting(frame: &Frame) -> Result<Key> {
    let key = frame.body.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<32>());
    match key {
        Some(key) if frame.kind == kind::SERVER_KEY => Ok(*key),
        _ => bail!("no greeting: {frame:?}"),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes.
///
/// # Errors
/// When the machine has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok().context("random numbers")?;
    Ok(bytes)
}
