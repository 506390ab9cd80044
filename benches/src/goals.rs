//! What the figures must be and are meant to become. The limits are those of
//! the issues that asked for them; a goal is a ratio to the reference of the same run, or an absolute figure.

/// One line of the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Name in the JSON and key of the samples.
    pub(crate) key: &'static str,
    /// What it says.
    pub(crate) label: &'static str,
    /// Multiplies a sample (seconds, bytes, units a second) for display.
    pub(crate) scale: f64,
    /// The release gate.
    pub(crate) must: Option<Limit>,
    /// The ambition.
    pub(crate) aim: Option<Limit>,
}

/// A limit, on the displayed value or on the ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Ratio to the reference at most.
    RatioMost(f64),
    /// Ratio to the reference at least.
    RatioLeast(f64),
    /// Value at most, as displayed.
    Most(f64),
    /// Value at least, as displayed.
    Least(f64),
}

impl Limit {
    /// Whether it is met; `None` when the ratio is not known.
    pub(crate) fn met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Limit::RatioMost(most) => ratio.map(|ratio| ratio <= most),
            Limit::RatioLeast(least) => ratio.map(|ratio| ratio >= least),
            Limit::Most(most) => Some(value <= most),
            Limit::Least(least) => Some(value >= least),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::RatioMost(x) => write!(f, "x≤{x}"),
            Limit::RatioLeast(x) => write!(f, "x≥{x}"),
            Limit::Most(x) => write!(f, "≤{x}"),
            Limit::Least(x) => write!(f, "≥{x}"),
        }
    }
}

const fn line(
    key: &'static str,
    label: &'static str,
    scale: f64,
    must: Option<Limit>,
    aim: Option<Limit>,
) -> Line {
    Line { key, label, scale, must, aim }
}

