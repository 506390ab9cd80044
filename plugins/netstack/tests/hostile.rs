//! No packet makes the stack panic or leaks a flow, whatever a peer sends and in whatever order; and what comes too fast
//! is dropped, not kept.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crosspoint_kernel::flow::{Batch, PacketIo as _};
use crosspoint_netstack::{
    Association, Handler, Link, Netstack, Packets, Screen, Settings, TcpStream, Transport, ip,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What the stack has sent: the numbers that an answer to each flow has to have.
#[derive(Default)]
struct Seen(Mutex<HashMap<(SocketAddr, SocketAddr), u32>>);

impl Link for Seen {
    fn send(&self, packets: &Packets) {
        for packet in packets.iter() {
            let ip = ip::parse(packet).expect("the stack sends packets");
            if ip.protocol != 6 || ip.fragment.is_some() {
                continue;
            }
            let word = |at: usize| u16::from_be_bytes([ip.payload[at], ip.payload[at + 1]]);
            let seq = u32::from_be_bytes(ip.payload[4..8].try_into().expect("four"));
            let head = usize::from(ip.payload[12] >> 4) * 4;
            let flags = ip.payload[13];
            let len = ip.payload.len() - head + usize::from(flags & 3 != 0);
            let ends = (SocketAddr::new(ip.dst, word(2)), SocketAddr::new(ip.src, word(0)));
            let next = seq.wrapping_add(u32::try_from(len).expect("short"));
            self.0.lock().insert(ends, next);
        }
    }
}

/// Takes all that comes, and keeps it until it is told to let go.
#[derive(Default)]
struct Taker {
    streams: Mutex<Vec<TcpStream>>,
    packets: Mutex<Vec<Association>>,
    opened: Mutex<usize>,
}

impl Handler for Taker {
    fn screen(&self, _: Transport, _: SocketAddr, target: SocketAddr) -> Screen {
        match target.port() {
            7 => Screen::Reset,
            9 => Screen::Drop,
            _ => Screen::Accept,
        }
    }

    fn stream(&self, _: SocketAddr, _: SocketAddr, stream: TcpStream) {
        *self.opened.lock() += 1;
        self.streams.lock().push(stream);
    }

    fn packets(&self, _: SocketAddr, _: SocketAddr, packets: Association) {
        *self.opened.lock() += 1;
        self.packets.lock().push(packets);
    }
}

fn own(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1).into() } else { [10, 9, 0, 1].into() }
}

fn client(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2).into() } else { [10, 9, 0, 2].into() }
}

struct Bench {
    stack: Arc<Netstack>,
    seen: Arc<Seen>,
    taker: Arc<Taker>,
}

impl Bench {
    /// A stack whose timers run.
    fn new() -> Self {
        let (seen, taker) = (Arc::new(Seen::default()), Arc::new(Taker::default()));
        let settings = Settings { addresses: vec![own(false), own(true)], mtu: 1408 };
        let stack = Arc::new(Netstack::new(settings, seen.clone(), taker.clone()));
        let timers = stack.clone();
        tokio::spawn(async move { timers.run().await });
        Self { stack, seen, taker }
    }

    fn next(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        self.seen.0.lock().get(&(from, to)).copied().unwrap_or_default()
    }

    fn input(&self, packet: &[u8]) {
        self.stack.input([packet]);
    }

    /// Opens a connection as a client does that follows the rules. Whether it came to be.
    fn opens(&self, v6: bool, port: u16) -> bool {
        let before = *self.taker.opened.lock();
        let (from, to) = (SocketAddr::new(client(v6), port), SocketAddr::new(own(v6), 80));
        self.input(&packet(from.ip(), to.ip(), 6, &segment(from, to, (100, 0), SYN, &[], &[])));
        let ack = self.next(from, to);
        self.input(&packet(from.ip(), to.ip(), 6, &segment(from, to, (101, ack), ACK, &[], &[])));
        *self.taker.opened.lock() == before + 1
    }
}

/// A segment. Its checksum is not looked at: the tunnel has seen to that.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    (seq, ack): (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(seq.to_be_bytes());
    segment.extend(ack.to_be_bytes());
    let words = options.len().div_ceil(4).min(10);
    segment.push(u8::try_from(5 + words).expect("at most 15") << 4);
    segment.push(flags);
    segment.extend([0x20, 0, 0, 0, 0, 0]);
    let mut options = options.to_vec();
    options.resize(words * 4, 0);
    segment.extend(options);
    segment.extend_from_slice(payload);
    segment
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Packets::new();
    ip::emit(&mut out, (from, to), protocol, payload, 65_535, 1);
    out.iter().next().expect("one packet").to_vec()
}

