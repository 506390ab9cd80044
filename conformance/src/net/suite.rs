//! What is said over a connection: the suites of the reference's own tests (ping-pong, bulk with
//! digest, UDP in numbers and sizes) and half-close in both directions.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::origin::Origin;
use super::pattern::{Digest, Pattern};
use super::{Target, Via, within};

/// 100 × 64 KiB, as the reference's suite moves each way.
pub const BULK: u64 = 100 * 64 * 1024;
/// The longest UDP payload over IPv4.
pub const UDP_MAX: usize = 65_507;

const STEP: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(60);

/// The servers that the suites talk to, on one address family.
#[derive(Debug)]
pub struct Origins {
    /// [`Origin::tcp_echo`].
    pub echo: Origin,
    /// [`Origin::tcp_sink`].
    pub sink: Origin,
    /// [`Origin::tcp_source`].
    pub source: Origin,
    /// [`Origin::udp_echo`].
    pub udp: Origin,
}

impl Origins {
    /// On 127.0.0.1.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn v4() -> Result<Self> {
        Self::on("127.0.0.1:0").await
    }

    /// On ::1.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn v6() -> Result<Self> {
        Self::on("[::1]:0").await
    }

    /// On an address with port 0.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn on(addr: &str) -> Result<Self> {
        Ok(Self {
            echo: Origin::tcp_echo(addr).await?,
            sink: Origin::tcp_sink(addr).await?,
            source: Origin::tcp_source(addr).await?,
            udp: Origin::udp_echo(addr).await?,
        })
    }
}

/// How a suite names its target to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// As an address.
    Address,
    /// As `localhost`, which the proxy resolves.
    Localhost,
}

impl Naming {
    /// The target for an address.
    pub fn target(self, addr: SocketAddr) -> Target {
        match self {
            Naming::Address => addr.into(),
            Naming::Localhost => Target::localhost(addr),
        }
    }
}

/// Ping-pong, bulk both ways and each way over TCP, with the client's direction ending first in
/// the upload. What follows the *server's* end is [`server_ends_first`].
///
/// # Errors
/// The first thing that went wrong, named.
pub async fn tcp(via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    let target = |origin: &Origin| naming.target(origin.addr());
    tcp_ping_pong(via, &target(&origins.echo)).await.context("TCP ping-pong")?;
    tcp_bulk(via, &target(&origins.echo), BULK).await.context("TCP bulk, both ways at once")?;
    tcp_upload(via, &target(&origins.sink), BULK).await.context("TCP upload, client ends first")?;
    tcp_download(via, &target(&origins.source), BULK).await.context("TCP download")?;
    Ok(())
}

/// Ping-pong, numbers and sizes over UDP, up to 4096 bytes. The largest datagram is [`udp_largest`].
///
/// # Errors
/// The first thing that went wrong, named.
pub async fn udp(via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    let target = naming.target(origins.udp.addr());
    udp_ping_pong(via, &target).await.context("UDP ping-pong")?;
    udp_many(via, &target, 50, 1500).await.context("UDP 50 × 1500")?;
    udp_size(via, &target, 4096).await.context("UDP 4096")
}

/// The largest datagram that fits behind the header of `via`. The reference cuts at 16 KiB.
///
/// # Errors
/// When it does not come back whole.
pub async fn udp_largest(via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    let target = naming.target(origins.udp.addr());
    let size = UDP_MAX - via.datagram_overhead(&target);
    udp_size(via, &target, size).await.with_context(|| format!("UDP {size}"))
}

/// [`tcp`], then [`udp`].
///
/// # Errors
/// The first thing that went wrong, named.
pub async fn full(via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    tcp(via, origins, naming).await?;
    udp(via, origins, naming).await
}

/// "ping" there, "pong" back, twice on one connection, and a clean end.
///
/// # Errors
/// When an answer is wrong or late.
pub async fn tcp_ping_pong(via: &Via, echo: &Target) -> Result<()> {
    let mut stream = via.tcp(echo).await?;
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await?;
        let mut answer = [0; 4];
        within("answer", STEP, stream.read_exact(&mut answer)).await?;
        ensure!(&answer == word, "sent {word:?}, got {answer:?}");
    }
    stream.shutdown().await?;
    let rest = within("end", STEP, stream.read_u8()).await;
    ensure!(rest.is_err(), "data after the end");
    Ok(())
}

