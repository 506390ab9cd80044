//! Echo requests to addresses of ours (RFC 792, RFC 4443 §4).

use crate::{
    checksum,
    ip::{self, Ip, protocol},
    packets::Packets,
};

const ECHO: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// Answers an echo request. Everything else is for nobody here.
pub(crate) fn answer(out: &mut Packets, ip: &Ip<'_>, mtu: usize, id: u32) {
    let (request, reply) = match ip.protocol {
        protocol::ICMP => ECHO,
        _ => ECHO_V6,
    };
    if ip.payload.len() < 8 || ip.payload[0] != request {
        return;
    }
    let mut message = ip.payload.to_vec();
    message[0] = reply;
    message[2..4].fill(0);
    let ends = (ip.dst, ip.src);
    let sum = match ip.protocol {
        protocol::ICMP => checksum::of(&message),
        other => checksum::of_transport(ends.0, ends.1, other, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip::emit(out, ends, ip.protocol, &message, mtu, id);
}
