//! Padded blocks of XTLS Vision: the content does not depend on how the bytes come, and what is padded comes back.
#![no_main]

use crosspoint_proxy::vless::vision::{Command, Filter, Padder, Unpadder};
use libfuzzer_sys::fuzz_target;

const ID: [u8; 16] = *b"0123456789abcdef";

fn unpad(bytes: &[u8], piece: usize) -> Option<(Vec<u8>, Command)> {
    let (mut unpadder, mut out) = (Unpadder::new(ID), Vec::new());
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let n = unpadder.unpad(&mut piece).ok()?;
        out.extend(&piece[..n]);
    }
    Some((out, unpadder.next()))
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, input)) = input.split_first() else { return };
    let piece = usize::from(*piece) + 1;
    // As from the network, behind the right id.
    let padded = [&ID[..], input].concat();
    let all = unpad(&padded, padded.len());
    assert_eq!(unpad(&padded, piece), all);
    let _ = unpad(input, piece);

    // As from an application.
    let (mut padder, mut filter, mut out, mut rest) =
        (Padder::new(ID), Filter::default(), Vec::new(), input);
    let mut last = Command::Continue;
    while !rest.is_empty() && last == Command::Continue {
        let packet = &rest[..rest.len().min(piece * 40)];
        let (n, command) = padder.pad(&mut filter, packet, &mut out);
        assert!(n > 0 && n <= packet.len());
        (rest, last) = (&rest[n..], command);
    }
    let taken = &input[..input.len() - rest.len()];
    if !taken.is_empty() {
        assert_eq!(unpad(&out, piece), Some((taken.to_vec(), last)));
    }
});
