//! Messages of gRPC: taken apart the same however they are cut, without more payload than there were bytes; and what is
//! sent is received.
#![no_main]

use crosspoint_layers::transport::grpc::gun::{GunError, Reader, head_len, put_head};
use libfuzzer_sys::fuzz_target;

fn read(input: &[u8], cut: usize, most: usize) -> Result<(Vec<u8>, bool), GunError> {
    let (mut reader, mut payload) = (Reader::default(), Vec::new());
    for mut part in input.chunks(cut) {
        while !part.is_empty() {
            let step = reader.step(part)?;
            assert!(step.framing + step.payload > 0);
            part = &part[step.framing..];
            let n = step.payload.min(most);
            payload.extend_from_slice(&part[..n]);
            reader.taken(n);
            part = &part[n..];
        }
    }
    Ok((payload, reader.is_between()))
}

fuzz_target!(|input: &[u8]| {
    let [cut, most, rest @ ..] = input else { return };
    let (cut, most) = (usize::from(*cut) + 1, usize::from(*most) + 1);
    let whole = read(rest, usize::MAX, usize::MAX);
    assert_eq!(whole, read(rest, cut, most));
    if let Ok((payload, _)) = whole {
        assert!(payload.len() <= rest.len());
    }

    let mut wire = Vec::new();
    for hunk in rest.chunks(cut) {
        let before = wire.len();
        put_head(hunk.len(), &mut wire);
        assert_eq!(wire.len() - before, head_len(hunk.len()));
        wire.extend_from_slice(hunk);
    }
    assert_eq!(read(&wire, most, cut), Ok((rest.to_vec(), true)));
});
