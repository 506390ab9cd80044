//! Every dial option, by what the socket says of itself or by what happens.

mod names;

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use crosspoint_schema::decode::{Addr, Duration as Span, Mark};
use socket2::{Protocol, SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    addr::Target,
    net::{
        monitor::{self, DefaultRoute, NetworkState},
        testkit::{Kit, Netns, privileged},
    },
    session::{Network, Session},
    snapshot::RouteDefaults,
};

fn server(addr: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(addr).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A listener that answers no SYN any more: its queue is full.
fn black_hole(addr: &str) -> (Socket, SocketAddr, Vec<Socket>) {
    let addr: SocketAddr = addr.parse().unwrap();
    let kind = socket2::Type::STREAM.nonblocking();
    let listener = Socket::new(socket2::Domain::for_address(addr), kind, None).unwrap();
    listener.bind(&addr.into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let fill = (0..4).map(|_| {
        let client = Socket::new(socket2::Domain::for_address(addr), kind, None).unwrap();
        let _ = client.connect(&addr.into());
        client
    });
    let fill = fill.collect();
    std::thread::sleep(Duration::from_millis(20));
    (listener, addr, fill)
}

fn dialer(options: DialOptions) -> Dialer {
    Dialer::new(&options, &Kit::default().cx()).unwrap()
}

fn settings(options: &DialOptions) -> Settings {
    Settings::new(options, &Setup::default(), monitor::Network::default()).unwrap()
}

fn none() -> RouteDefaults {
    RouteDefaults::default()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

async fn connect(dialer: &Dialer, target: &Target) -> Result<BoxStream, DialError> {
    dialer.connect(Dial::internal(target)).await
}

#[tokio::test]
async fn a_plain_dial_sends_at_once_and_keeps_alive() {
    let (listener, addr) = server("127.0.0.1:0");
    let mut stream = connect(&dialer(DialOptions::default()), &addr.into()).await.unwrap();
    let tcp = stream.raw_tcp().expect("plain TCP can be spliced");
    let socket = SockRef::from(&*tcp);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(
        (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
        KEEP_ALIVE
    );
    assert_eq!(socket.protocol().unwrap(), Some(Protocol::TCP));
    assert_eq!(socket.mark().unwrap(), 0);
    stream.write_all(b"x").await.unwrap();
    let mut byte = [0];
    listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[tokio::test]
async fn errors_name_the_address() {
    let (listener, addr) = server("127.0.0.1:0");
    drop(listener);
    let error = connect(&dialer(DialOptions::default()), &addr.into()).await.err().unwrap();
    assert_eq!(error.to_string(), format!("dial tcp {addr}: connection refused"));
    assert_eq!((error.class, error.side), (DialClass::Refused, Side::Target));
}

#[tokio::test]
async fn the_connect_timeout_is_ours() {
    let (_listener, addr, _fill) = black_hole("127.0.0.1:0");
    let dialer =
        dialer(DialOptions { connect_timeout: Span::from_millis(120), ..Default::default() });
    let started = Instant::now();
    let error = connect(&dialer, &addr.into()).await.err().unwrap();
    assert!((100..1000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(error.to_string(), format!("dial tcp {addr}: i/o timeout"));
    assert_eq!(error.class, DialClass::TimedOut);
    assert_eq!(settings(&DialOptions::default()).timeout, Duration::from_secs(5));
}

#[tokio::test]
async fn a_dead_ipv6_costs_the_fallback_delay_only() {
    let (_hole, dead, _fill) = black_hole("[::1]:0");
    let alive = TcpListener::bind(("127.0.0.1", dead.port())).unwrap();
    let kit = Kit { names: vec![("both.test", vec!["::1", "127.0.0.1"])], ..Kit::default() };
    for (options, session, wanted) in [
        (DialOptions::default(), None, 300),
        (DialOptions { fallback_delay: Span::from_millis(60), ..Default::default() }, None, 60),
        (DialOptions::default(), Some(Duration::from_millis(20)), 20),
    ] {
        let cx = kit.cx();
        let target = Target::new("both.test", dead.port());
        let mut session_of =
            Session::new(1, cx.me.clone(), Network::Tcp, addr("127.0.0.1:1"), target.clone());
        session_of.dial.fallback_delay = session;
        let dial = Dial { session: Some(&session_of), ..Dial::internal(&target) };
        let dialer = Dialer::new(&options, &cx).unwrap();
        let started = Instant::now();
        let stream = dialer.connect(dial).await.unwrap();
        let took = started.elapsed().as_millis();
        assert!((wanted..wanted + 150).contains(&took), "{took} ms, wanted {wanted}");
        assert!(stream.local_addr().unwrap().is_ipv4());
        alive.accept().unwrap();
    }
}

#[tokio::test]
async fn a_black_holed_network_costs_the_fallback_delay_only() {
    if !privileged("a_black_holed_network_costs_the_fallback_delay_only") {
        return;
    }
    let netns = Netns::new(&[
        "link add v0 type veth peer name v1",
        "link set v0 up",
        "link set v1 up",
        "addr add 2001:db8::2/64 dev v0 nodad",
    ]);
    let (alive, addr) = netns.run(|| server("127.0.0.1:0"));
    let kit =
        Kit { names: vec![("both.test", vec!["2001:db8::1", "127.0.0.1"])], ..Kit::default() };
    let options = DialOptions { netns: netns.0.clone(), ..Default::default() };
    let dialer = Dialer::new(&options, &kit.cx()).unwrap();
    let started = Instant::now();
    connect(&dialer, &Target::new("both.test", addr.port())).await.unwrap();
    let took = started.elapsed().as_millis();
    assert!((300..500).contains(&took), "{took} ms");
    alive.accept().unwrap();
}

#[tokio::test]
async fn sockets_are_made_in_the_name_space() {
    if !privileged("sockets_are_made_in_the_name_space") {
        return;
    }
    let netns = Netns::new(&[]);
    let (listener, addr) = netns.run(|| server("127.0.0.1:0"));
    let path = format!("/var/run/netns/{}", netns.0);
    for name in [netns.0.clone(), path] {
        let dialer = dialer(DialOptions { netns: name, ..Default::default() });
        connect(&dialer, &addr.into()).await.unwrap();
        listener.accept().unwrap();
        let udp = dialer.udp_bind(None).await.unwrap();
        udp.send_to(b"x", addr).await.unwrap();
    }
    // Here nobody listens.
    assert!(connect(&dialer(DialOptions::default()), &addr.into()).await.is_err());
    let missing = dialer(DialOptions { netns: "cp-none".into(), ..Default::default() });
    let error = connect(&missing, &addr.into()).await.err().unwrap();
    assert!(error.to_string().contains("get netns cp-none: no such file"), "{error}");
}

#[tokio::test]
async fn a_link_local_server_is_reached_through_its_zone() {
    if !privileged("a_link_local_server_is_reached_through_its_zone") {
        return;
    }
    let netns = Netns::new(&["addr add fe80::7/64 dev lo nodad"]);
    let (listener, addr) = netns.run(|| server("[fe80::7%1]:0"));
    let options = DialOptions { netns: netns.0.clone(), ..DialOptions::default() };
    let with = |server: &str| {
        let setup = Setup { server: Some(server), ..Setup::default() };
        let dialer = Dialer::with(&options, &Kit::default().cx(), setup).unwrap();
        (dialer, Target::new(server, addr.port()))
    };
    let (dialer, target) = with("fe80::7%1");
    connect(&dialer, &target).await.unwrap();
    listener.accept().unwrap();
    dialer.associate_connected(Dial::internal(&target)).await.unwrap();
    let Some(SocketAddr::V6(bare)) = target.socket_addr() else { panic!("{target}") };
    assert_eq!(bare.scope_id(), 0);
    let socket = dialer.udp_connect(bare.into()).await.unwrap();
    assert_eq!(socket.peer_addr().unwrap().to_string(), format!("[fe80::7%1]:{}", addr.port()));
    for (server, why) in
        [("fe80::7", "invalid argument"), ("fe80::7%no", "no such network interface: no")]
    {
        let (dialer, target) = with(server);
        let error = connect(&dialer, &target).await.err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn local_addresses_are_bound() {
    let options = DialOptions {
        inet4_bind_address: Some(Ipv4Addr::new(127, 0, 0, 2).into()),
        inet6_bind_address: Addr::parse("::1").ok(),
        ..Default::default()
    };
    let dialer = dialer(options);
    let (_four, addr4) = server("127.0.0.1:0");
    let (_six, addr6) = server("[::1]:0");
    assert_eq!(
        dialer.tcp(addr4).await.unwrap().local_addr().unwrap().ip(),
        IpAddr::from([127, 0, 0, 2])
    );
    assert_eq!(dialer.tcp(addr6).await.unwrap().local_addr().unwrap().ip(), addr6.ip());
    for to in [Some(addr4.ip()), None] {
        let local = dialer.udp_bind(to).await.unwrap().local_addr().unwrap();
        assert_eq!(local.ip(), IpAddr::from([127, 0, 0, 2]));
    }
    assert_eq!(
        dialer.udp_connect(addr4).await.unwrap().local_addr().unwrap().ip(),
        IpAddr::from([127, 0, 0, 2])
    );

    let wrong = DialOptions { inet4_bind_address: Addr::parse("::1").ok(), ..Default::default() };
    let error = Dialer::new(&wrong, &Kit::default().cx()).err().unwrap();
    assert_eq!(error.to_string(), "inet4_bind_address: ::1 is of the other family");
}

#[tokio::test]
async fn the_interface_is_bound_except_for_loopback() {
    let bound = settings(&DialOptions { bind_interface: "lo".into(), ..Default::default() });
    let device = |to: &str, settings: &Settings, defaults: &RouteDefaults| {
        settings.tcp_socket(addr(to), defaults, Protocol::TCP).map(|s| s.device().unwrap())
    };
    assert_eq!(device("192.0.2.1:1", &bound, &none()).unwrap().as_deref(), Some(&b"lo"[..]));
    assert_eq!(device("127.0.0.1:1", &bound, &none()).unwrap(), None);
    assert_eq!(device("[::1]:1", &bound, &none()).unwrap(), None);
    let udp = bound.udp(None, 0, &none()).await.unwrap();
    assert_eq!(SockRef::from(&udp).device().unwrap().as_deref(), Some(&b"lo"[..]));

    // Options of `route` come behind our own.
    let route = RouteDefaults { interface: Some("none0".into()), ..none() };
    let plain = settings(&DialOptions::default());
    assert_eq!(device("192.0.2.1:1", &bound, &route).unwrap().as_deref(), Some(&b"lo"[..]));
    let error = device("192.0.2.1:1", &plain, &route).unwrap_err();
    assert_eq!(error.to_string(), "bind to interface none0: no such device");
}

#[tokio::test]
async fn the_interface_of_the_route_is_detected() {
    let auto = RouteDefaults { auto_detect_interface: true, ..none() };
    let network = monitor::Network::default();
    let device = |to: &str, options: &DialOptions| {
        let settings = Settings { network: network.clone(), ..settings(options) };
        let socket = settings.tcp_socket(addr(to), &auto, Protocol::TCP);
        socket.map(|s| s.device().unwrap().map(|name| String::from_utf8(name).unwrap()))
    };
    let plain = DialOptions::default();
    assert_eq!(device("127.0.0.1:1", &plain).unwrap(), None);
    let error = device("203.0.113.1:1", &plain).unwrap_err();
    assert_eq!(error.to_string(), "no route to internet");
    // The next dial sees what was published in between.
    let route = |name: &str| Some(DefaultRoute { index: 1, name: name.into() });
    network.publish(NetworkState { default4: route("lo"), ..NetworkState::default() });
    assert_eq!(device("203.0.113.1:1", &plain).unwrap().as_deref(), Some("lo"));
    network.publish(NetworkState { default4: route("none0"), ..NetworkState::default() });
    let error = device("203.0.113.1:1", &plain).unwrap_err();
    assert_eq!(error.to_string(), "bind to interface none0: no such device");
    // A local address says where to go already.
    let bind = Some(Ipv4Addr::LOCALHOST.into());
    let bound = DialOptions { inet4_bind_address: bind, ..Default::default() };
    assert_eq!(device("203.0.113.1:1", &bound).unwrap(), None);
}

#[tokio::test]
async fn sockets_carry_the_mark() {
    if !privileged("sockets_carry_the_mark") {
        return;
    }
    let own = settings(&DialOptions { routing_mark: Mark(77), ..Default::default() });
    let route = RouteDefaults { mark: Some(88), ..none() };
    let mark = |s: &Settings, defaults: &RouteDefaults| {
        s.tcp_socket(addr("127.0.0.1:1"), defaults, Protocol::TCP).unwrap().mark().unwrap()
    };
    assert_eq!(mark(&own, &route), 77);
    assert_eq!(mark(&settings(&DialOptions::default()), &route), 88);
    assert_eq!(SockRef::from(&own.udp(None, 0, &none()).await.unwrap()).mark().unwrap(), 77);
}

#[tokio::test]
async fn udp_sockets_follow_the_options() {
    use crate::net::sockopt::mtu_discover;
    let strict = settings(&DialOptions::default());
    let shared = DialOptions { reuse_addr: true, udp_fragment: Some(true), ..Default::default() };
    let shared = settings(&shared);
    for to in [None, Some(IpAddr::from([127, 0, 0, 1])), Some("::1".parse().unwrap())] {
        let udp = strict.udp(to, 0, &none()).await.unwrap();
        assert!(!SockRef::from(&udp).reuse_port().unwrap());
        assert!(SockRef::from(&udp).broadcast().unwrap());
        assert_eq!(mtu_discover(&udp).unwrap(), libc::IP_PMTUDISC_DO);
        let udp = shared.udp(to, 0, &none()).await.unwrap();
        assert!(
            SockRef::from(&udp).reuse_port().unwrap()
                && SockRef::from(&udp).reuse_address().unwrap()
        );
        assert_eq!(mtu_discover(&udp).unwrap(), libc::IP_PMTUDISC_WANT);
    }
    // Both families on one socket when the destination is a name.
    let both = strict.udp(None, 0, &none()).await.unwrap();
    let here = strict.udp(Some(IpAddr::from([127, 0, 0, 1])), 0, &none()).await.unwrap();
    let port = here.local_addr().unwrap().port();
    both.send_to(b"x", addr(&format!("[::ffff:127.0.0.1]:{port}"))).await.unwrap();
    assert_eq!(here.recv_from(&mut [0; 2]).await.unwrap().0, 1);
}

#[tokio::test]
async fn multipath_tcp_is_used_and_given_up() {
    let (listener, plain) = server("127.0.0.1:0");
    let dialer = dialer(DialOptions { tcp_multi_path: true, ..Default::default() });
    let stream = dialer.tcp(plain).await.unwrap();
    listener.accept().unwrap();
    let protocol = SockRef::from(&stream).protocol().unwrap();
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").unwrap_or_default();
    let wanted = if enabled.trim() == "1" { Protocol::MPTCP } else { Protocol::TCP };
    assert_eq!(protocol, Some(wanted));
    if !privileged("multipath_tcp_is_used_and_given_up, the second half") {
        return;
    }
    let netns = Netns::new(&[]);
    let (listener, addr) = netns.run(|| {
        std::fs::write("/proc/sys/net/mptcp/enabled", "0").unwrap();
        server("127.0.0.1:0")
    });
    let options =
        DialOptions { tcp_multi_path: true, netns: netns.0.clone(), ..Default::default() };
    let stream = self::dialer(options).tcp(addr).await.unwrap();
    listener.accept().unwrap();
    assert_eq!(SockRef::from(&stream).protocol().unwrap(), Some(Protocol::TCP));
}

#[tokio::test]
async fn fast_open_connects_with_the_first_write() {
    let lazy = dialer(DialOptions { tcp_fast_open: true, ..Default::default() });
    let (listener, open) = server("127.0.0.1:0");
    let mut stream = connect(&lazy, &open.into()).await.unwrap();
    assert!(stream.raw_tcp().is_none(), "not transparent before the first write");
    stream.write_all(b"hello").await.unwrap();
    assert!(stream.raw_tcp().is_some());
    let mut bytes = [0; 5];
    listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");

    // Half-close without a byte: the connection is made first.
    let mut stream = connect(&lazy, &open.into()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(listener.accept().unwrap().0.read(&mut bytes).unwrap(), 0);

    // Errors come with the first write, with the address.
    drop(listener);
    let error = match connect(&lazy, &open.into()).await {
        Ok(mut stream) => stream.write_all(b"x").await.unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert_eq!(error, format!("dial tcp {open}: connection refused"));

    let (_hole, dead, _fill) = black_hole("127.0.0.1:0");
    let options = DialOptions {
        tcp_fast_open: true,
        connect_timeout: Span::from_millis(80),
        ..Default::default()
    };
    let mut stream = connect(&dialer(options), &dead.into()).await.unwrap();
    let error = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(error.to_string(), format!("dial tcp {dead}: i/o timeout"));
}

#[tokio::test]
async fn fast_open_puts_data_into_the_syn() {
    if !privileged("fast_open_puts_data_into_the_syn") {
        return;
    }
    let netns = Netns::new(&[]);
    let (listener, addr) = netns.run(|| {
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let (listener, addr) = server("127.0.0.1:0");
        crate::net::sockopt::fast_open(&listener, true).unwrap();
        (listener, addr)
    });
    let options = DialOptions { tcp_fast_open: true, netns: netns.0.clone(), ..Default::default() };
    let lazy = dialer(options);
    // The first connection fetches the cookie, the second one uses it.
    for _ in 0..2 {
        let mut stream = connect(&lazy, &addr.into()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut bytes = [0; 5];
        let (mut peer, _) = listener.accept().unwrap();
        peer.read_exact(&mut bytes).unwrap();
        std::io::Write::write_all(&mut peer, b"answer").unwrap();
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 6);
    }
    let counters = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split(' ').position(|name| name == "TCPFastOpenActive").unwrap();
    assert_eq!(values.split(' ').nth(column), Some("1"));
}

#[tokio::test]
async fn descriptors_are_shown_to_the_protector() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("protect");
    let protector = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (listener, addr) = server("127.0.0.1:0");
    let options = DialOptions { protect_path: path.to_str().unwrap().into(), ..Default::default() };
    let thread =
        std::thread::spawn(move || (0..2).map(|_| answer_protect(&protector)).collect::<Vec<_>>());
    let dialer = dialer(options);
    let stream = dialer.tcp(addr).await.unwrap();
    let udp = dialer.udp_bind(None).await.unwrap();
    listener.accept().unwrap();
    let seen = thread.join().unwrap();
    assert_eq!(seen[0].local_addr().unwrap().as_socket(), Some(stream.local_addr().unwrap()));
    assert_eq!(seen[1].local_addr().unwrap().as_socket(), Some(udp.local_addr().unwrap()));

    let error = dialer.tcp(addr).await.unwrap_err();
    assert!(error.to_string().contains("connect protect path: connection refused"), "{error}");
}

/// Receives one descriptor and says yes.
fn answer_protect(protector: &std::os::unix::net::UnixListener) -> Socket {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (mut client, _) = protector.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bufs = [std::io::IoSliceMut::new(&mut byte)];
    recvmsg(&client, &mut bufs, &mut control, RecvFlags::empty()).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    std::io::Write::write_all(&mut client, &[1]).unwrap();
    fd.unwrap().into()
}
