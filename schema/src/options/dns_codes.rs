//! Query types and response codes, by name or number (IANA's DNS parameters).

use std::borrow::Cow;
use std::fmt;

use serde_json::json;

use crate::ConfigError;
use crate::decode::{Cursor, Field};
use crate::json::{Value, compact};
use crate::json_schema::SchemaBuilder;

/// Names of types as the reference's DNS library knows them.
const TYPES: &[(u16, &str)] = &[
    (0, "None"),
    (1, "A"),
    (2, "NS"),
    (3, "MD"),
    (4, "MF"),
    (5, "CNAME"),
    (6, "SOA"),
    (7, "MB"),
    (8, "MG"),
    (9, "MR"),
    (10, "NULL"),
    (12, "PTR"),
    (13, "HINFO"),
    (14, "MINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (19, "X25"),
    (20, "ISDN"),
    (21, "RT"),
    (23, "NSAP-PTR"),
    (24, "SIG"),
    (25, "KEY"),
    (26, "PX"),
    (27, "GPOS"),
    (28, "AAAA"),
    (29, "LOC"),
    (30, "NXT"),
    (31, "EID"),
    (32, "NIMLOC"),
    (33, "SRV"),
    (34, "ATMA"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (39, "DNAME"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (56, "NINFO"),
    (57, "RKEY"),
    (58, "TALINK"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (100, "UINFO"),
    (101, "UID"),
    (102, "GID"),
    (103, "UNSPEC"),
    (104, "NID"),
    (105, "L32"),
    (106, "L64"),
    (107, "LP"),
    (108, "EUI48"),
    (109, "EUI64"),
    (128, "NXNAME"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (253, "MAILB"),
    (254, "MAILA"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
    (258, "AVC"),
    (260, "AMTRELAY"),
    (261, "RESINFO"),
    (32768, "TA"),
    (32769, "DLV"),
    (65535, "Reserved"),
];

const RCODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
    (16, "BADSIG"),
    (17, "BADKEY"),
    (18, "BADTIME"),
    (19, "BADMODE"),
    (20, "BADNAME"),
    (21, "BADALG"),
    (22, "BADTRUNC"),
    (23, "BADCOOKIE"),
];

fn name(table: &[(u16, &'static str)], number: u16) -> Option<&'static str> {
    table.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
}

fn number(table: &[(u16, &str)], word: &str) -> Option<u16> {
    table.iter().find(|(_, name)| *name == word).map(|(n, _)| *n)
}

/// A DNS type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueryType(pub u16);

impl QueryType {
    /// The type of a name in capital letters, such as `AAAA`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        number(TYPES, name).map(Self)
    }

    /// Whether the type has no name.
    #[must_use]
    pub fn is_unnamed(self) -> bool {
        name(TYPES, self.0).is_none()
    }
}

impl fmt::Display for QueryType {
    /// The name, or the number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match name(TYPES, self.0) {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Field for QueryType {
    fn absent() -> Self {
        Self(0)
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let found = match &cursor.node().value {
            Value::Number(text) => text.parse().ok().map(Self),
            Value::String(word) => Self::from_name(word),
            _ => None,
        };
        found.ok_or_else(|| {
            cursor.error(format!("unknown DNS query type: {}", compact(cursor.node())))
        })
    }

    fn to_json(&self) -> serde_json::Value {
        name(TYPES, self.0).map_or_else(|| self.0.into(), Into::into)
    }

    fn go_type() -> Cow<'static, str> {
        "option.DNSQueryType".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        let names: Vec<&str> = TYPES.iter().map(|(_, name)| *name).collect();
        json!({"anyOf": [{"enum": names}, {"type": "integer", "minimum": 0, "maximum": u16::MAX}]})
    }
}

/// A DNS response code. The reference reads any integer; only 12 bits fit into a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rcode(pub i64);

impl Rcode {
    fn name(self) -> Option<&'static str> {
        name(RCODES, u16::try_from(self.0).ok()?)
    }
}

impl fmt::Display for Rcode {
    /// The name, or the number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Field for Rcode {
    fn absent() -> Self {
        Self(0)
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if let Value::Number(text) = &cursor.node().value
            && let Ok(code) = text.parse()
        {
            return Ok(Self(code));
        }
        let word = cursor.string()?;
        number(RCODES, word)
            .map(|code| Self(code.into()))
            .ok_or_else(|| cursor.error(format!("unknown rcode: {word}")))
    }

    fn to_json(&self) -> serde_json::Value {
        self.name().map_or_else(|| self.0.into(), Into::into)
    }

    fn go_type() -> Cow<'static, str> {
        "option.DNSRCode".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        let names: Vec<&str> = RCODES.iter().map(|(_, name)| *name).collect();
        json!({"anyOf": [{"enum": names}, {"type": "integer"}]})
    }
}
