//! A ClientHello in several TCP segments or TLS records, so that whoever looks for a name in single packets finds
//! none (options `fragment` and `record_fragment`, route options `tls_fragment` and `tls_record_fragment`).
//!
//! It is cut once within each label of the server name but the last, at a random place. (The reference means to
//! spare the whole public suffix, and drops one label too many for it; a cut more does no harm. Its option `fragment`
//! without `record_fragment` does nothing; here it splits.)

mod hello;
mod stream;

pub use hello::{Wanted, cuts, server_name};
pub use stream::Fragmenting;

use std::time::Duration;

use crosspoint_kernel::flow::Shaper;

inventory::submit! {
    Shaper {
        wrap: |stream, policy| {
            let split = Split {
                segments: policy.tls_fragment,
                records: policy.tls_record_fragment,
                fallback_delay: policy.tls_fragment_fallback_delay,
            };
            Box::new(Fragmenting::new(stream, split))
        },
    }
}

/// How to split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Each piece in a TCP segment of its own, sent when the one before has arrived.
    pub segments: bool,
    /// Each piece in a TLS record of its own.
    pub records: bool,
    /// How long to wait between segments where it cannot be seen that one has arrived; 500 ms by default.
    pub fallback_delay: Option<Duration>,
}