/// One thing that a peer does, or that happens.
#[derive(Clone, Debug)]
enum Act {
    Raw(Vec<u8>),
    Segment {
        v6: bool,
        ports: (u8, u8),
        flags: u8,
        seq: Option<u32>,
        ack: Option<u32>,
        options: Vec<u8>,
        len: usize,
    },
    Datagram {
        v6: bool,
        ports: (u8, u8),
        len: usize,
        said: Option<u16>,
    },
    Echo {
        v6: bool,
        bytes: Vec<u8>,
    },
    Part {
        v6: bool,
        protocol: u8,
        id: u8,
        offset: u8,
        more: bool,
        len: usize,
    },
    /// The last packet again, with a bit changed and the end cut off.
    Again {
        bit: u16,
        cut: u16,
    },
    Wait(u16),
    /// We say something on each stream.
    Say(u16),
    /// We hear what has come.
    Hear,
    /// We let go of the oldest stream and association.
    Drop,
}

fn act() -> impl Strategy<Value = Act> {
    let number = proptest::option::weighted(0.3, any::<u32>());
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let flags = prop_oneof![
        4 => Just(SYN), 4 => Just(ACK), 2 => Just(ACK | 8), 1 => Just(ACK | 1), 1 => Just(RST), 1 => any::<u8>()
    ];
    prop_oneof![
        2 => bytes(80).prop_map(Act::Raw),
        12 => (any::<bool>(), (0..3_u8, 0..4_u8), flags, number.clone(), number, bytes(40), 0..1300_usize)
            .prop_map(|(v6, ports, flags, seq, ack, options, len)| {
                let (options, len) = (if len % 3 == 0 { options } else { Vec::new() }, if flags & SYN == 0 { len } else { len / 1200 });
                Act::Segment { v6, ports, flags, seq, ack, options, len }
            }),
        3 => (any::<bool>(), (0..3_u8, 0..4_u8), 0..1300_usize, proptest::option::weighted(0.2, any::<u16>()))
            .prop_map(|(v6, ports, len, said)| Act::Datagram { v6, ports, len, said }),
        1 => (any::<bool>(), bytes(60)).prop_map(|(v6, bytes)| Act::Echo { v6, bytes }),
        3 => (any::<bool>(), prop_oneof![Just(6_u8), Just(17), Just(1), any::<u8>()], 0..3_u8, any::<u8>(), any::<bool>(), 0..900_usize)
            .prop_map(|(v6, protocol, id, offset, more, len)| Act::Part { v6, protocol, id, offset, more, len }),
        3 => (any::<u16>(), any::<u16>()).prop_map(|(bit, cut)| Act::Again { bit, cut }),
        2 => any::<u16>().prop_map(Act::Wait),
        2 => any::<u16>().prop_map(Act::Say),
        2 => Just(Act::Hear),
        1 => Just(Act::Drop),
    ]
}

/// Ports of the service of each kind: taken, taken, refused, not answered.
const SERVICES: [u16; 4] = [80, 443, 7, 9];

fn ends(v6: bool, (from, to): (u8, u8)) -> (SocketAddr, SocketAddr) {
    let from = SocketAddr::new(client(v6), 40_000 + u16::from(from));
    (from, SocketAddr::new(own(v6), SERVICES[usize::from(to) % 4]))
}

/// A part of a packet, with a header of its own making.
fn part(v6: bool, protocol: u8, id: u8, at: (u8, bool), len: usize) -> Vec<u8> {
    let (offset, more) = (u16::from(at.0) * 8, u16::from(at.1));
    let payload = vec![id; len];
    if v6 {
        let mut head = vec![protocol, 0];
        head.extend((offset | more).to_be_bytes());
        head.extend([0, 0, 0, id]);
        head.extend(payload);
        return packet(client(true), own(true), 44, &head);
    }
    let mut packet = packet(client(false), own(false), protocol, &payload);
    packet[5] = id;
    packet[6..8].copy_from_slice(&((offset / 8) | more << 13).to_be_bytes());
    packet
}

