//! `geoip` and `geosite`, with small databases made here: no registry has real ones.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};

use super::Pair;

fn uvarint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    uvarint(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// The container of the reference's `common/geosite`: a table, then items of a type byte and a text.
fn geosite(categories: &[(&str, &[(u8, &str)])]) -> Vec<u8> {
    let (mut out, mut items) = (vec![0], Vec::new());
    uvarint(&mut out, categories.len());
    for (name, list) in categories {
        text(&mut out, name);
        uvarint(&mut out, items.len());
        uvarint(&mut out, list.len());
        for (kind, value) in *list {
            items.push(*kind);
            text(&mut items, value);
        }
    }
    out.extend_from_slice(&items);
    out
}

#[test]
fn geosite_alike() -> Result<()> {
    let pair = Pair::new()?;
    let lists: [(&str, &[(u8, &str)]); 3] = [
        (
            "one",
            &[(0, "a.example"), (1, "suffix.example"), (2, "word"), (3, "^re[0-9]+"), (3, "(")],
        ),
        ("three", &[(1, ".x"), (1, "y"), (0, "<&>")]),
        ("two", &[(0, "b.example"), (0, "a.example")]),
    ];
    pair.write("geosite.db", geosite(&lists))?;
    pair.same(&["geosite", "list"])?;
    for name in [
        "a.example",
        "b.example",
        "xsuffix.example",
        "a.suffix.example",
        "swordfish",
        "re12",
        "y",
        "none",
    ] {
        pair.same(&["geosite", "lookup", name])?;
        pair.same(&["geosite", "lookup", "one", name])?;
    }
    pair.same(&["geosite", "lookup", "none", "a"])?;
    for category in ["one", "two", "three", "none"] {
        pair.same(&["geosite", "export", category, "-o", "stdout"])?;
    }
    pair.same(&["geosite", "-f", "geosite.db", "export", "one"])?;
    ensure!(pair.text("geosite-one.json")?.contains("suffix.example"));
    Ok(())
}

/// Control byte and text of a string of the MaxMind DB format (sizes from 29 on have a second byte).
fn mm_text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        short @ 0..29 => out.push(0x40 | short as u8),
        long => out.extend([0x40 | 29, (long - 29) as u8]),
    }
    out.extend_from_slice(text.as_bytes());
}

/// A MaxMind database (format 2.0) with an IPv6 tree of 24-bit records.
fn geoip(networks: &[(&str, &str)]) -> Result<Vec<u8>> {
    // What a side of a node leads to: another node, or an offset in the data.
    let mut nodes: Vec<[Option<Result<usize, usize>>; 2]> = vec![[None; 2]];
    let mut data = Vec::new();
    for (network, code) in networks {
        let (ip, bits) = network.split_once('/').unwrap_or((network, "128"));
        let (address, length) = match ip.parse::<IpAddr>()? {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), 96 + bits.parse::<usize>()?),
            IpAddr::V6(ip) => (u128::from(ip), bits.parse()?),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = (address >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[node][side] = Some(Err(data.len()));
            } else if let Some(Ok(next)) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([None; 2]);
                let next = nodes.len() - 1;
                nodes[node][side] = Some(Ok(next));
                node = next;
            }
        }
        mm_text(&mut data, code);
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for record in nodes.iter().flatten() {
        let value = match record {
            None => count,
            Some(Ok(next)) => *next,
            Some(Err(offset)) => count + 16 + offset,
        };
        out.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    out.push(0xe0 | 9);
    // 0xa0: a 16-bit number, 0xc0: a 32-bit number, 4 with type 2 behind it: a list.
    for (key, value) in [
        ("binary_format_major_version", 2u16),
        ("binary_format_minor_version", 0),
        ("ip_version", 6),
        ("record_size", 24),
    ] {
        mm_text(&mut out, key);
        out.push(0xa2);
        out.extend_from_slice(&value.to_be_bytes());
    }
    mm_text(&mut out, "node_count");
    out.push(0xc4);
    out.extend_from_slice(&(count as u32).to_be_bytes());
    mm_text(&mut out, "build_epoch");
    out.extend_from_slice(&[0x04, 0x02, 0x65, 0, 0, 0]);
    mm_text(&mut out, "database_type");
    mm_text(&mut out, "sing-geoip");
    mm_text(&mut out, "languages");
    out.extend_from_slice(&[2, 0x04]);
    mm_text(&mut out, "cn");
    mm_text(&mut out, "us");
    mm_text(&mut out, "description");
    out.push(0xe0);
    Ok(out)
}

#[test]
fn geoip_alike() -> Result<()> {
    let pair = Pair::new()?;
    let mut networks = vec![("2001:da8::/32".to_owned(), "cn"), ("2001:db9::/33".to_owned(), "us")];
    for n in 0..40u32 {
        let ip = Ipv4Addr::from(0x0100_0000 + n * 0x0001_1000);
        networks.push((format!("{ip}/{}", 20 + n % 5), if n % 3 == 0 { "us" } else { "cn" }));
    }
    let networks: Vec<(&str, &str)> =
        networks.iter().map(|(net, code)| (net.as_str(), *code)).collect();
    pair.write("geoip.db", geoip(&networks)?)?;
    pair.same(&["geoip", "list"])?;
    for ip in [
        "1.0.0.1",
        "1.1.16.9",
        "8.8.8.8",
        "10.0.0.1",
        "127.0.0.1",
        "::1",
        "2001:da8::1",
        "::ffff:1.0.0.1",
        "fe80::1",
        "x",
    ] {
        pair.same(&["geoip", "lookup", ip])?;
    }
    for code in ["cn", "US", "none"] {
        pair.same(&["geoip", "export", code, "-o", "stdout"])?;
    }
    pair.same(&["geoip", "export", "cn"])?;
    ensure!(pair.text("geoip-cn.json")?.contains("2001:da8::/32"));
    Ok(())
}
