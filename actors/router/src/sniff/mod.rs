//! Protocol sniffers: what is inside a new flow, judged by its first bytes.
//!
//! Everything here is sans-IO: bytes in, an [`Outcome`] out. The caller owns the buffer, the read deadline
//! ([`DEFAULT_TIMEOUT`] unless the rule says otherwise) and the decision what to do with the answer.
//!
//! * A stream is judged by [`stream`], called with *all* bytes read so far each time more arrive, until it stops answering
//!   [`Outcome::NeedMore`].
//! * A packet flow is judged by a [`PacketSniffer`], fed one datagram at a time; only QUIC asks for a second one.
//!   When the deadline passes meanwhile, [`PacketSniffer::partial`] tells what is known already.
//! * [`server_speaks_first`] and [`History`] say when not to sniff at all, [`udp_timeout`] how long an idle packet flow of a
//!   sniffed protocol is kept.

mod bittorrent;
mod cursor;
mod dns;
mod dtls;
mod hello;
mod history;
mod http;
mod ntp;
mod quic;
mod rdp;
mod ssh;
mod stun;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::time::Duration;

pub use history::History;

/// How long a sniff waits for the peer's bytes when the rule sets no `timeout`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(300);

/// A sniffer as the `sniffer` list of a `sniff` rule action names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sniffer {
    /// TLS ClientHello on a stream; yields the server name.
    Tls,
    /// HTTP/1.x request (and the HTTP/2 preface) on a stream; yields the host.
    Http,
    /// QUIC v1, v2 and draft-29 Initial packets; yields the server name and the client's name.
    Quic,
    /// DNS query, on streams with its length prefix.
    Dns,
    /// STUN message with the RFC 5389 magic cookie.
    Stun,
    /// BitTorrent handshake on a stream; uTP and UDP tracker packets.
    BitTorrent,
    /// DTLS 1.0 and 1.2 records.
    Dtls,
    /// SSH 2.0 identification string; yields it as the client's name.
    Ssh,
    /// RDP connection request (TPKT, X.224, RDP negotiation request).
    Rdp,
    /// NTP version 3 and 4 client requests.
    Ntp,
}

impl Sniffer {
    /// The sniffers a stream gets when the rule names none, in order.
    pub const STREAM: &'static [Self] =
        &[Self::Tls, Self::Http, Self::Dns, Self::BitTorrent, Self::Ssh, Self::Rdp];
    /// The sniffers a packet flow gets when the rule names none, in order.
    pub const PACKET: &'static [Self] =
        &[Self::Dns, Self::Quic, Self::Stun, Self::BitTorrent, Self::Dtls, Self::Ntp];

    /// The sniffer of that name in a configuration; `None` when there is no such sniffer.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "tls" => Self::Tls,
            "http" => Self::Http,
            "quic" => Self::Quic,
            "dns" => Self::Dns,
            "stun" => Self::Stun,
            "bittorrent" => Self::BitTorrent,
            "dtls" => Self::Dtls,
            "ssh" => Self::Ssh,
            "rdp" => Self::Rdp,
            "ntp" => Self::Ntp,
            _ => return None,
        })
    }

    /// The name in a configuration, which is also the protocol it reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Quic => "quic",
            Self::Dns => "dns",
            Self::Stun => "stun",
            Self::BitTorrent => "bittorrent",
            Self::Dtls => "dtls",
            Self::Ssh => "ssh",
            Self::Rdp => "rdp",
            Self::Ntp => "ntp",
        }
    }

    /// Whether this sniffer looks at streams.
    pub fn reads_streams(self) -> bool {
        Self::STREAM.contains(&self)
    }

    /// Whether this sniffer looks at datagrams.
    pub fn reads_packets(self) -> bool {
        Self::PACKET.contains(&self)
    }
}

impl fmt::Display for Sniffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a sniffer recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sniffed {
    /// The protocol, one of the names of [`Sniffer`].
    pub protocol: &'static str,
    /// The server the client asks for: TLS/QUIC server name, or HTTP host without port (which may be an IP address).
    pub domain: Option<Box<str>>,
    /// The client: `chromium`, `firefox`, `safari`, `quic-go` or `unknown` for QUIC, the software version for SSH.
    pub client: Option<Box<str>>,
}

impl Sniffed {
    /// A protocol of which nothing more is known.
    const fn bare(protocol: Sniffer) -> Self {
        Self { protocol: protocol.name(), domain: None, client: None }
    }
}

/// The answer of a sniff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Recognised.
    Match(Sniffed),
    /// Not decided: more bytes, or one more datagram, may do.
    NeedMore,
    /// None of the sniffers will ever match.
    NoMatch,
}

impl Outcome {
    const fn bare(protocol: Sniffer) -> Self {
        Self::Match(Sniffed::bare(protocol))
    }
}

