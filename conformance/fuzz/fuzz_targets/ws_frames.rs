//! Frames of WebSocket: taken apart the same however they are cut, without more payload than there were bytes; and what
//! is sent is received.
#![no_main]

use crosspoint_layers::transport::ws::{
    frame::{Decoder, Found, Head, Opcode},
    mask,
};
use libfuzzer_sys::fuzz_target;

fn decode(bytes: &[u8], cut: usize) -> Option<Vec<u8>> {
    let (mut decoder, mut found) = (Decoder::default(), Found::default());
    let mut payload = Vec::new();
    for part in bytes.chunks(cut) {
        let mut part = part.to_vec();
        let n = decoder.decode(&mut part, &mut found).ok()?;
        assert!(n <= part.len());
        payload.extend(&part[..n]);
        if let Some(ping) = &found.ping {
            assert!(ping.payload().len() <= 125);
        }
    }
    Some(payload)
}

fuzz_target!(|input: &[u8]| {
    let [cut, a, b, c, d, rest @ ..] = input else { return };
    let cut = usize::from(*cut) + 1;
    assert_eq!(decode(rest, usize::MAX), decode(rest, cut));

    let key = [*a, *b, *c, *d];
    let mut frame = Head::new(Opcode::Binary, rest.len() as u64, Some(key)).bytes().to_vec();
    let head = frame.len();
    frame.resize(head + rest.len(), 0);
    mask::copy(key, rest, &mut frame[head..]);
    assert_eq!(decode(&frame, cut).as_deref(), Some(rest));
});
