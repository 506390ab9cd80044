//! What servers over the network send: datagrams against a query, and streams in any pieces. The input is the length of
//! the query (two bytes), the query, and the rest.
#![no_main]

use crosspoint_dns::client::wire::{Asked, Frames, is_truncated};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*length)) % (rest.len() + 1);
    let (query, response) = rest.split_at(length);
    let mut asked = Asked::default();
    if asked.note(query) {
        // The query, turned into an answer, is one; and nothing that is short is.
        let mut echo = query.to_vec();
        echo[2] |= 0x80;
        assert!(asked.is_answered_by(&echo));
        if asked.is_answered_by(response) {
            assert!(response.len() >= 12 && response[2] & 0x80 != 0);
        }
    }
    let _ = is_truncated(response);
    // Messages of a stream do not depend on how it is cut.
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    let sound = Frames::default().feed(rest, |message| whole.push(message.to_vec()));
    let mut frames = Frames::default();
    let pieces = [query, response].map(|part| frames.feed(part, |m| parts.push(m.to_vec())));
    if sound {
        assert_eq!((whole, [true; 2]), (parts, pieces));
    }
});
