//! STUN requests and answers of Tailscale nodes. A request that is found is one that would be sent.
#![no_main]

use crosspoint_derp::stun;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(tx) = stun::request(data) {
        assert_eq!(stun::request(&stun::ask(tx)), Some(tx));
        assert!(stun::answered(data).is_none());
    }
    if let Some((tx, addr)) = stun::answered(data) {
        let mut again = Vec::new();
        stun::answer(&mut again, &tx, addr);
        assert_eq!(stun::answered(&again), Some((tx, addr)));
    }
});
