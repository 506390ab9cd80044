//! One look at the network.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use crosspoint_kernel::net::monitor::{DefaultRoute, Interface, NetworkState};

use crate::{
    socket::Questions,
    wire::{Dump, Message},
};

/// Looks, on a thread that may block.
pub(crate) async fn look() -> io::Result<NetworkState> {
    let work = || {
        let mut questions = Questions::open()?;
        let mut messages = questions.ask(Dump::Links)?;
        for what in [Dump::Addresses, Dump::Routes4, Dump::Routes6] {
            match questions.ask(what) {
                Ok(answer) => messages.extend(answer),
                // A system without IPv6 knows no such routes.
                Err(_) if what == Dump::Routes6 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(picture(messages))
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// The picture that messages make.
fn picture(messages: Vec<Message>) -> NetworkState {
    let mut interfaces = BTreeMap::new();
    let mut addresses: Vec<(u32, IpAddr, (IpAddr, u8))> = Vec::new();
    let mut routes = Vec::new();
    for message in messages {
        match message {
            Message::Link { index, name, up, gone: false } => {
                let name: Arc<str> = name.into();
                interfaces.insert(index, Interface { index, name, up, addresses: Vec::new() });
            }
            Message::Address { index, own, on_link } => addresses.push((index, own, on_link)),
            Message::DefaultRoute { v6, index, metric, dead } => {
                routes.push((v6, dead, metric, index));
            }
            _ => {}
        }
    }
    for (index, own, on_link) in addresses {
        let Some(interface) = interfaces.get_mut(&index) else { continue };
        interface.addresses.push(on_link);
        if on_link.0 != own {
            // The peer is on the link; we are our own address only.
            interface.addresses.push((own, if own.is_ipv4() { 32 } else { 128 }));
        }
    }
    // Ways that work before those that do not, then the lowest metric, then the first.
    let default = |of_v6: bool| {
        let ways = routes.iter().filter(|(v6, _, _, index)| {
            *v6 == of_v6 && interfaces.get(index).is_some_and(|interface| interface.up)
        });
        let best = ways.min_by_key(|(_, dead, metric, _)| (*dead, *metric))?;
        let interface = interfaces.get(&best.3)?;
        Some(DefaultRoute { index: interface.index, name: interface.name.clone() })
    };
    let (default4, default6) = (default(false), default(true));
    NetworkState { interfaces: interfaces.into_values().collect(), default4, default6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, up: bool) -> Message {
        Message::Link { index, name: name.into(), up, gone: false }
    }

    fn route(v6: bool, index: u32, metric: u32, dead: bool) -> Message {
        Message::DefaultRoute { v6, index, metric, dead }
    }

    #[test]
    fn the_best_way_that_works_is_the_default() {
        let links = || {
            vec![link(1, "lo", true), link(2, "a", true), link(3, "b", true), link(4, "c", false)]
        };
        let default = |routes: &[Message]| {
            let state = picture([links(), routes.to_vec()].concat());
            (state.default4.map(|route| route.index), state.default6.map(|route| route.index))
        };
        assert_eq!(default(&[]), (None, None));
        assert_eq!(
            default(&[route(false, 2, 600, false), route(false, 3, 100, false)]),
            (Some(3), None)
        );
        assert_eq!(
            default(&[route(false, 2, 600, false), route(false, 3, 100, true)]),
            (Some(2), None)
        );
        assert_eq!(default(&[route(false, 3, 100, true)]), (Some(3), None));
        assert_eq!(
            default(&[route(true, 3, 0, false), route(false, 2, 0, false)]),
            (Some(2), Some(3))
        );
        // Down, and unknown.
        assert_eq!(default(&[route(false, 4, 0, false), route(false, 9, 0, false)]), (None, None));
    }

    #[test]
    fn peers_are_on_the_link() {
        let (own, peer): (IpAddr, IpAddr) =
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let state = picture(vec![
            link(5, "ppp0", true),
            Message::Address { index: 5, own, on_link: (peer, 32) },
            Message::Address { index: 9, own, on_link: (own, 24) },
        ]);
        assert_eq!(state.interfaces[0].addresses, [(peer, 32), (own, 32)]);
        assert_eq!(state.on_link(peer).unwrap().index, 5);
        assert_eq!(state.on_link(own).unwrap().index, 5);
    }

    #[tokio::test]
    async fn this_machine_can_be_looked_at() {
        let state = look().await.unwrap();
        let lo = state.interfaces.iter().find(|interface| &*interface.name == "lo").unwrap();
        assert_eq!(lo.index, 1);
        if lo.up {
            assert!(lo.addresses.contains(&("127.0.0.1".parse().unwrap(), 8)));
        }
    }
}
