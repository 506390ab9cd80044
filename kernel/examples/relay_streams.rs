//! CPU cost of `relay::streams` against tokio's copy, on loopback.
//!
//! `cargo run --release -p crosspoint-kernel --example relay_streams -- [bulk|rr] [rounds] [modes…]`
//!
//! Modes: `splice` (raw TCP on both sides), `wrapped` (the same code without access to the sockets),
//! `tokio8` and `tokio32` (`copy_bidirectional` with 8 and 32 KiB). The relay runs on one thread on
//! core 0, four bulk streams load it from core 1, receivers drop with MSG_TRUNC; `rr` plays 64 bytes
//! of ping-pong on 16 connections instead. Set the congestion control to reno first, or pacing timers
//! are what is measured.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use crosspoint_kernel::{
    Kind,
    addr::Target,
    component::Incarnation,
    flow::{BoxStream, Stream},
    ledger::Ledger,
    relay,
    session::{Network, Session},
};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const STREAMS: usize = 4;
const PLAYERS: usize = 16;

/// A stream that does not show its socket.
struct Opaque(tokio::net::TcpStream);

impl AsyncRead for Opaque {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Opaque {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Stream for Opaque {}

fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    // One core only: everything shares it, and the figures say so by themselves.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn thread_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let a = TcpStream::connect(listener.local_addr().expect("addr")).expect("connect");
    (a, listener.accept().expect("accept").0)
}

fn adopt(s: TcpStream) -> tokio::net::TcpStream {
    s.set_nonblocking(true).expect("nonblocking");
    tokio::net::TcpStream::from_std(s).expect("register")
}

async fn one(mode: &'static str, client: TcpStream, server: TcpStream, ledger: Ledger) {
    let (mut client, mut server) = (adopt(client), adopt(server));
    let size = match mode {
        "tokio8" => 8 * 1024,
        "tokio32" => 32 * 1024,
        _ => 0,
    };
    if size > 0 {
        let _ =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await;
        return;
    }
    let life =
        Incarnation { kind: Kind::Inbound, type_name: "bench", tag: "bench".into(), epoch: 1 };
    let source = client.peer_addr().expect("peer");
    let session = Session::new(1, Arc::new(life), Network::Tcp, source, Target::from(source));
    let entry = ledger.register(&session);
    let (client, server): (BoxStream, BoxStream) = match mode {
        "wrapped" => (Box::new(Opaque(client)), Box::new(Opaque(server))),
        _ => (Box::new(client), Box::new(server)),
    };
    relay::streams(client, server, &entry).await;
}

/// Bulk: seconds of CPU per GB, Gbit/s. Ping-pong: microseconds of CPU per exchange, thousands a second.
fn measure(rr: bool, mode: &'static str) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let bytes = Arc::new(AtomicU64::new(0));
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    for _ in 0..if rr { PLAYERS } else { STREAMS } {
        let (load, client) = pair();
        let (server, source) = pair();
        inner.push((client, server));
        outer.push((load, source));
    }
    let (done, finished) = std::sync::mpsc::channel();
    let relay = thread::spawn(move || {
        pin_to(0);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let ledger = Ledger::default();
        runtime.block_on(async move {
            for (client, server) in inner {
                tokio::spawn(one(mode, client, server, ledger.clone()));
            }
            let ticks = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if done.send(thread_cpu()).is_err() {
                        return;
                    }
                }
            };
            ticks.await;
        });
    });
    let mut threads = Vec::new();
    for (mut load, mut source) in outer {
        let (stop_sink, bytes) = (stop.clone(), bytes.clone());
        if rr {
            threads.push(thread::spawn(move || {
                pin_to(1);
                let mut buf = [0; 64];
                while !stop_sink.load(Ordering::Relaxed)
                    && load.write_all(&buf).is_ok()
                    && load.read_exact(&mut buf).is_ok()
                {
                    bytes.fetch_add(1, Ordering::Relaxed);
                }
                let _ = load.shutdown(std::net::Shutdown::Both);
            }));
            threads.push(thread::spawn(move || {
                pin_to(1);
                let mut buf = [0; 64];
                while source.read_exact(&mut buf).is_ok() && source.write_all(&buf).is_ok() {}
            }));
            continue;
        }
        threads.push(thread::spawn(move || {
            pin_to(1);
            let mut buf = vec![0u8; 1 << 20];
            while !stop_sink.load(Ordering::Relaxed) {
                match recv(load.as_fd(), &mut buf[..], RecvFlags::TRUNC) {
                    Ok((_, n)) if n > 0 => bytes.fetch_add(n as u64, Ordering::Relaxed),
                    _ => break,
                };
            }
            let _ = load.shutdown(std::net::Shutdown::Both);
            let _ = load.flush();
        }));
        threads.push(thread::spawn(move || {
            pin_to(1);
            let buf = vec![0u8; 256 * 1024];
            while source.write_all(&buf).is_ok() {}
            let mut rest = [0; 16];
            let _ = source.read(&mut rest);
        }));
    }
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(400) {
        let _ = finished.recv();
    }
    let (cpu, moved, begun) =
        (finished.recv().expect("relay"), bytes.load(Ordering::Relaxed), Instant::now());
    let mut last = cpu;
    while begun.elapsed() < Duration::from_millis(1500) {
        last = finished.recv().expect("relay");
    }
    let (cpu, moved, took) =
        (last - cpu, bytes.load(Ordering::Relaxed) - moved, begun.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    drop(finished);
    for t in threads {
        let _ = t.join();
    }
    let _ = relay.join();
    if rr {
        return (cpu.as_secs_f64() * 1e6 / moved as f64, moved as f64 / took / 1e3);
    }
    let gb = moved as f64 / 1e9;
    (cpu.as_secs_f64() / gb, gb * 8.0 / took)
}

fn main() {
    let mut args = std::env::args().skip(1).peekable();
    let rr = args.peek().is_some_and(|load| load == "rr");
    if rr || args.peek().is_some_and(|load| load == "bulk") {
        args.next();
    }
    let rounds: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(3);
    let mut modes: Vec<&'static str> = args.map(|mode| &*mode.leak()).collect();
    if modes.is_empty() {
        modes = vec!["splice", "wrapped", "tokio8", "tokio32"];
    }
    let mut cells = vec![Vec::new(); modes.len()];
    for round in 0..rounds {
        for i in 0..modes.len() {
            let i = if round % 2 == 0 { i } else { modes.len() - 1 - i };
            cells[i].push(measure(rr, modes[i]));
        }
    }
    for (mode, mut cell) in modes.into_iter().zip(cells) {
        cell.sort_by(|a, b| a.0.total_cmp(&b.0));
        let median = cell[cell.len() / 2];
        println!(
            "{mode:8} {:.3} [{:.3}-{:.3}] CPU {}  {:.1} {}",
            median.0,
            cell[0].0,
            cell[cell.len() - 1].0,
            if rr { "us/exchange" } else { "s/GB" },
            median.1,
            if rr { "k/s" } else { "Gbit/s" },
        );
    }
    println!("{:?}", relay::stats());
}
