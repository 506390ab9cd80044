//! What the log says of answers: one line for the whole and one for each record, as the reference has it.

use crosspoint_schema::options::{QueryType, Rcode};
use tracing::{Level, debug, event_enabled, info};

use crate::{
    message,
    wire::{Query, Reply},
};

/// `example.org. IN A`.
pub(crate) fn question(query: &Query<'_>) -> String {
    let name = query.name();
    let dot = if name == "." { "" } else { "." };
    let class = match query.qclass() {
        1 => "IN".to_owned(),
        3 => "CH".to_owned(),
        other => format!("CLASS{other}"),
    };
    format!("{name}{dot} {class} {}", QueryType(query.qtype()))
}

/// An answer, by what became of it: `cached`, `exchanged` or `rejected`, and for which connection.
pub(crate) fn answer(what: &str, conn: Option<u64>, query: &Query<'_>, reply: &Reply, ttl: u32) {
    if !event_enabled!(Level::INFO) {
        return;
    }
    debug!(conn, "{what} {} {} {ttl}", query.name(), Rcode(reply.rcode().into()));
    let Ok(message) = message::read(reply.wire()) else { return };
    for record in message.all_sections() {
        let kind = record.record_type();
        let (name, class, data) = (&record.name, record.dns_class, &record.data);
        info!(conn, "{what} {kind} {name} {ttl} {class} {kind} {data}");
    }
}
