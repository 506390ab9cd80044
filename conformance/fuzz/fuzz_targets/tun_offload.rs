//! Frames of a TUN interface, cut; what comes out of them is put together and cut again: nothing is lost or changed.
#![no_main]

use crosspoint_netstack::Packets;
use crosspoint_tundev::offload::{Gather, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((what, mut rest)) = input.split_first() else { return };
    let mut packets = Packets::new();
    while let Some((len, bytes)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(bytes.len());
        let (frame, more) = bytes.split_at(len);
        rest = more;
        if what & 1 == 0 {
            let before = packets.len();
            if split(&mut frame.to_vec(), &mut packets).is_err() {
                assert_eq!(packets.len(), before);
            }
        } else {
            packets.push(frame);
        }
    }
    let mut gather = Gather::default();
    gather.set_datagrams(what & 2 != 0);
    let mut frames = Vec::new();
    for packet in packets.iter() {
        gather.add(packet, |frame| frames.push(frame.to_vec()));
    }
    gather.finish(|frame| frames.push(frame.to_vec()));
    let mut again = Packets::new();
    let mut empty = 0;
    for frame in &mut frames {
        // A packet of no bytes is none.
        empty += usize::from(split(frame, &mut again).is_err());
    }
    assert_eq!(again.len() + empty, packets.len());
    let bodies = packets.iter().filter(|packet| !packet.is_empty());
    for (one, other) in bodies.zip(again.iter()) {
        assert_eq!(one.len(), other.len());
    }
});
