//! A STUN client as Tailscale's nodes are: RFC 5389 binding requests with `SOFTWARE` `tailnode` and `FINGERPRINT`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// A request.
pub fn request(transaction: [u8; 12]) -> Vec<u8> {
    let mut packet = vec![0, 1, 0, 20];
    packet.extend(COOKIE);
    packet.extend(transaction);
    packet.extend([0x80, 0x22, 0, 8]);
    packet.extend(b"tailnode");
    let fingerprint = crc32(&packet) ^ 0x5354_554e;
    packet.extend([0x80, 0x28, 0, 4]);
    packet.extend(fingerprint.to_be_bytes());
    packet
}

/// A request with neither attribute, as other programs send it.
pub fn bare_request(transaction: [u8; 12]) -> Vec<u8> {
    let mut packet = vec![0, 1, 0, 0];
    packet.extend(COOKIE);
    packet.extend(transaction);
    packet
}

/// The address in an answer to `transaction`.
///
/// # Errors
/// When it is no such answer.
pub fn answer(packet: &[u8], transaction: [u8; 12]) -> Result<SocketAddr> {
    ensure!(packet.len() >= 20 && packet[..2] == [1, 1], "no answer: {packet:02x?}");
    ensure!(packet[4..8] == COOKIE && packet[8..20] == transaction, "an answer to another");
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    ensure!(packet.len() == 20 + length, "{length} bytes of attributes in {}", packet.len());
    let mut rest = &packet[20..];
    while let Some((head, more)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = more.get(..length).context("an attribute that is cut")?;
        if head[..2] == [0, 0x20] {
            return mapped(value, &packet[4..20]);
        }
        rest = more.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    anyhow::bail!("no address in {packet:02x?}")
}

fn mapped(value: &[u8], mask: &[u8]) -> Result<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>().context("a short address")?;
    let port = u16::from_be_bytes([head[2], head[3]]) ^ 0x2112;
    let plain: Vec<u8> = address.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    let ip = match (head[1], plain.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok().context("4")?)),
        (2, 16) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok().context("16")?)),
        other => anyhow::bail!("address family and length {other:?}"),
    };
    Ok(SocketAddr::new(ip, port))
}

/// CRC-32 of ITU V.42, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}
