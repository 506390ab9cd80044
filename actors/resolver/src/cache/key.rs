//! What makes two queries equal.

use crate::wire::{MAX_NAME, Query, Subnet};

/// Flags, type, class, subnet, server, name.
const LONGEST: usize = 1 + 2 + 2 + 18 + 8 + MAX_NAME;

/// The key of an answer, made without allocation: everything that the answer depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Key {
    /// The key of a query that is sent with that subnet, to that server where each has a cache of its own (a hash of
    /// its tag).
    pub(crate) fn new(query: &Query<'_>, subnet: Option<&Subnet>, server: Option<u64>) -> Self {
        let mut key = Self { bytes: [0; LONGEST], length: 0 };
        let subnet = subnet.map_or(&[][..], Subnet::as_bytes);
        // The length of the subnet follows from its first two bytes; a server has eight or none.
        let flags = u8::from(query.dnssec_ok())
            | u8::from(query.unchecked()) << 1
            | u8::from(!subnet.is_empty()) << 2
            | u8::from(server.is_some()) << 3;
        key.push(&[flags]);
        key.push(&query.qtype().to_be_bytes());
        key.push(&query.qclass().to_be_bytes());
        key.push(subnet);
        if let Some(server) = server {
            key.push(&server.to_be_bytes());
        }
        let name = key.length;
        key.push(query.wire_name());
        if let Some(name) = key.bytes.get_mut(name..key.length) {
            name.make_ascii_lowercase();
        }
        key
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
            self.length = end;
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
