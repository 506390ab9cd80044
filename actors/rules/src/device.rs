//! What rules may know of this machine's networks.

use std::{
    fs,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(2);

/// The answer, and when it was found.
static DEFAULT_ROUTE: Mutex<Option<(Instant, bool)>> = Mutex::new(None);

/// Whether there is a default route, IPv4 or IPv6.
///
/// That is all that rules may know of the networks of this machine, as the reference's command line sees them: it cannot
/// tell kinds of interfaces apart and calls the default one `wifi`, never metered, never constrained, and without a
/// name. So `network_type` with `wifi` means "there is a default route" and the other items never match.
pub(crate) fn has_default_route() -> bool {
    let mut known = DEFAULT_ROUTE.lock();
    match *known {
        Some((when, answer)) if when.elapsed() < FRESH => answer,
        _ => {
            let read = |path| fs::read_to_string(path).unwrap_or_default();
            let answer =
                default4(&read("/proc/net/route")) || default6(&read("/proc/net/ipv6_route"));
            *known = Some((Instant::now(), answer));
            answer
        }
    }
}

/// Lines of `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, with a head line.
fn default4(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let zero = |index: usize| fields.get(index) == Some(&"00000000");
        let flags =
            fields.get(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        zero(1) && zero(7) && usable(flags)
    })
}

/// Lines of `destination length source length next-hop metric references use flags interface`.
fn default6(table: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags =
            fields.get(8).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        fields.get(1) == Some(&"00") && fields.get(9) != Some(&"lo") && usable(flags)
    })
}

/// RTF_UP without RTF_REJECT (linux/route.h).
fn usable(flags: u32) -> bool {
    flags & 0x1 != 0 && flags & 0x200 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        assert!(default4(&format!(
            "{head}eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        )));
        assert!(!default4(&format!(
            "{head}eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        )));
        assert!(!default4(head));
        let zero = "0".repeat(32);
        let line = |flags, dev| {
            format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 {flags} {dev}\n")
        };
        assert!(default6(&line("00450003", "eth0")));
        assert!(!default6(&line("00200200", "lo")));
        assert!(!default6(""));
    }
}
