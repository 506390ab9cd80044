use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(Key)
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

#[test]
fn lengths_are_bounded_before_the_bytes_are_there() {
    let head = |kind, len: usize| head(kind, len);
    assert_eq!(FromClient::next(&[]), Ok(Step::Need(5)));
    assert_eq!(FromClient::next(&head(kind::SEND, 33)), Ok(Step::Need(38)));
    assert_eq!(
        FromClient::next(&head(kind::SEND, 32 + MAX_PACKET)),
        Ok(Step::Need(MAX_FRAME - 32))
    );
    for (kind, len) in [
        (kind::SEND, 31),
        (kind::SEND, 33 + MAX_PACKET),
        (kind::FORWARD, 63),
        (kind::FORWARD, 65 + MAX_PACKET),
        (kind::NOTE_PREFERRED, 0),
        (kind::NOTE_PREFERRED, 2),
        (kind::WATCH, 1),
        (kind::CLOSE_PEER, 33),
        (kind::PING, 7),
        (kind::PING, 1001),
    ] {
        assert!(FromClient::next(&head(kind, len)).is_err(), "{kind} {len}");
    }
    // Whatever comes one day.
    assert_eq!(FromClient::next(&head(0x77, 1 << 30)), Ok(Step::Skip(5 + (1 << 30))));
    // What only servers say is of no interest from a client.
    assert_eq!(FromClient::next(&head(kind::KEEP_ALIVE, 0)), Ok(Step::Skip(5)));
    assert!(FromServer::next(&head(kind::RECEIVE, 31)).is_err());
    assert!(FromServer::next(&head(kind::HEALTH, 1 << 20)).is_err());
}

#[test]
fn old_servers_say_less() {
    let mut bytes = Vec::new();
    emit(&mut bytes, kind::PEER_GONE, &[&[7; 32]]);
    let gone = FromServer::PeerGone(Key([7; 32]), Gone::Disconnected);
    assert_eq!(FromServer::next(&bytes), Ok(Step::Frame(gone, 37)));
    bytes.clear();
    emit(&mut bytes, kind::PEER_PRESENT, &[&[7; 32]]);
    let there = FromServer::PeerPresent { key: Key([7; 32]), addr: None, flags: 0 };
    assert_eq!(FromServer::next(&bytes), Ok(Step::Frame(there, 37)));
}

#[test]
fn disco_is_told_from_other_packets() {
    let mut packet = b"TS\xf0\x9f\x92\xac".to_vec();
    packet.resize(62, 0);
    assert!(is_disco(&packet));
    assert!(!is_disco(&packet[..61]));
    packet[0] = b'X';
    assert!(!is_disco(&packet));
}

proptest! {
    #[test]
    fn clients_are_understood(to in key(), from in key(), packet in packet(), data: [u8; 8], yes: bool, rest: Vec<u8>) {
        for frame in [
            FromClient::Send { to, packet: &packet },
            FromClient::Forward { from, to, packet: &packet },
            FromClient::NotePreferred(yes),
            FromClient::Watch,
            FromClient::ClosePeer(to),
            FromClient::Ping(data),
            FromClient::Pong(data),
        ] {
            let mut bytes = Vec::new();
            frame.emit(&mut bytes);
            let len = bytes.len();
            prop_assert_eq!(FromClient::next(&bytes[..len - 1]).ok(), Some(Step::Need(len.max(5))));
            bytes.extend(&rest);
            prop_assert_eq!(FromClient::next(&bytes), Ok(Step::Frame(frame, len)));
        }
    }

    #[test]
    fn servers_are_understood(from in key(), packet in packet(), data: [u8; 8], a: u32, b: u32, v6: bool, ip: [u8; 16], port: u16, flags: u8) {
        let ip = if v6 { IpAddr::from(ip).to_canonical() } else { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) };
        let info = [packet.as_slice(), &[0; crate::naclbox::OVERHEAD]].concat();
        for frame in [
            FromServer::Info(&info),
            FromServer::Receive { from, packet: &packet },
            FromServer::KeepAlive,
            FromServer::PeerGone(from, Gone::of(flags)),
            FromServer::PeerPresent { key: from, addr: Some(SocketAddr::new(ip, port)), flags },
            FromServer::Ping(data),
            FromServer::Pong(data),
            FromServer::Health(&packet),
            FromServer::Restarting { reconnect_in: a, try_for: b },
        ] {
            let mut bytes = Vec::new();
            frame.emit(&mut bytes);
            prop_assert_eq!(FromServer::next(&bytes), Ok(Step::Frame(frame, bytes.len())));
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = FromClient::next(&bytes);
        let _ = FromServer::next(&bytes);
    }
}