async fn play(bench: &Bench, acts: Vec<Act>) {
    let mut last = vec![0x45];
    // Where each client stands in each of its flows.
    let mut sent: HashMap<(SocketAddr, SocketAddr), u32> = HashMap::new();
    for act in acts {
        let packet = match act {
            Act::Raw(bytes) => bytes,
            Act::Segment { v6, ports, flags, seq, ack, options, len } => {
                let (from, to) = ends(v6, ports);
                let next = sent.entry((from, to)).or_insert(1000);
                let numbers = (seq.unwrap_or(*next), ack.unwrap_or_else(|| bench.next(from, to)));
                if seq.is_none() {
                    let taken = u32::try_from(len).expect("short") + u32::from(flags & 3 != 0);
                    *next = next.wrapping_add(taken);
                }
                let segment = segment(from, to, numbers, flags, &options, &vec![7; len]);
                packet(from.ip(), to.ip(), 6, &segment)
            }
            Act::Datagram { v6, ports, len, said } => {
                let (from, to) = ends(v6, ports);
                let mut datagram = Vec::new();
                let said = said.unwrap_or(u16::try_from(8 + len).expect("short"));
                for word in [from.port(), to.port(), said, 0] {
                    datagram.extend(word.to_be_bytes());
                }
                datagram.resize(8 + len, 1);
                packet(from.ip(), to.ip(), 17, &datagram)
            }
            Act::Echo { v6, bytes } => packet(client(v6), own(v6), if v6 { 58 } else { 1 }, &bytes),
            Act::Part { v6, protocol, id, offset, more, len } => {
                part(v6, protocol, id, (offset, more), len)
            }
            Act::Again { bit, cut } => {
                let mut packet = last.clone();
                let at = usize::from(bit / 8) % packet.len();
                packet[at] ^= 1 << (bit % 8);
                if cut % 4 == 0 {
                    packet.truncate(usize::from(cut / 4) % packet.len());
                }
                packet
            }
            Act::Wait(time) => {
                tokio::time::sleep(Duration::from_millis(time.into())).await;
                continue;
            }
            Act::Say(len) => {
                let mut streams = std::mem::take(&mut *bench.taker.streams.lock());
                for stream in &mut streams {
                    let said = vec![9; len.into()];
                    let write = stream.write(&said);
                    let _ = tokio::time::timeout(Duration::from_millis(1), write).await;
                }
                bench.taker.streams.lock().append(&mut streams);
                continue;
            }
            Act::Hear => {
                let mut streams = std::mem::take(&mut *bench.taker.streams.lock());
                let mut buf = vec![0; 4096];
                for stream in &mut streams {
                    let read = stream.read(&mut buf);
                    let _ = tokio::time::timeout(Duration::from_millis(1), read).await;
                }
                bench.taker.streams.lock().append(&mut streams);
                let mut batch = Batch::new();
                for packets in &mut *bench.taker.packets.lock() {
                    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                    let _ = packets.poll_recv(&mut cx, &mut batch);
                    // Back to where it came from.
                    let _ = packets.poll_send(&mut cx, &mut batch);
                    batch.clear();
                }
                continue;
            }
            Act::Drop => {
                let (stream, packets) =
                    (bench.taker.streams.lock().pop(), bench.taker.packets.lock().pop());
                drop((stream, packets));
                continue;
            }
        };
        bench.input(&packet);
        if !packet.is_empty() {
            last = packet;
        }
        // Three clients, four services, two families; a changed bit may make others.
        assert!(bench.stack.tcp_flows() <= 24 + 64, "{} flows", bench.stack.tcp_flows());
    }
}

/// Runs with a clock that goes as fast as it can.
fn quickly(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work);
}

/// `PROPTEST_CASES` of them, 96 if that is not said.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|said| said.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_packet_panics_or_leaks_a_flow(acts in proptest::collection::vec(act(), 1..120)) {
        quickly(async {
            let bench = Bench::new();
            play(&bench, acts).await;
            bench.taker.streams.lock().clear();
            bench.taker.packets.lock().clear();
            // Longer than anything waits for anybody.
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert_eq!(bench.stack.tcp_flows(), 0);
            for v6 in [false, true] {
                assert!(bench.opens(v6, 50_000), "the stack takes no more connections");
                // No association of an old one is left: each is new.
                for port in 0..3 {
                    let before = *bench.taker.opened.lock();
                    play(&bench, vec![Act::Datagram { v6, ports: (port, 0), len: 1, said: None }]).await;
                    assert_eq!(*bench.taker.opened.lock(), before + 1, "an association was left");
                }
            }
        });
    }
}

