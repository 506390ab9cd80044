//! Servers on loopback for clients to reach through a proxy. Each serves until it is dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

use super::pattern::{Digest, Pattern};

/// What an origin has seen.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted, or datagrams received.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub active: AtomicU64,
    /// Payload bytes received.
    pub received: AtomicU64,
}

impl Counters {
    /// Connections accepted, or datagrams received.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Payload bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has seen.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns what it receives; ends a connection when the client ends its direction.
    ///
    /// # Errors
    /// When `addr` cannot be bound. The same goes for every other origin.
    pub async fn tcp_echo(addr: &str) -> Result<Self> {
        Self::tcp(addr, echo).await
    }

    /// Reads to the end of the client's direction, then answers with the number of bytes and
    /// their [`Digest`], both `u64` big-endian, and closes. Proves half-close: the answer only
    /// comes if the end of one direction passes and the other stays open.
    ///
    /// # Errors
    /// As [`Origin::tcp_echo`].
    pub async fn tcp_sink(addr: &str) -> Result<Self> {
        Self::tcp(addr, sink).await
    }

    /// Reads a length and a seed, both `u64` big-endian, ends its own direction after that many
    /// bytes of the [`Pattern`], and then behaves as a sink that reports to [`Counters`] only.
    ///
    /// # Errors
    /// As [`Origin::tcp_echo`].
    pub async fn tcp_source(addr: &str) -> Result<Self> {
        Self::tcp(addr, source).await
    }

    /// Accepts and resets at once.
    ///
    /// # Errors
    /// As [`Origin::tcp_echo`].
    pub async fn tcp_reset(addr: &str) -> Result<Self> {
        Self::tcp(addr, |stream, _| async move {
            let _ = stream.set_zero_linger();
        })
        .await
    }

    /// Returns every datagram to its sender.
    ///
    /// # Errors
    /// As [`Origin::tcp_echo`].
    pub async fn udp_echo(addr: &str) -> Result<Self> {
        let socket = UdpSocket::bind(addr).await.with_context(|| format!("bind UDP {addr}"))?;
        let addr = socket.local_addr()?;
        let counters = Arc::new(Counters::default());
        let seen = counters.clone();
        let task = tokio::spawn(async move {
            let mut buf = vec![0; 65_536];
            loop {
                // An ICMP error of an earlier answer shows up here and concerns nobody now.
                let Ok((len, from)) = socket.recv_from(&mut buf).await else { continue };
                seen.accepted.fetch_add(1, Ordering::Relaxed);
                seen.received.fetch_add(len as u64, Ordering::Relaxed);
                let _ = socket.send_to(&buf[..len], from).await;
            }
        });
        Ok(Self { addr, counters, task })
    }

    /// A TCP server with its own idea of a connection.
    ///
    /// # Errors
    /// As [`Origin::tcp_echo`].
    pub async fn tcp<F, Fut>(addr: &str, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream, Arc<Counters>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.with_context(|| format!("bind TCP {addr}"))?;
        let addr = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let seen = counters.clone();
        let task = tokio::spawn(async move {
            let mut served = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        let _ = stream.set_nodelay(true);
                        seen.accepted.fetch_add(1, Ordering::Relaxed);
                        seen.active.fetch_add(1, Ordering::Relaxed);
                        let one = serve(stream, seen.clone());
                        let seen = seen.clone();
                        served.spawn(async move {
                            one.await;
                            seen.active.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    Some(_) = served.join_next() => {}
                }
            }
        });
        Ok(Self { addr, counters, task })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut stream: TcpStream, seen: Arc<Counters>) {
    let mut buf = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut buf).await {
        seen.received.fetch_add(len as u64, Ordering::Relaxed);
        if stream.write_all(&buf[..len]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn sink(mut stream: TcpStream, seen: Arc<Counters>) {
    let (count, digest) = drain(&mut stream, &seen).await;
    let mut answer = count.to_be_bytes().to_vec();
    answer.extend(digest.to_be_bytes());
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}

async fn source(mut stream: TcpStream, seen: Arc<Counters>) {
    let mut order = [0; 16];
    if stream.read_exact(&mut order).await.is_err() {
        return;
    }
    let (len, seed) = order.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| (n << 8) | u64::from(b));
    let (mut left, mut pattern) = (number(len), Pattern::new(number(seed)));
    let mut buf = vec![0; 64 * 1024];
    while left > 0 {
        let part = &mut buf[..left.min(64 * 1024) as usize];
        pattern.fill(part);
        if stream.write_all(part).await.is_err() {
            return;
        }
        left -= part.len() as u64;
    }
    if stream.shutdown().await.is_ok() {
        drain(&mut stream, &seen).await;
    }
}

async fn drain(stream: &mut TcpStream, seen: &Counters) -> (u64, u64) {
    let (mut count, mut digest) = (0, Digest::default());
    let mut buf = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = stream.read(&mut buf).await {
        digest.update(&buf[..len]);
        count += len as u64;
        seen.received.fetch_add(len as u64, Ordering::Relaxed);
    }
    (count, digest.value())
}
