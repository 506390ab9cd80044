//! Messages to a WireGuard device: whom they are from, and what they do to a session that is there.
#![no_main]

use crosspoint_wireguard::lab::{Lab, address};
use libfuzzer_sys::fuzz_target;

/// A packet between the two sides.
const PACKET: [u8; 24] =
    [0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2, b'h', b'e', b'r', b'e'];

// Messages, each behind three bytes: to whom and from where, which real message it changes (0: none), its length. A change
// is put over the real message.
fuzz_target!(|input: &[u8]| {
    let mut lab = Lab::new(0);
    let mut real: Vec<Vec<u8>> = Vec::new();
    lab.send(0, &PACKET);
    for side in [0, 1, 0] {
        let messages = lab.messages(side);
        real.extend(messages.iter().map(|(_, message)| message.clone()));
        lab.hear(1 - side, address(side), messages.iter().map(|(_, message)| &**message));
    }
    assert_eq!(lab.heard(1), [PACKET]);
    let mut rest = input;
    while let Some((head, tail)) = rest.split_first_chunk::<3>() {
        let [who, which, len] = head.map(usize::from);
        let (change, next) = tail.split_at(len.min(tail.len()));
        let mut message = match which {
            0 => change.to_vec(),
            which => real[which % real.len()].clone(),
        };
        for (place, change) in message.iter_mut().zip(change) {
            *place ^= change;
        }
        lab.hear(who & 1, address(1 - (who >> 1 & 1)), [message.as_slice()]);
        rest = next;
    }
    lab.carry();
    let _ = (lab.heard(0), lab.heard(1));
    // The session is alive.
    lab.send(0, &PACKET);
    lab.carry();
    assert_eq!(lab.heard(1), [PACKET]);
});
