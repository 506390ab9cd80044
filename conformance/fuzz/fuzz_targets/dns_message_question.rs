//! Queries as clients send them: read by hand, in place.
#![no_main]

use crosspoint_resolver::wire::Query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(query) = Query::parse(data) {
        let name = query.name();
        assert!(!name.is_empty() && !name.ends_with("..") && query.udp_size() >= 512);
        // The same bytes as the answer of a server: a query is none.
        assert!(crosspoint_resolver::wire::told(data, data.to_vec(), 1).is_none());
    }
});
