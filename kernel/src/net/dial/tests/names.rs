//! Names, detours and associations.

use crosspoint_schema::options::{DomainResolver as Named, DomainStrategy, NetworkStrategy};

use super::*;
use crate::{
    flow::{Batch, BoxPacketIo},
    net::testkit::Fixed,
    resolve::Strategy,
    snapshot::DomainResolver,
};

#[tokio::test]
async fn the_resolver_is_the_one_named_first() {
    let (_listener, addr) = server("127.0.0.1:0");
    let names = vec![("a.test", vec!["127.0.0.1"])];
    let route = DomainResolver {
        server: "route".into(),
        strategy: Some(Strategy::PreferIpv6),
        disable_cache: true,
        rewrite_ttl: None,
        client_subnet: None,
    };
    let asked = |kit: Kit, options: DialOptions| async move {
        let dialer = Dialer::new(&options, &kit.cx()).unwrap();
        connect(&dialer, &Target::new("a.test", addr.port())).await.unwrap();
        kit.asked.lock().take().unwrap()
    };
    let kit = |dns: &[&'static str], resolver: Option<&DomainResolver>| Kit {
        names: names.clone(),
        dns: dns.to_vec(),
        defaults: RouteDefaults { domain_resolver: resolver.cloned(), ..none() },
        ..Kit::default()
    };
    let own = || DialOptions { domain_resolver: Some(Named::tag("own")), ..Default::default() };
    let legacy = |o| DialOptions { domain_strategy: DomainStrategy::Ipv4Only, ..o };

    let both = || kit(&["own", "route"], Some(&route));
    assert_eq!(asked(both(), own()).await, (Some("own".into()), None, false));
    assert_eq!(
        asked(both(), legacy(own())).await,
        (Some("own".into()), Some(Strategy::Ipv4Only), false)
    );
    let default = DialOptions::default;
    assert_eq!(
        asked(both(), default()).await,
        (Some("route".into()), Some(Strategy::PreferIpv6), true)
    );
    assert_eq!(
        asked(both(), legacy(default())).await,
        (Some("route".into()), Some(Strategy::Ipv4Only), true)
    );
    assert_eq!(asked(kit(&["only"], None), default()).await, (Some("only".into()), None, false));
    assert_eq!(asked(kit(&["a", "b"], None), default()).await, (None, None, false));
    assert_eq!(asked(kit(&[], None), default()).await, (None, None, false));
}

#[tokio::test]
async fn a_missing_resolver_is_found_while_building() {
    let kit =
        Kit { names: vec![("a.test", vec!["127.0.0.1"])], dns: vec!["a", "b"], ..Kit::default() };
    let with = |options: &DialOptions, resolver, server| {
        let setup = Setup { server: Some(server), resolver, ..Setup::default() };
        Dialer::with(options, &kit.cx(), setup)
    };
    let build = |options: &DialOptions, resolver, server| {
        with(options, resolver, server).err().map(|e| e.to_string())
    };
    let missing = "missing domain resolver for domain server address";
    let plain = DialOptions::default();
    assert_eq!(build(&plain, ResolverRule::Own, "a.test").unwrap(), missing);
    assert_eq!(build(&plain, ResolverRule::Own, "192.0.2.1"), None);
    // What `route` says is not known before the dial.
    let strict = with(&plain, ResolverRule::Strict, "a.test").unwrap();
    let error = connect(&strict, &Target::new("a.test", 1)).await.err().unwrap();
    assert_eq!(error.to_string(), missing);
    let lenient = with(&plain, ResolverRule::Lenient, "a.test").unwrap();
    let error = connect(&lenient, &Target::new("a.test", 1)).await.err().unwrap();
    assert_eq!(error.class, DialClass::Refused);
    let named =
        |tag: &str| DialOptions { domain_resolver: Some(Named::tag(tag)), ..Default::default() };
    assert_eq!(build(&named("a"), ResolverRule::Own, "a.test"), None);
    assert_eq!(
        build(&named("nope"), ResolverRule::Lenient, "a.test").unwrap(),
        "domain resolver not found: nope"
    );
}