/// Sends `len` bytes to an echo server while reading them back, and compares them.
///
/// # Errors
/// When bytes differ, are missing or do not come.
pub async fn tcp_bulk(via: &Via, echo: &Target, len: u64) -> Result<()> {
    bulk(via, echo, len, true, Duration::ZERO).await
}

/// As [`tcp_bulk`], with the sending direction open until everything has come back: for ways on which its end is the
/// end of both.
///
/// # Errors
/// When bytes differ, are missing or do not come.
pub async fn tcp_bulk_open(via: &Via, echo: &Target, len: u64) -> Result<()> {
    bulk(via, echo, len, false, Duration::ZERO).await
}

/// As [`tcp_bulk`], with a pause behind the first four bytes; `end` says whether the sending direction ends first.
///
/// # Errors
/// When bytes differ, are missing or do not come.
pub async fn tcp_bulk_after_pause(via: &Via, echo: &Target, len: u64, end: bool) -> Result<()> {
    bulk(via, echo, len, end, Duration::from_millis(300)).await
}

/// [`tcp`] without half-close, for clients that cannot pass it on: the sending direction stays open until everything
/// has come back.
///
/// # Errors
/// The first thing that went wrong, named.
pub async fn tcp_open(via: &Via, origins: &Origins, naming: Naming) -> Result<()> {
    let target = |origin: &Origin| naming.target(origin.addr());
    tcp_ping_pong(via, &target(&origins.echo)).await.context("TCP ping-pong")?;
    tcp_bulk_open(via, &target(&origins.echo), BULK)
        .await
        .context("TCP bulk, both ways at once")?;
    tcp_download(via, &target(&origins.source), BULK).await.context("TCP download").map(drop)
}

async fn bulk(via: &Via, echo: &Target, len: u64, end: bool, pause: Duration) -> Result<()> {
    let stream = via.tcp(echo).await?;
    let (mut reader, mut writer) = stream.into_split();
    let seed = fresh_seed();
    let send = async {
        let mut pattern = Pattern::new(seed);
        let mut left = len;
        if !pause.is_zero() {
            writer.write_all(&pattern.take(4)).await.context("send")?;
            left -= 4;
            tokio::time::sleep(pause).await;
        }
        while left > 0 {
            let part = pattern.take(left.min(64 * 1024) as usize);
            writer.write_all(&part).await.context("send")?;
            left -= part.len() as u64;
        }
        match end {
            true => writer.shutdown().await.context("end the sending direction"),
            false => Ok(()),
        }
    };
    let receive = async {
        let mut pattern = Pattern::new(seed);
        let (mut got, mut buf) = (0, vec![0; 64 * 1024]);
        while end || got < len {
            let n = reader.read(&mut buf).await.with_context(|| format!("after {got} bytes"))?;
            if n == 0 {
                break;
            }
            ensure!(pattern.matches(&buf[..n]), "bytes {got}…{} differ", got + n as u64);
            got += n as u64;
        }
        ensure!(got == len, "{got} of {len} bytes came back");
        Ok(())
    };
    within("both directions", LONG, async { tokio::try_join!(send, receive) }).await?;
    Ok(())
}

/// Sends `len` bytes, ends the sending direction, and reads count and digest from a sink.
///
/// # Errors
/// When the sink saw something else, or its answer does not come.
pub async fn tcp_upload(via: &Via, sink: &Target, len: u64) -> Result<()> {
    let mut stream = via.tcp(sink).await?;
    let seed = fresh_seed();
    let mut pattern = Pattern::new(seed);
    let mut left = len;
    while left > 0 {
        let part = pattern.take(left.min(64 * 1024) as usize);
        within("send", LONG, stream.write_all(&part)).await?;
        left -= part.len() as u64;
    }
    stream.shutdown().await?;
    let mut answer = Vec::new();
    within("answer after the end", LONG, stream.read_to_end(&mut answer)).await?;
    let mut wanted = len.to_be_bytes().to_vec();
    wanted.extend(Pattern::digest(seed, len).to_be_bytes());
    ensure!(answer == wanted, "the sink answered {answer:?} instead of {wanted:?}");
    Ok(())
}

