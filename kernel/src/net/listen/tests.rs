//! Every listen option, by what the socket says of itself, and what reloading does to it.

use std::net::{IpAddr, Ipv4Addr};

use crosspoint_schema::{
    decode::{Addr, Duration as Span, Mark, UdpTimeout},
    options::{DomainStrategy, InboundLegacyOptions},
};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::*;
use crate::{
    component::{Claim, Claims, Deps},
    net::{
        sockopt::mtu_discover,
        testkit::{Kit, Netns, privileged},
    },
    session::Session,
};

fn cx() -> BuildCx {
    Kit::default().cx()
}

fn tcp(options: &ListenOptions, cx: &BuildCx) -> Arc<TcpListener> {
    tcp_listener(options, cx).unwrap().activate(cx).unwrap().listener
}

fn default() -> ListenOptions {
    ListenOptions::default()
}

#[tokio::test]
async fn accepted_sockets_inherit_the_options_of_the_listener() {
    let cx = cx();
    let options = ListenOptions {
        tcp_keep_alive: Span::from_secs(120),
        tcp_keep_alive_interval: Span::from_secs(7),
        ..default()
    };
    let listener = tcp(&options, &cx);
    let addr = listener.local_addr().unwrap();
    assert_eq!(addr.ip(), IpAddr::from(Ipv4Addr::LOCALHOST), "loopback is the default");
    let accept = async || {
        let _client = TcpStream::connect(addr).await.unwrap();
        listener.accept().await.unwrap().0
    };
    let socket = accept().await;
    let socket = SockRef::from(&socket);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 120);
    assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 7);

    // The successor's options are set when it takes over, not before.
    let off = ListenOptions { tcp_keep_alive: Span(-1), ..default() };
    let next = tcp_listener(&off, &cx).unwrap();
    assert!(Arc::ptr_eq(&next, &listener));
    assert!(SockRef::from(&accept().await).keepalive().unwrap());
    next.tune().unwrap();
    assert!(!SockRef::from(&accept().await).keepalive().unwrap());
    tcp(&default(), &cx);
    let socket = accept().await;
    assert_eq!(SockRef::from(&socket).tcp_keepalive_time().unwrap(), KEEP_ALIVE_IDLE);
    assert_eq!(SockRef::from(&socket).tcp_keepalive_interval().unwrap(), KEEP_ALIVE_INTERVAL);
}

#[tokio::test]
async fn changeable_options_come_and_go() {
    let cx = cx();
    let plain = ListenOptions { listen: Addr::parse("0.0.0.0").ok(), ..default() };
    let mut full = ListenOptions {
        bind_interface: "lo".into(),
        reuse_addr: true,
        tcp_fast_open: true,
        udp_fragment: Some(true),
        ..plain.clone()
    };
    if privileged("changeable_options_come_and_go, the mark") {
        full.routing_mark = Mark(5);
    }
    for (options, set) in [(&plain, false), (&full, true), (&plain, false)] {
        let listener = tcp(options, &cx);
        let socket = SockRef::from(&*listener);
        assert_eq!(socket.device().unwrap().is_some(), set);
        assert_eq!(socket.mark().unwrap(), if set { full.routing_mark.0 } else { 0 });
        assert!(socket.reuse_address().unwrap(), "as Go sets it for every listener");
        assert_eq!(socket.reuse_port().unwrap(), set);
        assert_eq!(sockopt::fast_open_queue(&*listener).unwrap() > 0, set);

        let udp = udp_socket(options, &cx, false).unwrap();
        udp.tune().unwrap();
        let socket = SockRef::from(&**udp);
        assert_eq!(socket.device().unwrap().is_some(), set);
        assert_eq!(socket.mark().unwrap(), if set { full.routing_mark.0 } else { 0 });
        assert_eq!((socket.reuse_address().unwrap(), socket.reuse_port().unwrap()), (set, set));
        let wanted = if set { libc::IP_PMTUDISC_WANT } else { libc::IP_PMTUDISC_DO };
        assert_eq!(mtu_discover(&**udp).unwrap(), wanted);
        assert!(socket.broadcast().unwrap());
    }
    assert_eq!(cx.plane.vault.len(), 2);
    // Loopback belongs to no interface.
    let local = ListenOptions { bind_interface: "none0".into(), ..default() };
    assert_eq!(SockRef::from(&*tcp(&local, &self::cx())).device().unwrap(), None);
    // QUIC inbounds fragment unless told otherwise.
    let udp = udp_socket(&default(), &self::cx(), true).unwrap();
    assert_eq!(mtu_discover(&**udp).unwrap(), libc::IP_PMTUDISC_WANT);
}

#[tokio::test]
async fn a_reload_with_impossible_options_fails_before_anything_is_touched() {
    let cx = cx();
    let plain = ListenOptions { listen: Addr::parse("0.0.0.0").ok(), ..default() };
    let listener = tcp(&plain, &cx);
    let wrong = ListenOptions { bind_interface: "none0".into(), ..plain };
    assert!(tcp_listener(&wrong, &cx).is_err());
    assert_eq!(SockRef::from(&*listener).device().unwrap(), None);
}

#[tokio::test]
async fn the_unspecified_ipv6_address_takes_both_families() {
    let options = ListenOptions { listen: Addr::parse("::").ok(), ..default() };
    let cx = cx();
    let listener = tcp(&options, &cx);
    let udp = udp_socket(&options, &cx, false).unwrap();
    let port = listener.local_addr().unwrap().port();
    for ip in ["127.0.0.1", "::1"] {
        TcpStream::connect((ip, port)).await.unwrap();
        listener.accept().await.unwrap();
        let local = tokio::net::UdpSocket::bind((ip, 0)).await.unwrap();
        local.send_to(b"x", (ip, udp.local_addr().unwrap().port())).await.unwrap();
        assert_eq!(udp.recv_from(&mut [0; 2]).await.unwrap().0, 1);
    }
    assert_eq!(mtu_discover(&**udp).unwrap(), libc::IP_PMTUDISC_DO);
}

