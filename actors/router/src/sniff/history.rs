//! When a second `sniff` action on the same flow is worth running.

use super::{Outcome, Sniffer};

/// Remembers the last sniff of a flow so that a later `sniff` action with the same list does not repeat a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    failed: Option<u64>,
    matched: bool,
}

impl History {
    /// Nothing sniffed yet.
    pub const fn new() -> Self {
        Self { failed: None, matched: false }
    }

    /// Notes the final answer of a sniff with this list as configured.
    ///
    /// Pass [`Outcome::NeedMore`] when the deadline passed while more was needed (that sniff may be repeated), and the match
    /// when [`super::PacketSniffer::partial`] gave one.
    pub fn record(&mut self, sniffers: &[Sniffer], outcome: &Outcome) {
        match outcome {
            Outcome::Match(_) => self.matched = true,
            Outcome::NeedMore => self.failed = None,
            Outcome::NoMatch => self.failed = Some(signature(sniffers)),
        }
    }

    /// Whether a stream should be sniffed with this list: no if a protocol is known, if the list holds packet sniffers only, or
    /// if the same list failed last time.
    pub fn allows_stream(&self, sniffers: &[Sniffer]) -> bool {
        self.allows(sniffers) && applies(sniffers, Sniffer::reads_streams)
    }

    /// Whether a packet flow should be sniffed with this list; see [`Self::allows_stream`].
    pub fn allows_packets(&self, sniffers: &[Sniffer]) -> bool {
        self.allows(sniffers) && applies(sniffers, Sniffer::reads_packets)
    }

    fn allows(&self, sniffers: &[Sniffer]) -> bool {
        !self.matched && self.failed != Some(signature(sniffers))
    }
}

fn applies(sniffers: &[Sniffer], reads: fn(Sniffer) -> bool) -> bool {
    sniffers.is_empty() || sniffers.iter().any(|sniffer| reads(*sniffer))
}

/// A number for the list and its order: exact up to 15 names (4 bits each), a mix beyond that.
fn signature(sniffers: &[Sniffer]) -> u64 {
    sniffers.iter().fold(1, |sum: u64, sniffer| sum.rotate_left(4) ^ (*sniffer as u64 + 1))
}
