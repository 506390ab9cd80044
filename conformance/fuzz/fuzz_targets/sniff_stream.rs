//! First bytes of a stream through every stream sniffer, and the promise that a final answer stays.
#![no_main]

use crosspoint_router::sniff::{Outcome, Sniffer, stream};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((pick, bytes)) = input.split_first() else {
        return;
    };
    stream(&[], bytes);
    let sniffer = Sniffer::STREAM[usize::from(*pick) % Sniffer::STREAM.len()];
    let whole = stream(&[sniffer], bytes);
    let half = &bytes[..bytes.len() / 2];
    let early = stream(&[sniffer], half);
    // A request line with a method of its own is taken only when it comes whole.
    let half_line = sniffer == Sniffer::Http && !half.contains(&b'\n');
    if early != Outcome::NeedMore && !half_line {
        assert_eq!(early, whole);
    }
});
