//! Answers of servers that know names rather than messages.

use std::net::IpAddr;

use crosspoint_kernel::resolve::{ExchangeError, Family, Query, ResolveError};
use crosspoint_resolver::message;
use hickory_proto::{op::ResponseCode, rr::RecordType};

/// How long an answer may be kept, in seconds, as in the reference (dns/lookup.go: DefaultTTL).
const TTL: u32 = 600;

/// Answers an address query with what `find` knows; other types have no data.
pub(crate) async fn addresses(
    query: Query<'_>,
    find: impl AsyncFnOnce(&str, Family) -> Result<Vec<IpAddr>, ResolveError>,
) -> Result<Vec<u8>, ExchangeError> {
    let query = message::read(query.message).map_err(ExchangeError::failed)?;
    let question = query.queries.first().ok_or_else(|| ExchangeError::failed("no question"))?;
    let name = question.name().to_string();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let found = match question.query_type() {
        RecordType::A => find(name, Family::V4).await,
        RecordType::AAAA => find(name, Family::V6).await,
        _ => Ok(Vec::new()),
    };
    let reply = match found {
        Ok(found) => message::reply_addresses(&query, &found, TTL),
        Err(ResolveError::NotFound { .. }) => message::reply(&query, ResponseCode::NXDomain),
        Err(error) => return Err(ExchangeError::failed(error)),
    };
    reply.to_vec().map_err(ExchangeError::failed)
}