#[tokio::test]
async fn ports_and_their_owners() {
    let kit = Kit::default();
    let cx = kit.cx();
    // Port 0: each component has its own, and keeps it over a reload.
    let first = tcp(&default(), &cx);
    assert!(Arc::ptr_eq(&first, &tcp(&default(), &cx)));
    let mut other = cx.clone();
    other.me = kit.cx().me;
    assert!(!Arc::ptr_eq(&first, &tcp(&default(), &other)));
    // A port in use by somebody else.
    let taken = first.local_addr().unwrap();
    let options = ListenOptions { listen_port: taken.port(), ..default() };
    let error = tcp_listener(&options, &kit.cx()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("listen tcp {taken}: Address already in use")), "{error}");
    // Unless both sides allow it.
    let shared = ListenOptions { reuse_addr: true, ..default() };
    let (a, b) = (kit.cx(), kit.cx());
    let port = tcp(&shared, &a).local_addr().unwrap().port();
    tcp(&ListenOptions { listen_port: port, ..shared }, &b);
}

#[tokio::test]
async fn multipath_tcp_is_accepted() {
    let options = ListenOptions { tcp_multi_path: true, ..default() };
    let cx = cx();
    let listener = tcp(&options, &cx);
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default();
    let wanted = if enabled.trim() == "1" { Protocol::MPTCP } else { Protocol::TCP };
    assert_eq!(SockRef::from(&*listener).protocol().unwrap(), Some(wanted));
    TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (plain, _) = listener.accept().await.unwrap();
    assert!(SockRef::from(&plain).tcp_nodelay().unwrap());
    // It cannot be changed on a bound socket: another key.
    assert!(!Arc::ptr_eq(&listener, &tcp(&default(), &cx)));
}

#[tokio::test]
async fn listeners_stand_in_the_name_space() {
    if !privileged("listeners_stand_in_the_name_space") {
        return;
    }
    let netns = Netns::new(&[]);
    let options = ListenOptions { netns: netns.0.clone(), ..default() };
    let cx = cx();
    let listener = tcp(&options, &cx);
    let addr = listener.local_addr().unwrap();
    udp_socket(&options, &cx, false).unwrap();
    netns.run(|| std::net::TcpStream::connect(addr).unwrap());
    assert!(std::net::TcpStream::connect(addr).is_err());
    let missing = ListenOptions { netns: "cp-none".into(), ..default() };
    let error = tcp_listener(&missing, &cx).unwrap_err().to_string();
    assert!(error.contains("get netns cp-none: no such file"), "{error}");
}

#[test]
fn removed_options_are_refused() {
    for options in [
        ListenOptions { proxy_protocol: true, ..default() },
        ListenOptions { proxy_protocol_accept_no_header: true, ..default() },
    ] {
        let error = validate(&options).unwrap_err().to_string();
        assert_eq!(error, "Proxy Protocol is deprecated and removed in sing-box 1.6.0");
    }
}

#[test]
fn claims_and_deps_name_what_is_held() {
    let options = ListenOptions {
        listen_port: 1080,
        netns: "n".into(),
        legacy: InboundLegacyOptions { detour: "other".into(), ..Default::default() },
        ..default()
    };
    let mut claims = Claims::default();
    super::claims(&options, &[Network::Tcp, Network::Udp], &mut claims);
    let addr = "127.0.0.1:1080".parse().unwrap();
    let netns: Option<Box<str>> = Some("n".into());
    assert_eq!(claims.0, [Claim::TcpListen(addr, netns.clone()), Claim::UdpListen(addr, netns)]);
    let mut claims = Claims::default();
    super::claims(&default(), &[Network::Tcp], &mut claims);
    assert!(claims.0.is_empty());
    let mut deps = Deps::default();
    super::deps(&options, &mut deps);
    assert_eq!(deps.0, [crate::component::Dep::Inbound("other".into())]);
}

#[test]
fn old_fields_reach_the_session() {
    let options = ListenOptions {
        udp_timeout: UdpTimeout(Span::from_secs(30)),
        legacy: InboundLegacyOptions {
            sniff: true,
            sniff_override_destination: true,
            sniff_timeout: Span::from_millis(700),
            domain_strategy: DomainStrategy::PreferIpv6,
            udp_disable_domain_unmapping: true,
            detour: "other".into(),
        },
        ..default()
    };
    let session = || {
        let addr = "192.0.2.1:1".parse().unwrap();
        Session::new(1, cx().me, Network::Udp, addr, addr.into())
    };
    let mut new = session();
    SessionDefaults::new(&options).apply(&mut new);
    assert_eq!(new.detour.as_deref(), Some("other"));
    assert_eq!(new.udp.timeout, Some(Duration::from_secs(30)));
    assert!(new.udp.disable_domain_unmapping);
    let legacy = new.legacy.unwrap();
    assert!(legacy.sniff && legacy.sniff_override_destination);
    assert_eq!(legacy.sniff_timeout, Some(Duration::from_millis(700)));
    assert_eq!(legacy.domain_strategy, Some(crate::resolve::Strategy::PreferIpv6));

    let mut new = session();
    SessionDefaults::new(&default()).apply(&mut new);
    assert!(new.legacy.is_none() && new.detour.is_none() && new.udp.timeout.is_none());
}