/// Judges the first bytes of a stream: `buf` is all that was read so far.
///
/// The first sniffer that matches wins; if none does, one that needs more makes the answer [`Outcome::NeedMore`]. An empty list
/// stands for [`Sniffer::STREAM`]; sniffers in it that read packets only are passed over.
pub fn stream(sniffers: &[Sniffer], buf: &[u8]) -> Outcome {
    let sniffers = if sniffers.is_empty() { Sniffer::STREAM } else { sniffers };
    let mut need_more = false;
    for sniffer in sniffers {
        let outcome = match sniffer {
            Sniffer::Tls => tls::sniff(buf),
            Sniffer::Http => http::sniff(buf),
            Sniffer::Dns => dns::stream(buf),
            Sniffer::BitTorrent => bittorrent::stream(buf),
            Sniffer::Ssh => ssh::sniff(buf),
            Sniffer::Rdp => rdp::sniff(buf),
            Sniffer::Quic | Sniffer::Stun | Sniffer::Dtls | Sniffer::Ntp => Outcome::NoMatch,
        };
        match outcome {
            Outcome::Match(_) => return outcome,
            Outcome::NeedMore => need_more = true,
            Outcome::NoMatch => {}
        }
    }
    if need_more { Outcome::NeedMore } else { Outcome::NoMatch }
}

/// Judges the first datagrams of a packet flow.
///
/// Holds memory only between the packets of a fragmented QUIC ClientHello, then about 20 KiB at most.
#[derive(Debug, Default)]
pub struct PacketSniffer {
    quic: Option<Box<quic::Assembly>>,
    dns_ends_sniffing: bool,
}

impl PacketSniffer {
    /// A sniffer for a new flow; allocates nothing.
    pub const fn new() -> Self {
        Self { quic: None, dns_ends_sniffing: false }
    }

    /// Compatibility with sing-box 1.12: there a datagram that parses as a DNS message but is no query (a response, or one
    /// without questions) ends the sniff without a protocol. As `dns` comes first, the default list then recognises neither
    /// the usual NTP requests nor the first DTLS flight. Off unless asked for.
    pub const fn dns_ends_sniffing(mut self, on: bool) -> Self {
        self.dns_ends_sniffing = on;
        self
    }

    /// Judges one datagram.
    ///
    /// An empty list stands for [`Sniffer::PACKET`]; sniffers in it that read streams only are passed over. After
    /// [`Outcome::NeedMore`] the list is ignored: what follows is taken as the rest of the ClientHello.
    pub fn push(&mut self, sniffers: &[Sniffer], datagram: &[u8]) -> Outcome {
        if let Some(assembly) = &mut self.quic {
            let outcome = assembly.push(datagram);
            if outcome != Outcome::NeedMore {
                self.quic = None;
            }
            return outcome;
        }
        let sniffers = if sniffers.is_empty() { Sniffer::PACKET } else { sniffers };
        for &sniffer in sniffers {
            let hit = match sniffer {
                Sniffer::Dns => match dns::packet(datagram) {
                    dns::Message::Query => true,
                    dns::Message::Other if self.dns_ends_sniffing => return Outcome::NoMatch,
                    dns::Message::Other | dns::Message::Not => false,
                },
                Sniffer::Quic => match quic::first(datagram) {
                    quic::First::Match(sniffed) => return Outcome::Match(sniffed),
                    quic::First::NeedMore(assembly) => {
                        self.quic = Some(assembly);
                        return Outcome::NeedMore;
                    }
                    quic::First::NoMatch => false,
                },
                Sniffer::Stun => stun::sniff(datagram),
                Sniffer::BitTorrent => {
                    bittorrent::utp(datagram) || bittorrent::udp_tracker(datagram)
                }
                Sniffer::Dtls => dtls::sniff(datagram),
                Sniffer::Ntp => ntp::sniff(datagram),
                Sniffer::Tls | Sniffer::Http | Sniffer::Ssh | Sniffer::Rdp => false,
            };
            if hit {
                return Outcome::bare(sniffer);
            }
        }
        Outcome::NoMatch
    }

    /// What is known while the last answer was [`Outcome::NeedMore`]: to be used when no further datagram comes in time.
    ///
    /// A QUIC flow whose ClientHello did not become whole counts as `quic` of `chromium` without a domain, since Chromium is
    /// the client known to split it.
    pub fn partial(&self) -> Option<Sniffed> {
        self.quic.as_ref().map(|_| quic::unfinished())
    }
}

/// Whether a TCP server on this port usually speaks first, so that waiting for the client would only delay both:
/// SMTP 25, 465, 587; IMAP 143, 993; POP3 110, 995.
pub const fn server_speaks_first(port: u16) -> bool {
    matches!(port, 25 | 465 | 587 | 143 | 993 | 110 | 995)
}

/// The protocol a packet flow is taken for, by its port, when nothing was sniffed (for [`udp_timeout`] only).
pub const fn port_protocol(port: u16) -> Option<&'static str> {
    match port {
        53 => Some("dns"),
        123 => Some("ntp"),
        443 => Some("quic"),
        3478 => Some("stun"),
        _ => None,
    }
}

/// After how much idle time a packet flow of this protocol is closed; `None` leaves it to the inbound's `udp_timeout`.
pub fn udp_timeout(protocol: &str) -> Option<Duration> {
    match protocol {
        "dns" | "ntp" | "stun" => Some(Duration::from_secs(10)),
        "quic" | "dtls" => Some(Duration::from_secs(30)),
        _ => None,
    }
}
