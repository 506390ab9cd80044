//! Sessions that a client may resume.
//!
//! The store of rustls keeps eight tickets of a server. Each is good for one connection, so a client that opens more than
//! that at once would do full handshakes most of the time: signing, verifying and the chain are half of their cost.

use std::{collections::VecDeque, fmt};

use parking_lot::Mutex;
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// Tickets that are kept: as many connections can be opened at once without a full handshake.
const KEPT: usize = 32;

/// What one server has given us. A client has one server: what another one gives takes the place of everything.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<Held>);

#[derive(Default)]
struct Held {
    server: Option<ServerName<'static>>,
    group: Option<NamedGroup>,
    /// The session of TLS 1.2, which may be resumed many times.
    old: Option<Tls12ClientSessionValue>,
    /// Of TLS 1.3, oldest first.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Held {
    fn of(&mut self, server: ServerName<'static>) -> &mut Self {
        if self.server.as_ref() != Some(&server) {
            *self = Self { server: Some(server), ..Self::default() };
        }
        self
    }

    fn has(&self, server: &ServerName<'_>) -> bool {
        self.server.as_ref() == Some(server)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.0.lock().of(server).group = Some(group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        let held = self.0.lock();
        held.group.filter(|_| held.has(server))
    }

    fn set_tls12_session(&self, server: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.0.lock().of(server).old = Some(session);
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let held = self.0.lock();
        held.old.clone().filter(|_| held.has(server))
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        let mut held = self.0.lock();
        if held.has(server) {
            held.old = None;
        }
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut held = self.0.lock();
        let tickets = &mut held.of(server).tickets;
        if tickets.len() == KEPT {
            tickets.pop_front();
        }
        tickets.push_back(ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut held = self.0.lock();
        if held.has(server) { held.tickets.pop_back() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_takes_the_place_of_the_first() {
        let name = |text: &'static str| ServerName::try_from(text).unwrap();
        let tickets = Tickets::default();
        tickets.set_kx_hint(name("a.test"), NamedGroup::X25519);
        assert_eq!(tickets.kx_hint(&name("a.test")), Some(NamedGroup::X25519));
        assert_eq!(tickets.kx_hint(&name("b.test")), None);
        tickets.set_kx_hint(name("b.test"), NamedGroup::secp256r1);
        assert_eq!(tickets.kx_hint(&name("a.test")), None);
        assert!(tickets.take_tls13_ticket(&name("b.test")).is_none());
        assert!(tickets.tls12_session(&name("b.test")).is_none());
    }
}
