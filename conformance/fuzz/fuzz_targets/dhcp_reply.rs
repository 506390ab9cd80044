//! Answers of DHCP servers: whoever is on the network sends them.
#![no_main]

use crosspoint_dns::dhcp::packet::Reply;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(reply) = Reply::parse(data) else { return };
    assert!(reply.servers.len() <= 16 && reply.search.len() <= 16);
    for domain in &reply.search {
        assert!(
            (1..=253).contains(&domain.len()) && !domain.starts_with('.') && !domain.ends_with('.')
        );
    }
});