#[tokio::test]
async fn addresses_that_a_rule_resolved_are_used() {
    let (listener, addr) = server("127.0.0.1:0");
    let kit = Kit::default();
    let cx = kit.cx();
    let target = Target::new("a.test", addr.port());
    let mut session = Session::new(1, cx.me.clone(), Network::Tcp, addr, target.clone());
    session.resolved = vec![addr.ip()];
    let dialer = Dialer::new(&DialOptions::default(), &cx).unwrap();
    let dial = Dial { session: Some(&session), ..Dial::internal(&target) };
    dialer.connect(dial).await.unwrap();
    listener.accept().unwrap();
    // The server of a proxy is another destination.
    let other = Target::new("proxy.test", addr.port());
    let error = dialer.connect(dial.to(&other)).await.err().unwrap();
    assert_eq!(error.to_string(), "lookup proxy.test: no such host");
    assert_eq!(error.class, DialClass::HostUnreachable);
}

#[tokio::test]
async fn a_detour_gets_names_unless_a_resolver_is_named() {
    let (_listener, addr) = server("127.0.0.1:0");
    let via = Fixed::new(addr, false);
    let kit = Kit {
        names: vec![("a.test", vec!["192.0.2.7"])],
        dns: vec!["d"],
        outbounds: vec![("via", via.clone()), ("empty", Fixed::new(addr, true))],
        ..Kit::default()
    };
    let cx = kit.cx();
    // The interface is ignored: it does not exist.
    let options = |detour: &str| DialOptions {
        detour: detour.into(),
        bind_interface: "none0".into(),
        network_strategy: Some(NetworkStrategy::Default),
        ..Default::default()
    };
    let target = Target::new("a.test", 80);
    connect(&Dialer::new(&options("via"), &cx).unwrap(), &target).await.unwrap();
    let named = DialOptions { domain_resolver: Some(Named::tag("d")), ..options("via") };
    connect(&Dialer::new(&named, &cx).unwrap(), &target).await.unwrap();
    let setup = Setup { resolve_before_detour: true, ..Setup::default() };
    connect(&Dialer::with(&options("via"), &cx, setup).unwrap(), &target).await.unwrap();
    assert_eq!(*via.asked.lock(), ["a.test:80", "192.0.2.7:80", "192.0.2.7:80"]);
    via.asked.lock().clear();
    for options in [options("via"), named] {
        let dialer = Dialer::new(&options, &cx).unwrap();
        assert!(dialer.associate(Dial::internal(&target)).await.is_err());
    }
    assert_eq!(*via.asked.lock(), ["a.test:80", "192.0.2.7:80"]);

    let dialer = Dialer::new(&options("empty"), &cx).unwrap();
    let error = connect(&dialer, &target).await.err().unwrap();
    assert_eq!(error.to_string(), "detour to an empty direct outbound makes no sense");
    assert_eq!(dialer.udp_bind(None).await.unwrap_err().class, DialClass::Unsupported);
    let error = Dialer::new(&options("nope"), &cx).err().unwrap();
    assert_eq!(error.to_string(), "outbound detour not found: nope");
}

#[test]
fn a_network_strategy_conflicts_with_binding() {
    let text = "`network_strategy` is conflict with `bind_interface`, `inet4_bind_address`, \
                `inet6_bind_address` and `tcp_fast_open`";
    let strategy = Some(NetworkStrategy::Fallback);
    let bound = DialOptions { bind_interface: "lo".into(), ..Default::default() };
    let lazy = DialOptions { tcp_fast_open: true, ..Default::default() };
    for options in [bound, lazy] {
        assert!(validate(&options).is_ok());
        let both = DialOptions { network_strategy: strategy, ..options };
        assert_eq!(validate(&both).unwrap_err().to_string(), text);
    }
    assert!(validate(&DialOptions { network_strategy: strategy, ..Default::default() }).is_ok());
}

