use proptest::prelude::*;

use super::*;

fn packet(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

fn one(kind: u16, body: &[u8], attributes: &[Vec<u8>]) -> Message {
    let bytes = packet(kind, 0, &[body, &attributes.concat()].concat());
    let mut read = messages(&bytes);
    let (sequence, message) = read.next().unwrap();
    assert_eq!((sequence, read.next()), (7, None));
    message
}

fn number(number: u32) -> [u8; 4] {
    number.to_ne_bytes()
}

#[test]
fn links_and_addresses() {
    let mut body = vec![0; 4];
    body.extend([number(3), number(IFF_UP), number(0)].concat());
    let name = attribute(IFLA_IFNAME, b"eth0\0");
    let link = Message::Link { index: 3, name: "eth0".into(), up: true, gone: false };
    assert_eq!(one(RTM_NEWLINK, &body, &[attribute(1, b"\x02\x00\x00\x00\x00\x01"), name]), link);
    assert_eq!(one(RTM_NEWLINK, &body, &[]), Message::Other);

    let body = [&[AF_INET, 24, 0, 0], &number(3)[..]].concat();
    let (own, peer) =
        (attribute(IFA_LOCAL, &[192, 0, 2, 1]), attribute(IFA_ADDRESS, &[192, 0, 2, 9]));
    let (ip, other): (IpAddr, IpAddr) =
        ("192.0.2.1".parse().unwrap(), "192.0.2.9".parse().unwrap());
    let address = |on_link| Message::Address { index: 3, own: ip, on_link };
    assert_eq!(one(RTM_NEWADDR, &body, &[own.clone(), peer]), address((other, 24)));
    assert_eq!(one(RTM_NEWADDR, &body, &[own]), address((ip, 24)));
    let v6 = attribute(IFA_ADDRESS, &[0xfd; 16]);
    assert!(
        matches!(one(RTM_NEWADDR, &body, &[v6]), Message::Address { own, .. } if own.is_ipv6())
    );
}

#[test]
fn only_default_routes_of_the_main_table_count() {
    let body = |destination: u8, kind: u8, flags: u32| {
        [&[AF_INET, destination, 0, 0, 254, 0, 0, kind], &number(flags)[..]].concat()
    };
    let (oif, metric) = (attribute(RTA_OIF, &number(3)), attribute(RTA_PRIORITY, &number(100)));
    let both = [oif.clone(), metric.clone()];
    let route = |index, dead| Message::DefaultRoute { v6: false, index, metric: 100, dead };
    assert_eq!(one(RTM_NEWROUTE, &body(0, 1, 0), &both), route(3, false));
    assert_eq!(one(RTM_NEWROUTE, &body(0, 1, 0x10), &both), route(3, true));
    assert_eq!(one(RTM_NEWROUTE, &body(24, 1, 0), &both), Message::OtherRoute);
    assert_eq!(one(RTM_NEWROUTE, &body(0, 7, 0), &both), Message::OtherRoute);
    let elsewhere = [oif, metric.clone(), attribute(RTA_TABLE, &number(2022))];
    assert_eq!(one(RTM_NEWROUTE, &body(0, 1, 0), &elsewhere), Message::OtherRoute);
    assert_eq!(
        one(RTM_NEWROUTE, &body(0, 1, 0), std::slice::from_ref(&metric)),
        Message::OtherRoute
    );

    let hop = |flags: u8, index: u32| [&[8, 0, flags, 0], &number(index)[..]].concat();
    let several = attribute(RTA_MULTIPATH, &[hop(0x10, 4), hop(0, 5), hop(0, 6)].concat());
    assert_eq!(one(RTM_NEWROUTE, &body(0, 1, 0), &[several, metric.clone()]), route(5, false));
    let dead = attribute(RTA_MULTIPATH, &[hop(0x10, 4), hop(1, 5)].concat());
    assert_eq!(one(RTM_NEWROUTE, &body(0, 1, 0), &[dead, metric]), route(4, true));
}

#[test]
fn ends_are_told() {
    let done = [packet(NLMSG_DONE, 2, &number(0)), packet(NLMSG_DONE, 0x12, &number(0))].concat();
    let read: Vec<_> = messages(&done).map(|(_, message)| message).collect();
    assert_eq!(read, [Message::Done { torn: false }, Message::Done { torn: true }]);
    let refused = packet(NLMSG_ERROR, 0, &(-1_i32).to_ne_bytes());
    assert_eq!(messages(&refused).next().unwrap().1, Message::Error(1));
    assert_eq!(request(Dump::Links, 1).len(), 32);
    assert_eq!(request(Dump::Routes6, 1).len(), 28);
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..30_u16) {
        prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        let _ = messages(&packet(kind, 0, &bytes)).count();
    }
}