/// Every line, in the order of the report.
pub(crate) const LINES: [Line; 62] = {
    use Limit::{Least, Most, RatioLeast, RatioMost};
    let (micro, milli, mega) = (1e6, 1e3, 1.0 / 1_000_000.0);
    [
        line("down_cpu", "bulk down, CPU s/GB", 1e9, Some(RatioMost(1.05)), Some(RatioMost(0.9))),
        line("down_rate", "bulk down, Gbit/s", 8e-9, None, None),
        line("up_cpu", "bulk up, CPU s/GB", 1e9, Some(RatioMost(1.05)), Some(RatioMost(0.9))),
        line("up_rate", "bulk up, Gbit/s", 8e-9, None, None),
        line("conn_cpu", "conn, CPU µs", micro, Some(RatioMost(0.65)), Some(RatioMost(0.55))),
        line("conn_rate", "conn, 1/s", 1.0, Some(RatioLeast(1.4)), Some(RatioLeast(1.7))),
        line("conn_p50", "conn, p50 ms", milli, None, None),
        line("conn_p99", "conn, p99 ms", milli, Some(RatioMost(0.8)), Some(RatioMost(0.6))),
        line("conn_lost", "conn, failed %", 100.0, Some(Most(0.0)), Some(Most(0.0))),
        line("rr_cpu", "rr, CPU µs", micro, Some(RatioMost(0.95)), Some(RatioMost(0.8))),
        line("rr_rate", "rr, 1/s", 1.0, None, None),
        line("rr_p99", "rr, p99 ms", milli, None, None),
        line("udp_rate", "udp1200, packets/s", 1.0, Some(RatioLeast(1.2)), Some(RatioLeast(1.4))),
        line("udp_cpu", "udp1200, CPU µs", micro, Some(RatioMost(0.8)), Some(RatioMost(0.68))),
        line("udp_p99", "udp1200, p99 ms", milli, None, None),
        line("udp_lost", "udp1200, lost %", 100.0, None, None),
        line("idle_rss", "idle, RSS MB", mega, Some(Most(12.0)), Some(Most(8.0))),
        line("idle_conn", "idle connection, kB", 1e-3, Some(Most(8.0)), Some(Most(3.0))),
        line("idle_fds", "idle connection, fds", 1.0, Some(Most(2.01)), Some(Most(2.01))),
        line("idle_after", "RSS 5 s after close, × idle", 1.0, Some(Most(2.0)), Some(Most(2.0))),
        line("idle_fds_left", "fds 5 s after close", 1.0, Some(Most(1.0)), Some(Most(0.0))),
        line("capacity", "idle connections taken", 1.0, Some(Least(5000.0)), Some(Least(9000.0))),
        line("start", "start to listening, ms", milli, Some(RatioMost(1.0)), Some(Most(10.0))),
        line("start_cpu", "start, CPU ms", milli, None, None),
        line("check", "check, ms", milli, Some(RatioMost(0.5)), None),
        line("reload_dropped", "reload, dropped of 50 × 20", 1.0, Some(Most(0.0)), Some(Most(0.0))),
        line("reload_refused", "reload, knocks refused", 1.0, Some(Most(0.0)), Some(Most(0.0))),
        line("reload_gap", "reload, gap ms", milli, Some(Most(10.0)), Some(Most(4.0))),
        line("reload_gap_worst", "reload, worst gap of 20, ms", milli, None, None),
        line("reload_growth", "RSS after 20 reloads, ×", 1.0, None, Some(Most(1.1))),
        line("emfile_lost", "no fds: live lost of 20", 1.0, Some(Most(0.0)), Some(Most(0.0))),
        line("emfile_lines", "no fds: log lines/s", 1.0, Some(Most(1.0)), Some(Most(1.0))),
        line("emfile_recovery", "no fds: back in, s", 1.0, Some(Most(1.0)), Some(Most(0.2))),
        line("emfile_cpu", "no fds: CPU of a core", 1.0, None, None),
        line("named_cpu", "conn by name, CPU µs", micro, None, None),
        line("named_rate", "conn by name, 1/s", 1.0, None, None),
        line("named_lost", "conn by name, failed %", 100.0, Some(Most(0.0)), Some(Most(0.0))),
        line(
            "rules_cpu",
            "rule-sets, conn CPU µs",
            micro,
            Some(RatioMost(0.65)),
            Some(RatioMost(0.55)),
        ),
        line("rules_rate", "rule-sets, conn 1/s", 1.0, None, None),
        line("rules_lost", "rule-sets, failed %", 100.0, Some(Most(0.0)), Some(Most(0.0))),
        line("rules_rss", "rule-sets, idle RSS MB", mega, None, None),
        line("rules_more", "rule-sets, RSS more, MB", mega, Some(Most(4.0)), Some(Most(2.0))),
        line("rules_dropped", "rule-sets reload, dropped", 1.0, Some(Most(0.0)), Some(Most(0.0))),
        line("rules_refused", "rule-sets reload, refused", 1.0, Some(Most(0.0)), Some(Most(0.0))),
        line("rules_gap", "rule-sets reload, gap ms", milli, Some(Most(10.0)), Some(Most(4.0))),
        line("rules_growth", "RSS after 20 of them, ×", 1.0, None, Some(Most(1.1))),
        line("hit_rate", "DNS cached, 1/s", 1.0, Some(RatioLeast(2.0)), Some(RatioLeast(4.0))),
        line("hit_cpu", "DNS cached, CPU µs", micro, None, None),
        line("hit_p99", "DNS cached, p99 ms", milli, Some(RatioMost(0.7)), Some(RatioMost(0.5))),
        line("hit_lost", "DNS cached, lost %", 100.0, None, None),
        line("miss_rate", "DNS asked, 1/s", 1.0, Some(RatioLeast(1.7)), Some(RatioLeast(2.5))),
        line("miss_cpu", "DNS asked, CPU µs", micro, None, None),
        line("miss_p99", "DNS asked, p99 ms", milli, Some(RatioMost(0.7)), Some(RatioMost(0.5))),
        line("miss_lost", "DNS asked, lost %", 100.0, None, None),
        line("tcp_rate", "DNS over TCP, 1/s", 1.0, Some(RatioLeast(1.7)), Some(RatioLeast(2.5))),
        line("tcp_cpu", "DNS over TCP, CPU µs", micro, None, None),
        line("tcp_p99", "DNS over TCP, p99 ms", milli, Some(RatioMost(0.7)), Some(RatioMost(0.5))),
        line("start_srs", "start with .srs, ms", milli, Some(RatioMost(0.6)), Some(Most(25.0))),
        line(
            "start_src",
            "start with JSON sets, ms",
            milli,
            Some(RatioMost(0.4)),
            Some(Most(120.0)),
        ),
        line("start_big", "start, large, ms", milli, Some(RatioMost(0.4)), Some(Most(80.0))),
        line("check_srs", "check with .srs, ms", milli, Some(RatioMost(0.5)), None),
        line("check_big", "check, large, ms", milli, Some(RatioMost(0.5)), None),
    ]
};

/// The lines of bulk, connections and datagrams through both ends of a protocol: prefix of the keys, name, and the ratios of
/// CPU that must and are meant to be reached, down, up, and of connections.
macro_rules! through {
    ($link:literal, $name:literal, $down:expr, $up:expr, $conn:expr) => {
        [
            ratio(concat!($link, "_down_cpu"), concat!($name, " down, CPU s/GB"), 1e9, $down),
            line(concat!($link, "_down_rate"), concat!($name, " down, Gbit/s"), 8e-9, None, None),
            ratio(concat!($link, "_up_cpu"), concat!($name, " up, CPU s/GB"), 1e9, $up),
            line(concat!($link, "_up_rate"), concat!($name, " up, Gbit/s"), 8e-9, None, None),
            ratio(concat!($link, "_conn_cpu"), concat!($name, " conn, CPU µs"), 1e6, $conn),
            line(concat!($link, "_conn_rate"), concat!($name, " conn, 1/s"), 1.0, None, None),
            line(concat!($link, "_conn_p99"), concat!($name, " conn, p99 ms"), 1e3, None, None),
            none_lost(concat!($link, "_conn_lost"), concat!($name, " conn, failed %")),
        ]
    };
}

