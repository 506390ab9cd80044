//! `geoip.db`: a MaxMind database of type `sing-geoip`, whose records are country codes.
//!
//! Source: the reference's `common/geoip` and `geoip` command.

use std::net::IpAddr;

use crosspoint_schema::{decode::Prefix, options::HeadlessMatchers};
use maxminddb::{Reader, WithinOptions};

use super::FormatError;
use crate::item::is_private;

const TYPE: &str = "sing-geoip";

/// A database.
#[derive(Debug)]
pub struct Geoip<'a>(Reader<&'a [u8]>);

impl<'a> Geoip<'a> {
    /// Reads the head of a database.
    ///
    /// # Errors
    /// Bytes that are no database, or one of another type.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let reader = Reader::from_source(bytes).map_err(|error| {
            FormatError::Message(format!(
                "error opening database: invalid MaxMind DB file: {error}"
            ))
        })?;
        let found = &reader.metadata().database_type;
        if found != TYPE {
            let message = format!("incorrect database type, expected {TYPE}, got {found}");
            return Err(FormatError::Message(message));
        }
        Ok(Self(reader))
    }

    /// The country codes that the database says it has.
    #[must_use]
    pub fn codes(&self) -> &[String] {
        &self.0.metadata().languages
    }

    /// The country of an address, `private` for one that is in none, `unknown` for one without a record.
    #[must_use]
    pub fn lookup(&self, ip: IpAddr) -> String {
        let ip = ip.to_canonical();
        if is_private(ip) {
            return "private".to_owned();
        }
        let found = self.0.lookup(ip).and_then(|result| result.decode::<String>());
        // As in the reference, a record that cannot be read is none.
        found.ok().flatten().filter(|code| !code.is_empty()).unwrap_or_else(|| "unknown".to_owned())
    }

    /// The networks of a country in the order of the database, as the matchers of one rule.
    ///
    /// # Errors
    /// A damaged database, or a country that is not in it.
    pub fn export(&self, country: &str) -> Result<HeadlessMatchers, FormatError> {
        let damaged = |error: maxminddb::MaxMindDbError| FormatError::Message(error.to_string());
        let wanted = country.to_lowercase();
        let mut matchers = HeadlessMatchers::default();
        // Nodes without a record leave the code as it was, as the reference's variable does.
        let mut code = String::new();
        for result in self.0.networks(WithinOptions::default()).map_err(damaged)? {
            let result = result.map_err(damaged)?;
            if let Some(next) = result.decode::<String>().map_err(damaged)? {
                code = next;
            }
            if code == wanted {
                let network = result.network().map_err(damaged)?;
                let prefix = Prefix { addr: network.ip(), bits: network.prefix() };
                matchers.ip_cidr.push(prefix.to_string());
            }
        }
        if matchers.ip_cidr.is_empty() {
            return Err(FormatError::Message(format!("country code not found: {country}")));
        }
        Ok(matchers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of the simplest form: IPv6 tree, 24-bit records, each prefix a path of its own.
    pub(crate) fn database(kind: &str, networks: &[(&str, &str)]) -> Vec<u8> {
        fn text(out: &mut Vec<u8>, text: &str) {
            let short = text.len().min(28);
            out.push(0x40 | short as u8);
            out.extend_from_slice(&text.as_bytes()[..short]);
        }
        // Children: node index, or !data offset.
        let mut nodes: Vec<[Option<i64>; 2]> = vec![[None; 2]];
        let mut data = Vec::new();
        for (network, code) in networks {
            let prefix = Prefix::parse(network).unwrap();
            let (bits, length) = match prefix.addr {
                IpAddr::V4(ip) => (u128::from(u32::from(ip)), 96 + usize::from(prefix.bits)),
                IpAddr::V6(ip) => (u128::from(ip), usize::from(prefix.bits)),
            };
            let offset = data.len() as i64;
            text(&mut data, code);
            let mut node = 0;
            for depth in 0..length {
                let side = (bits >> (127 - depth) & 1) as usize;
                if depth + 1 == length {
                    nodes[node][side] = Some(!offset);
                } else if let Some(next) = nodes[node][side] {
                    node = next as usize;
                } else {
                    nodes.push([None; 2]);
                    nodes[node][side] = Some(nodes.len() as i64 - 1);
                    node = nodes.len() - 1;
                }
            }
        }
        let count = nodes.len() as i64;
        let mut out = Vec::new();
        for record in nodes.iter().flatten() {
            let value = match *record {
                None => count,
                Some(next) if next >= 0 => next,
                Some(offset) => count + 16 + !offset,
            };
            out.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
        }
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        out.push(0xe0 | 9);
        for (key, size, value) in [
            ("binary_format_major_version", 0xa1u8, 2u32),
            ("binary_format_minor_version", 0xa1, 0),
            ("ip_version", 0xa1, 6),
            ("record_size", 0xa1, 24),
            ("node_count", 0xc4, count as u32),
        ] {
            text(&mut out, key);
            out.push(size);
            let bytes = value.to_be_bytes();
            out.extend_from_slice(if size == 0xa1 { &bytes[3..] } else { &bytes });
        }
        text(&mut out, "build_epoch");
        out.extend_from_slice(&[0x04, 0x02, 1, 2, 3, 4]);
        text(&mut out, "database_type");
        text(&mut out, kind);
        text(&mut out, "languages");
        out.extend_from_slice(&[2, 0x04]);
        text(&mut out, "cn");
        text(&mut out, "us");
        text(&mut out, "description");
        out.push(0xe0);
        out
    }

    #[test]
    fn looks_up_and_exports() {
        let bytes = database(
            TYPE,
            &[
                ("1.0.1.0/24", "cn"),
                ("1.0.4.0/22", "us"),
                ("9.0.0.0/8", "cn"),
                ("2001:da8::/32", "cn"),
            ],
        );
        let file = Geoip::new(&bytes).unwrap();
        assert_eq!(file.codes(), ["cn", "us"]);
        for (ip, code) in [
            ("1.0.1.9", "cn"),
            ("::ffff:1.0.1.9", "cn"),
            ("1.0.5.1", "us"),
            ("2001:da8::1", "cn"),
            ("8.8.8.8", "unknown"),
            ("10.0.0.1", "private"),
        ] {
            assert_eq!(file.lookup(ip.parse().unwrap()), code, "{ip}");
        }
        let rule = file.export("CN").unwrap();
        assert_eq!(rule.ip_cidr.0, ["1.0.1.0/24", "9.0.0.0/8", "2001:da8::/32"]);
        assert_eq!(file.export("xx").unwrap_err().to_string(), "country code not found: xx");
    }

    #[test]
    fn refuses() {
        assert!(Geoip::new(b"nothing").is_err());
        let error = Geoip::new(&database("GeoLite2", &[("1.0.0.0/8", "x")])).unwrap_err();
        assert_eq!(error.to_string(), "incorrect database type, expected sing-geoip, got GeoLite2");
    }
}
