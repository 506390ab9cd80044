//! Datagrams of one flow through every packet sniffer.
#![no_main]

use crosspoint_router::sniff::{Outcome, PacketSniffer, Sniffer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((pick, mut rest)) = input.split_first() else {
        return;
    };
    let list = match usize::from(*pick & 0x7f) {
        0 => &[][..],
        n => &Sniffer::PACKET[n % Sniffer::PACKET.len()..],
    };
    let mut sniffer = PacketSniffer::new().dns_ends_sniffing(pick & 0x80 != 0);
    while let [high, low, tail @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (datagram, next) = tail.split_at(len);
        rest = next;
        let outcome = sniffer.push(list, datagram);
        assert_eq!(outcome == Outcome::NeedMore, sniffer.partial().is_some());
    }
});