macro_rules! datagrams {
    ($link:literal, $name:literal, $cpu:expr) => {
        [
            ratio(concat!($link, "_udp_cpu"), concat!($name, " udp1200, CPU µs"), 1e6, $cpu),
            line(concat!($link, "_udp_rate"), concat!($name, " udp1200, 1/s"), 1.0, None, None),
            line(concat!($link, "_udp_p99"), concat!($name, " udp1200, p99 ms"), 1e3, None, None),
            line(
                concat!($link, "_udp_lost"),
                concat!($name, " udp1200, lost %"),
                100.0,
                None,
                None,
            ),
        ]
    };
}

/// A line whose ratio must and is meant to be at most that.
const fn ratio(
    key: &'static str,
    label: &'static str,
    scale: f64,
    (must, aim): (f64, f64),
) -> Line {
    line(key, label, scale, Some(Limit::RatioMost(must)), Some(Limit::RatioMost(aim)))
}

const fn none_lost(key: &'static str, label: &'static str) -> Line {
    line(key, label, 100.0, Some(Limit::Most(0.0)), Some(Limit::Most(0.0)))
}

/// S2 to S4, S6, and the memory of a connection over TLS: figures of both ends together.
pub(crate) fn links() -> impl Iterator<Item = Line> {
    use Limit::Most;
    const IDLE: [Line; 5] = [
        line("trojan_idle_rss", "trojan idle, RSS MB", 1e-6, None, None),
        line("trojan_idle_conn", "trojan idle conn, kB", 1e-3, Some(Most(60.0)), Some(Most(30.0))),
        line("trojan_idle_fds", "trojan idle conn, fds", 1.0, Some(Most(4.01)), Some(Most(4.01))),
        line("trojan_idle_after", "RSS 5 s after, × idle", 1.0, Some(Most(2.0)), Some(Most(2.0))),
        line("trojan_idle_fds_left", "fds 5 s after", 1.0, Some(Most(2.0)), Some(Most(0.0))),
    ];
    const VISION: [Line; 4] = [
        line("vision_down_cpu", "vless vision down, s/GB", 1e9, None, None),
        line("vision_down_rate", "vless vision down, Gbit/s", 8e-9, None, None),
        line("vision_up_cpu", "vless vision up, s/GB", 1e9, None, None),
        line("vision_up_rate", "vless vision up, Gbit/s", 8e-9, None, None),
    ];
    const TUNNEL: (f64, f64) = (0.5, 0.25);
    const TUNNEL_UNIT: (f64, f64) = (0.7, 0.5);
    const TUNNEL_MORE: [Line; 12] = [
        ratio("wg_down1_cpu", "wireguard down, 1 flow, s/GB", 1e9, TUNNEL),
        line("wg_down1_rate", "wireguard down, 1, Gbit/s", 8e-9, None, None),
        ratio("wg_up1_cpu", "wireguard up, 1 flow, s/GB", 1e9, TUNNEL),
        line("wg_up1_rate", "wireguard up, 1, Gbit/s", 8e-9, None, None),
        ratio("wg_rr_cpu", "wireguard rr, CPU µs", 1e6, TUNNEL_UNIT),
        line("wg_rr_rate", "wireguard rr, 1/s", 1.0, None, None),
        line("wg_rr_p99", "wireguard rr, p99 ms", 1e3, None, None),
        line("wg_idle_rss", "wireguard idle, RSS MB", 1e-6, None, None),
        line("wg_idle_conn", "wireguard idle conn, kB", 1e-3, None, None),
        line("wg_idle_fds", "wireguard idle conn, fds", 1.0, None, None),
        line("wg_idle_after", "RSS 5 s after, × idle", 1.0, None, None),
        line("wg_idle_fds_left", "fds 5 s after", 1.0, Some(Most(2.0)), Some(Most(0.0))),
    ];
    const AEAD: (f64, f64) = (0.7, 0.52);
    const CONN: (f64, f64) = (0.6, 0.45);
    const UDP: (f64, f64) = (0.65, 0.4);
    through!("ss", "ss", AEAD, AEAD, CONN)
        .into_iter()
        .chain(datagrams!("ss", "ss", UDP))
        .chain(through!("ss22", "ss 2022", AEAD, AEAD, CONN))
        .chain(datagrams!("ss22", "ss 2022", UDP))
        .chain(through!("trojan", "trojan", (0.75, 0.6), (0.75, 0.6), (0.7, 0.5)))
        .chain(through!("ws", "vless+ws", (1.0, 0.95), (0.8, 0.62), (0.6, 0.5)))
        .chain(VISION)
        .chain(IDLE)
        .chain(through!("wg", "wireguard", TUNNEL, TUNNEL, TUNNEL_UNIT))
        .chain(datagrams!("wg", "wireguard", (0.6, 0.3)))
        .chain(TUNNEL_MORE)
}
