use crosspoint_netstack::{
    Packets,
    checksum::{fold, sum},
};
use proptest::prelude::*;

use super::*;

/// A packet of TCP or UDP with right checksums.
#[derive(Clone, Debug)]
struct Made {
    v6: bool,
    tcp: bool,
    port: u16,
    sequence: u32,
    flags: u8,
    id: u16,
    payload: Vec<u8>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.port.to_be_bytes());
        transport.extend(443_u16.to_be_bytes());
        if self.tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(77_u32.to_be_bytes());
            transport.extend([0x80, self.flags, 1, 0, 0, 0, 0, 0]);
            transport.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let protocol = if self.tcp { protocol::TCP } else { protocol::UDP };
        let mut packet = if self.v6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            ip.extend([0xfd; 16]);
            ip.extend([0xfe; 16]);
            ip
        } else {
            let mut ip = vec![0x45, 0, 0, 0];
            ip.extend(self.id.to_be_bytes());
            ip.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            ip
        };
        let ip = packet.len();
        let checksum = fold(pseudo(&packet, protocol, transport.len()) + sum(&transport));
        let field = if self.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        put(&mut transport, field, if checksum == 0 { u16::MAX } else { checksum });
        packet.extend(transport);
        put_length(&mut packet, ip);
        packet
    }
}

/// Frames of packets, and the packets of these frames.
fn round_trip(packets: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let mut gather = Gather::default();
    gather.set_datagrams(true);
    for packet in packets {
        gather.add(packet, |frame| frames.push(frame.to_vec()));
    }
    gather.finish(|frame| frames.push(frame.to_vec()));
    let mut out = Packets::new();
    for frame in &mut frames {
        split(frame, &mut out).unwrap();
    }
    (frames.len(), out.iter().map(<[u8]>::to_vec).collect())
}

fn stream(v6: bool, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = u32::MAX - 1000;
    let last = sizes.len() - 1;
    let made = sizes.iter().enumerate().map(|(n, size)| {
        let flags = if n == last { flag::ACK | flag::PSH } else { flag::ACK };
        let id = u16::try_from(n).unwrap() + 9;
        let payload = vec![n as u8 + 1; *size];
        let packet = Made { v6, tcp: true, port: 1, sequence, flags, id, payload };
        sequence = sequence.wrapping_add(*size as u32);
        packet.bytes()
    });
    made.collect()
}

#[test]
fn a_stream_goes_together_and_comes_apart() {
    for v6 in [false, true] {
        let packets = stream(v6, &[1348, 1348, 1348, 1348, 700]);
        assert_eq!(round_trip(&packets), (1, packets));
        // What is larger than the first, follows a smaller one, or does not follow.
        let packets = stream(v6, &[700, 1348]);
        assert_eq!(round_trip(&packets).0, 2);
        let packets = stream(v6, &[1000, 500, 500]);
        assert_eq!(round_trip(&packets), (2, packets));
        let mut packets = stream(v6, &[100, 100, 100]);
        packets.remove(1);
        assert_eq!(round_trip(&packets), (2, packets));
        // More than one frame holds.
        let packets = stream(v6, &[1300; 120]);
        assert_eq!(round_trip(&packets).0, 3);
    }
}

#[test]
fn datagrams_go_together() {
    for v6 in [false, true] {
        let made = |n: u16, size| {
            let payload = vec![n as u8; size];
            Made { v6, tcp: false, port: 1, sequence: 0, flags: 0, id: n, payload }.bytes()
        };
        let packets: Vec<_> = (0..10).map(|n| made(n, 1200)).chain([made(10, 3)]).collect();
        assert_eq!(round_trip(&packets), (1, packets));
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut packets = stream(false, &[500, 500, 500]);
    packets[1][60] ^= 1;
    let (frames, back) = round_trip(&packets);
    assert_eq!((frames, back), (3, packets.clone()));
    let mut packets = stream(true, &[500, 500]);
    packets[0][90] ^= 1;
    assert_eq!(round_trip(&packets), (2, packets));
}

#[test]
fn a_checksum_is_completed() {
    let packet =
        Made { v6: false, tcp: true, port: 9, sequence: 1, flags: 2, id: 1, payload: Vec::new() }
            .bytes();
    let mut partial = packet.clone();
    let base = !fold(pseudo(&packet, protocol::TCP, packet.len() - 20));
    put(&mut partial, 20 + TCP_CHECKSUM, base);
    let header = Header { flags: NEEDS_CHECKSUM, start: 20, offset: 16, ..Header::default() };
    let mut frame = [&header.emit()[..], &partial].concat();
    let mut out = Packets::new();
    split(&mut frame, &mut out).unwrap();
    assert_eq!(out.iter().collect::<Vec<_>>(), [packet]);
}

fn made() -> impl Strategy<Value = Made> {
    (any::<bool>(), any::<bool>(), 0..3_u16, 0..4_u32, any::<bool>(), 0..3_usize, any::<u8>())
        .prop_map(|(v6, tcp, port, step, push, size, byte)| Made {
            v6,
            tcp,
            port,
            sequence: step * 100,
            flags: if push { flag::ACK | flag::PSH } else { flag::ACK },
            id: 0,
            payload: vec![byte; [1, 99, 100][size]],
        })
}

proptest! {
    #[test]
    fn headers_read_back(bytes: [u8; HEADER]) {
        prop_assert_eq!(Header::parse(bytes).emit(), bytes);
    }

    #[test]
    fn nothing_is_lost_or_changed(made in proptest::collection::vec(made(), 0..40)) {
        let packets: Vec<_> = made.iter().map(Made::bytes).collect();
        let (_, mut back) = round_trip(&packets);
        // Numbers of packets of IPv4 are counted on.
        for packet in &mut back {
            if packet[0] == 0x45 {
                put(packet, 4, 0);
                put_length(packet, 20);
            }
        }
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn nonsense_is_survived(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(vec![0, TCP4, TCP6, UDP]),
        first in prop::sample::select(vec![0x45_u8, 0x60, 0]),
        start in 0..64_u16,
        size in 0..64_u16,
    ) {
        let mut out = Packets::new();
        let _ = split(&mut frame.clone(), &mut out);
        if frame.len() > HEADER {
            let header = Header { flags: 1, kind, headers: 0, size, start, offset: 16 };
            frame[..HEADER].copy_from_slice(&header.emit());
            frame[HEADER] = first;
            let _ = split(&mut frame.clone(), &mut out);
        }
        let mut gather = Gather::default();
        gather.set_datagrams(true);
        for packet in frame.chunks(50) {
            gather.add(packet, |_| ());
        }
        gather.finish(|_| ());
    }
}
