//! Packets that come out of a tunnel: headers, fragments, segments and datagrams of anybody.
#![no_main]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use crosspoint_netstack::{
    Association, Handler, Link, Netstack, Packets, Screen, Settings, TcpStream, Transport, ip,
};
use libfuzzer_sys::fuzz_target;

/// What the stack sends are packets that fit.
struct Wire;

impl Link for Wire {
    fn send(&self, packets: &Packets) {
        for packet in packets.iter() {
            let parsed = ip::parse(packet).expect("a packet");
            assert_eq!(ip::destination(packet), Some(parsed.dst));
        }
    }
}

#[derive(Default)]
struct Taker {
    streams: Mutex<Vec<TcpStream>>,
    packets: Mutex<Vec<Association>>,
}

impl Handler for Taker {
    fn screen(&self, _: Transport, _: SocketAddr, target: SocketAddr) -> Screen {
        match target.port() % 4 {
            0 => Screen::Reset,
            1 => Screen::Drop,
            _ => Screen::Accept,
        }
    }

    fn stream(&self, _: SocketAddr, _: SocketAddr, stream: TcpStream) {
        self.streams.lock().unwrap().push(stream);
    }

    fn packets(&self, _: SocketAddr, _: SocketAddr, packets: Association) {
        self.packets.lock().unwrap().push(packets);
    }
}

// Packets, each behind its length in two bytes; the highest bit of it lets go of the streams first.
fuzz_target!(|input: &[u8]| {
    let taker = Arc::new(Taker::default());
    let addresses = vec![[10, 9, 0, 1].into(), "fd00:9::1".parse().unwrap()];
    let stack = Netstack::new(Settings { addresses, mtu: 1408 }, Arc::new(Wire), taker.clone());
    let mut rest = input;
    let mut count = 0;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let word = u16::from_be_bytes(*head);
        if word & 0x8000 != 0 {
            taker.streams.lock().unwrap().clear();
            taker.packets.lock().unwrap().clear();
        }
        let len = usize::from(word & 0x07ff).min(tail.len());
        let (packet, next) = tail.split_at(len);
        if let Some(parsed) = ip::parse(packet) {
            assert!(parsed.payload.len() + 20 <= packet.len());
            assert_eq!(ip::destination(packet), Some(parsed.dst));
        }
        stack.input([packet]);
        rest = next;
        count += 1;
        assert!(stack.tcp_flows() <= count);
    }
});