/// Has a source send `len` bytes and end its direction, and compares the digest.
///
/// # Errors
/// When bytes are missing or wrong.
pub async fn tcp_download(via: &Via, source: &Target, len: u64) -> Result<TcpStream> {
    let mut stream = via.tcp(source).await?;
    let seed = fresh_seed();
    let mut order = len.to_be_bytes().to_vec();
    order.extend(seed.to_be_bytes());
    stream.write_all(&order).await?;
    let (mut digest, mut got, mut buf) = (Digest::default(), 0, vec![0; 64 * 1024]);
    loop {
        let n = within("data", LONG, stream.read(&mut buf)).await?;
        if n == 0 {
            break;
        }
        digest.update(&buf[..n]);
        got += n as u64;
    }
    ensure!(got == len, "{got} of {len} bytes came");
    ensure!(digest.value() == Pattern::digest(seed, len), "the digest differs");
    Ok(stream)
}

/// Half-close from the far side: after the server has ended its direction, the client still
/// sends something, which must arrive. The reference keeps this through HTTP CONNECT only; its
/// SOCKS inbound closes both directions at once.
///
/// # Errors
/// When the client's direction died with the server's.
pub async fn server_ends_first(via: &Via, source: &Origin, naming: Naming) -> Result<()> {
    let before = source.counters().received();
    let mut stream = tcp_download(via, &naming.target(source.addr()), 100_000).await?;
    stream.write_all(b"still here").await.context("send after the server's end")?;
    stream.shutdown().await?;
    let end = Instant::now() + Duration::from_secs(3);
    while source.counters().received() < before + 10 {
        if Instant::now() > end {
            bail!("what was sent after the server's end did not arrive");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// One small datagram there and back, twice.
///
/// # Errors
/// When an answer is wrong or late.
pub async fn udp_ping_pong(via: &Via, echo: &Target) -> Result<()> {
    let datagrams = via.udp(echo).await?;
    for word in [&b"ping"[..], b"pong"] {
        datagrams.send(word).await?;
        let answer = within("answer", STEP, datagrams.recv()).await?;
        ensure!(answer == word, "sent {word:?}, got {answer:?}");
    }
    Ok(())
}

/// `count` datagrams of `size` bytes sent at once, each of which must come back.
///
/// # Errors
/// When one is missing after ten seconds, doubled or changed.
pub async fn udp_many(via: &Via, echo: &Target, count: u32, size: usize) -> Result<()> {
    let datagrams = via.udp(echo).await?;
    let mut missing = HashSet::new();
    for number in 0..count {
        let mut payload = number.to_be_bytes().to_vec();
        payload.extend(Pattern::new(number.into()).take(size - 4));
        missing.insert(payload);
    }
    for payload in &missing {
        datagrams.send(payload).await?;
    }
    while !missing.is_empty() {
        let left = missing.len();
        let answer = within(&format!("{left} of {count} missing"), STEP, datagrams.recv()).await?;
        ensure!(missing.remove(&answer), "a datagram came changed or twice ({} B)", answer.len());
    }
    Ok(())
}

/// One datagram of `size` bytes there and back.
///
/// # Errors
/// When it does not come back whole.
pub async fn udp_size(via: &Via, echo: &Target, size: usize) -> Result<()> {
    let datagrams = via.udp(echo).await?;
    let payload = Pattern::new(fresh_seed()).take(size);
    datagrams.send(&payload).await?;
    let answer = within("answer", Duration::from_secs(3), datagrams.recv()).await?;
    ensure!(answer == payload, "{size} bytes came back as {} or changed", answer.len());
    Ok(())
}

/// A seed that differs from call to call: bytes of one connection must not look right in another.
fn fresh_seed() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
