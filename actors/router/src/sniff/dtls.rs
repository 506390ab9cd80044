//! DTLS 1.0 and 1.2 records (RFC 6347 §4.1).

const HEADER: usize = 13;

/// Whether a datagram starts with a DTLS record: change cipher spec, alert, handshake, application data or connection id (25),
/// version 1.0 or 1.2.
pub(super) fn sniff(packet: &[u8]) -> bool {
    packet.len() >= HEADER && matches!(packet, [20..=23 | 25, 0xfe, 0xff | 0xfd, ..])
}