/// Openings that are never finished: a limited number waits, and after a while there is room again.
#[test]
fn unfinished_openings_are_bounded_and_forgotten() {
    quickly(async {
        let bench = Bench::new();
        for round in 0..3 {
            for port in 0..3000_u16 {
                let (from, to) = (
                    SocketAddr::new(client(false), 10_000 + port),
                    SocketAddr::new(own(false), 80),
                );
                let syn = segment(from, to, (u32::from(port), 0), SYN, &[], &[]);
                bench.input(&packet(from.ip(), to.ip(), 6, &syn));
            }
            assert!((1..=1024).contains(&bench.stack.tcp_flows()), "round {round}");
            tokio::time::sleep(Duration::from_secs(120)).await;
            assert_eq!(bench.stack.tcp_flows(), 0, "round {round}");
            assert!(bench.opens(false, 9999), "round {round}");
            bench.taker.streams.lock().clear();
            tokio::time::sleep(Duration::from_secs(120)).await;
        }
    });
}

/// A hundred times more than the reader takes, of datagrams and of a stream: what waits has a limit.
#[test]
fn what_nobody_reads_is_dropped() {
    quickly(async {
        let bench = Bench::new();
        for _ in 0..50_000 {
            play(&bench, vec![Act::Datagram { v6: false, ports: (0, 0), len: 1200, said: None }])
                .await;
        }
        let mut association = bench.taker.packets.lock().pop().expect("an association");
        let (mut batch, mut waited) = (Batch::new(), 0);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        while association.poll_recv(&mut cx, &mut batch).is_ready() {
            waited += batch.len();
            batch.clear();
        }
        assert!((100..=512).contains(&waited), "{waited} datagrams waited");
        // A client that does not care for the window.
        assert!(bench.opens(false, 40_000));
        let (from, to) = (SocketAddr::new(client(false), 40_000), SocketAddr::new(own(false), 80));
        let mut next = 101_u32;
        for _ in 0..5000 {
            let ack = bench.next(from, to);
            let segment = segment(from, to, (next, ack), ACK, &[], &[5; 1300]);
            bench.input(&packet(from.ip(), to.ip(), 6, &segment));
            next += 1300;
        }
        let mut stream = bench.taker.streams.lock().pop().expect("a stream");
        let (mut buf, mut read) = (vec![0; 65_536], 0);
        let mut hear = async || {
            let read = stream.read(&mut buf);
            tokio::time::timeout(Duration::from_millis(1), read).await.ok()?.ok()
        };
        while let Some(len @ 1..) = hear().await {
            read += len;
        }
        assert!((100_000..=8 << 20).contains(&read), "{read} bytes waited");
        assert!(read < 5000 * 1300, "nothing was dropped");
    });
}

/// Many clients whose datagrams nobody reads share what there is, and all is free again when they go.
#[test]
fn many_that_nobody_reads_share_a_limit() {
    quickly(async {
        let bench = Bench::new();
        let mut datagram = vec![0; 1208];
        for round in 0..2 {
            for client_port in 0..400_u16 {
                let from = 20_000 + client_port;
                datagram[..2].copy_from_slice(&from.to_be_bytes());
                datagram[2..6].copy_from_slice(&[0, 80, 4, 184]);
                let packet = packet(client(false), own(false), 17, &datagram);
                (0..500).for_each(|_| bench.input(&packet));
            }
            let mut waited = 0;
            let mut batch = Batch::new();
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            for association in &mut std::mem::take(&mut *bench.taker.packets.lock()) {
                let mut of_one = 0;
                while association.poll_recv(&mut cx, &mut batch).is_ready() {
                    of_one += batch.len() * 1200;
                    batch.clear();
                }
                assert!(of_one >= 12_000, "{of_one} bytes of one client waited");
                waited += of_one;
            }
            // 80 MB in full queues of 480 kB each, and a little of each of the others.
            assert!(
                (32_000_000..42_000_000).contains(&waited),
                "round {round}: {waited} bytes waited"
            );
        }
    });
}
