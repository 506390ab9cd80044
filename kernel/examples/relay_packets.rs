//! CPU cost of `relay::packets` per datagram round trip, on loopback.
//!
//! `cargo run --release -p crosspoint-kernel --example relay_packets -- [rounds] [modes…]`
//!
//! Modes: `connected` (a connected socket on both sides), `nat` (clients of one shared socket, as of a
//! `direct` inbound), `plain` (tokio's `recv` and `send`, one datagram a call). Four clients on core 1
//! keep 32 datagrams of 1200 bytes each on the way to an echo server; the relay has core 0.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crosspoint_kernel::{
    Kind,
    addr::Target,
    component::Incarnation,
    flow::BoxPacketIo,
    ledger::Ledger,
    net::udp::{self, Nat, UdpPackets},
    relay,
    session::{Network, Session},
};

const CLIENTS: usize = 4;
const WINDOW: usize = 32;
const SIZE: usize = 1200;

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

fn bind() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("bind")
}

fn adopt(socket: UdpSocket) -> tokio::net::UdpSocket {
    socket.set_nonblocking(true).expect("nonblocking");
    tokio::net::UdpSocket::from_std(socket).expect("register")
}

async fn run(client: BoxPacketIo, server: BoxPacketIo, ledger: Ledger) {
    let life =
        Incarnation { kind: Kind::Inbound, type_name: "bench", tag: "bench".into(), epoch: 1 };
    let source = SocketAddr::from(([127, 0, 0, 1], 9));
    let session = Session::new(1, Arc::new(life), Network::Udp, source, Target::from(source));
    let entry = ledger.register(&session);
    relay::packets(client, server, &entry, Duration::from_secs(60)).await;
}

async fn plain(client: tokio::net::UdpSocket, server: tokio::net::UdpSocket) {
    async fn one(from: &tokio::net::UdpSocket, to: &tokio::net::UdpSocket) {
        let mut buffer = [0; 2048];
        while let Ok(n) = from.recv(&mut buffer).await {
            if to.send(&buffer[..n]).await.is_err() {
                return;
            }
        }
    }
    tokio::join!(one(&client, &server), one(&server, &client));
}

/// Microseconds of CPU per round trip, thousands of round trips a second.
fn echo(mode: &'static str) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let server = bind();
    let target = server.local_addr().expect("addr");
    let clients: Vec<_> = (0..CLIENTS).map(|_| bind()).collect();
    let fronts: Vec<_> = (0..if mode == "nat" { 1 } else { CLIENTS }).map(|_| bind()).collect();
    for (i, client) in clients.iter().enumerate() {
        let front = &fronts[i % fronts.len()];
        client.connect(front.local_addr().expect("addr")).expect("connect");
        if mode != "nat" {
            front.connect(client.local_addr().expect("addr")).expect("connect");
        }
    }
    let (tick, ticks) = std::sync::mpsc::channel();
    let relay = thread::spawn(move || {
        pin_to(0);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let ledger = Ledger::default();
        runtime.block_on(async move {
            for front in fronts {
                let front = adopt(front);
                let ledger = ledger.clone();
                if mode == "nat" {
                    let nat = Nat::on(&Arc::new(front)).expect("nat");
                    tokio::spawn(async move {
                        let classify =
                            |_, payload: &mut [u8]| Some((0..payload.len(), target.into()));
                        let admit = |new: udp::NewSession| {
                            let server = UdpPackets::new(adopt(bind())).expect("packets");
                            tokio::spawn(run(new.packets, Box::new(server), ledger.clone()));
                        };
                        nat.serve(classify, admit).await
                    });
                    continue;
                }
                let back = bind();
                back.connect(target).expect("connect");
                let back = adopt(back);
                if mode == "plain" {
                    tokio::spawn(plain(front, back));
                } else {
                    let front = UdpPackets::connected(front, None).expect("packets");
                    let back = UdpPackets::connected(back, None).expect("packets");
                    tokio::spawn(run(Box::new(front), Box::new(back), ledger));
                }
            }
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if tick.send(thread_cpu()).is_err() {
                    return;
                }
            }
        });
    });
    let mut threads = Vec::new();
    let stop_echo = stop.clone();
    threads.push(thread::spawn(move || {
        pin_to(1);
        server.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
        let mut buffer = [0; 2048];
        while !stop_echo.load(Ordering::Relaxed) {
            if let Ok((n, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..n], from);
            }
        }
    }));
    for client in clients {
        let (stop, count) = (stop.clone(), count.clone());
        threads.push(thread::spawn(move || {
            pin_to(1);
            client.set_read_timeout(Some(Duration::from_millis(100))).expect("timeout");
            let (mut buffer, mut open) = ([0; 2048], 0);
            while !stop.load(Ordering::Relaxed) {
                while open < WINDOW && client.send(&buffer[..SIZE]).is_ok() {
                    open += 1;
                }
                match client.recv(&mut buffer) {
                    Ok(_) => {
                        open -= 1;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => open = 0,
                }
            }
        }));
    }
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_millis(400) {
        let _ = ticks.recv();
    }
    let cpu = ticks.recv().expect("relay");
    let (before, begun) = (count.load(Ordering::Relaxed), Instant::now());
    let mut last = cpu;
    while begun.elapsed() < Duration::from_millis(1500) {
        last = ticks.recv().expect("relay");
    }
    let trips = (count.load(Ordering::Relaxed) - before) as f64;
    let took = begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    drop(ticks);
    for thread in threads {
        let _ = thread.join();
    }
    let _ = relay.join();
    ((last - cpu).as_secs_f64() * 1e6 / trips, trips / took / 1e3)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(3);
    let mut modes: Vec<&'static str> = args.map(|mode| &*mode.leak()).collect();
    if modes.is_empty() {
        modes = vec!["connected", "nat", "plain"];
    }
    let mut cells = vec![Vec::new(); modes.len()];
    for round in 0..rounds {
        for i in 0..modes.len() {
            let i = if round % 2 == 0 { i } else { modes.len() - 1 - i };
            cells[i].push(echo(modes[i]));
        }
    }
    for (mode, mut cell) in modes.into_iter().zip(cells) {
        cell.sort_by(|a, b| a.0.total_cmp(&b.0));
        let median = cell[cell.len() / 2];
        println!(
            "{mode:10} {:.2} [{:.2}-{:.2}] CPU us/round trip  {:.0} k/s",
            median.0,
            cell[0].0,
            cell[cell.len() - 1].0,
            median.1
        );
    }
    println!("{:?}", udp::stats());
}