async fn send(packets: &mut BoxPacketIo, peer: &Target) {
    let mut batch = Batch::new();
    assert!(batch.push(b"ping", peer.clone()));
    std::future::poll_fn(|cx| packets.poll_send(cx, &mut batch)).await.unwrap();
}

/// Receives one packet: whom it comes from.
async fn receive(packets: &mut BoxPacketIo) -> Target {
    let mut batch = Batch::new();
    let receive = std::future::poll_fn(|cx| packets.poll_recv(cx, &mut batch));
    tokio::time::timeout(Duration::from_secs(2), receive).await.expect("a reply").unwrap();
    batch.peer(0).clone()
}

/// Answers each packet.
async fn echo(addr: &str) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind(addr).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 16];
        while let Ok((len, peer)) = socket.recv_from(&mut buf).await {
            let _ = socket.send_to(&buf[..len], peer).await;
        }
    });
    addr
}

#[tokio::test]
async fn associations_reach_names_and_addresses() {
    let (four, six) = (echo("127.0.0.1:0").await, echo("[::1]:0").await);
    let kit = Kit {
        names: vec![("four.test", vec!["127.0.0.1"]), ("six.test", vec!["::1"])],
        ..Kit::default()
    };
    let cx = kit.cx();
    let dialer = Dialer::new(&DialOptions::default(), &cx).unwrap();
    let name4 = Target::new("four.test", four.port());
    let name6 = Target::new("six.test", six.port());
    for (first, peers) in [
        (Target::from(four), vec![Target::from(four), name4.clone()]),
        (name4.clone(), vec![name4.clone()]),
        (Target::from(six), vec![Target::from(six), name6.clone(), Target::from(four)]),
        (name6.clone(), vec![name6.clone(), name4.clone()]),
        (
            Target::unspecified(),
            vec![Target::from(four), Target::from(six), name4.clone(), name6.clone()],
        ),
    ] {
        let mut packets = dialer.associate(Dial::internal(&first)).await.unwrap();
        for peer in peers {
            send(&mut packets, &peer).await;
            assert_eq!(receive(&mut packets).await, peer, "first destination {first}");
        }
    }
    let nowhere = Target::new("none.test", 1);
    let error = dialer.associate(Dial::internal(&nowhere)).await.err().unwrap();
    assert_eq!(error.to_string(), "lookup none.test: no such host");
}

#[tokio::test]
async fn a_session_may_ask_for_a_connected_socket() {
    let addr = echo("127.0.0.1:0").await;
    let kit = Kit { names: vec![("a.test", vec!["127.0.0.1"])], ..Kit::default() };
    let cx = kit.cx();
    let dialer = Dialer::new(&DialOptions::default(), &cx).unwrap();
    let target = Target::new("a.test", addr.port());
    let mut session = Session::new(1, cx.me.clone(), Network::Udp, addr, target.clone());
    session.udp.connect = true;
    let dial = Dial { session: Some(&session), ..Dial::internal(&target) };
    let mut packets = dialer.associate(dial).await.unwrap();
    // Whatever the packet names, it goes to the peer.
    send(&mut packets, &Target::new("192.0.2.1", 1)).await;
    assert_eq!(receive(&mut packets).await, target);

    let mut plain = session.clone();
    plain.udp.disable_domain_unmapping = true;
    let dial = Dial { session: Some(&plain), ..Dial::internal(&target) };
    let mut packets = dialer.associate(dial).await.unwrap();
    send(&mut packets, &target).await;
    assert_eq!(receive(&mut packets).await, Target::from(addr));

    // Behind a detour, and for one server.
    let mut packets = dialer.associate_connected(Dial::internal(&addr.into())).await.unwrap();
    send(&mut packets, &target).await;
    assert_eq!(receive(&mut packets).await, Target::from(addr));
}
