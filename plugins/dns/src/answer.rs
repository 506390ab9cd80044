//! Queries and answers of servers that know names rather than messages.

#[cfg(any(feature = "fakeip", feature = "hosts", feature = "local"))]
use std::net::IpAddr;

use crosspoint_kernel::resolve::{ExchangeError, Family, Query};
use crosspoint_resolver::message;
use hickory_proto::{op::Message, rr::RecordType};

/// How long an answer may be kept, in seconds, as in the reference (constant/dns.go: DefaultDNSTTL).
#[cfg(any(feature = "fakeip", feature = "hosts", feature = "local"))]
const TTL: u32 = 600;

/// A query, and what it asks.
pub(crate) struct Asked {
    /// The query with its first question only: nobody answers more than one.
    pub(crate) message: Message,
    /// The name in lower case, without the final dot, with `xn--` labels as they are.
    pub(crate) name: String,
    /// The family, if addresses are asked for.
    pub(crate) family: Option<Family>,
}

impl Asked {
    /// Reads a query.
    ///
    /// # Errors
    /// It is no DNS message, or it asks nothing.
    pub(crate) fn read(query: Query<'_>) -> Result<Self, ExchangeError> {
        let mut message = message::read(query.message).map_err(ExchangeError::failed)?;
        message.queries.truncate(1);
        let question =
            message.queries.first().ok_or_else(|| ExchangeError::failed("no question"))?;
        let family = match question.query_type() {
            RecordType::A => Some(Family::V4),
            RecordType::AAAA => Some(Family::V6),
            _ => None,
        };
        // Not Display, which turns `xn--` labels into Unicode.
        let name = canonical(&question.name().to_ascii());
        Ok(Self { message, name, family })
    }

    /// Whether the name is one that is never asked of the DNS, and does not exist there (RFC 7686 §2).
    #[cfg(any(feature = "dhcp", feature = "local"))]
    pub(crate) fn is_onion(&self) -> bool {
        self.name == "onion" || self.name.ends_with(".onion")
    }

    /// The answer with those of `addresses` that are of the family asked for; none is an answer, too.
    #[cfg(any(feature = "fakeip", feature = "hosts", feature = "local"))]
    pub(crate) fn addresses(&self, addresses: &[IpAddr]) -> Result<Vec<u8>, ExchangeError> {
        let fits = |ip: &&IpAddr| match self.family {
            Some(Family::V4) => ip.is_ipv4(),
            Some(Family::V6) => ip.is_ipv6(),
            None => false,
        };
        let found: Vec<IpAddr> = addresses.iter().filter(fits).copied().collect();
        send(message::reply_addresses(&self.message, &found, TTL))
    }

    /// The answer that there is no such name.
    #[cfg(any(feature = "dhcp", feature = "hosts", feature = "local"))]
    pub(crate) fn no_such_name(&self) -> Result<Vec<u8>, ExchangeError> {
        send(message::reply(&self.message, hickory_proto::op::ResponseCode::NXDomain))
    }
}

/// We know best, and say so.
fn send(mut reply: Message) -> Result<Vec<u8>, ExchangeError> {
    reply.metadata.authoritative = true;
    reply.to_vec().map_err(ExchangeError::failed)
}

/// Lower case, without the final dot.
pub(crate) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
