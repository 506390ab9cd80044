//! Replies of a SOCKS server and what they mean.

use bytes::BufMut;

use super::{VERSION4, addr::emit_addr};
use crate::host::{Host, Target};

/// Reply field of SOCKS5 (RFC 1928 §6). The SOCKS4 codes fold into these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// 0: connected.
    Succeeded = 0,
    /// 1: a failure that has no code of its own, timeouts and names that do not resolve included.
    Failure = 1,
    /// 2: forbidden by rules.
    NotAllowed = 2,
    /// 3: no route to the network.
    NetworkUnreachable = 3,
    /// 4: no route to the host.
    HostUnreachable = 4,
    /// 5: the host refused.
    Refused = 5,
    /// 6: hop limit reached.
    TtlExpired = 6,
    /// 7: the command is not implemented.
    CommandUnsupported = 7,
    /// 8: the address type is not implemented.
    AddressUnsupported = 8,
}

impl Code {
    /// The code for a reply octet; unassigned ones count as general failures.
    pub fn from_wire(octet: u8) -> Self {
        match octet {
            0 => Self::Succeeded,
            2 => Self::NotAllowed,
            3 => Self::NetworkUnreachable,
            4 => Self::HostUnreachable,
            5 => Self::Refused,
            6 => Self::TtlExpired,
            7 => Self::CommandUnsupported,
            8 => Self::AddressUnsupported,
            _ => Self::Failure,
        }
    }

    /// What the code says, in words for errors and logs.
    pub fn text(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failure => "general failure",
            Self::NotAllowed => "not allowed",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::Refused => "connection refused",
            Self::TtlExpired => "TTL expired",
            Self::CommandUnsupported => "command not supported",
            Self::AddressUnsupported => "address type not supported",
        }
    }
}

/// SOCKS4 reply octet: granted.
pub(super) const GRANTED4: u8 = 90;
/// SOCKS4 reply octet: rejected or failed.
pub(super) const REJECTED4: u8 = 91;

/// Writes a SOCKS5 reply: version, code, reserved octet, bound address.
pub fn emit_reply5(code: Code, bound: &Target<'_>, out: &mut impl BufMut) {
    out.put_slice(&[super::VERSION5, code as u8, 0]);
    emit_addr(bound, out);
}

/// Writes a SOCKS4 reply: a zero octet, 90 or 91, port, IPv4 address (zero when `bound` has none).
pub fn emit_reply4(granted: bool, bound: &Target<'_>, out: &mut impl BufMut) {
    out.put_slice(&[0, if granted { GRANTED4 } else { REJECTED4 }]);
    out.put_u16(bound.port);
    match bound.host {
        Host::V4(addr) => out.put_slice(&addr.octets()),
        _ => out.put_slice(&[0; 4]),
    }
}

/// Writes the reply of whichever `version` the client speaks (4 or 5).
pub fn reply(version: u8, code: Code, bound: &Target<'_>, out: &mut impl BufMut) {
    if version == VERSION4 {
        emit_reply4(code == Code::Succeeded, bound, out);
    } else {
        emit_reply5(code, bound, out);
    }
}
