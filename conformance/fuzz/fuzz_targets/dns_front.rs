//! Messages of clients, and answers that are cut to fit a datagram.
#![no_main]

use crosspoint_resolver::serve::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [high, low, message @ ..] = input else { return };
    if let Some(heard) = wire::hear(message) {
        assert!((512..=65_507).contains(&heard.datagram));
        let failure = wire::failure(message);
        assert!(failure.len() >= 12 && failure.len() <= message.len());
        // An answer, to the same query, that nobody takes for a query.
        assert_eq!(failure[..2], message[..2]);
        assert_eq!(wire::hear(&failure), None);
    }
    let limit = usize::from(u16::from_be_bytes([*high, *low]));
    let mut answer = message.to_vec();
    let end = wire::truncate(&mut answer, limit);
    assert!(end <= message.len() && end <= limit.max(512));
    if end == message.len() {
        assert_eq!(answer, message);
    } else if end >= 12 {
        assert_eq!(answer[2] & 2, 2);
        // What was cut is not cut again.
        let mut again = answer[..end].to_vec();
        assert_eq!(wire::truncate(&mut again, limit), end);
        assert_eq!(again, answer[..end]);
    }
});
