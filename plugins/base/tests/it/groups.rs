//! `selector` and `urltest`.

use std::net::SocketAddr;
use std::time::Duration;

use crosspoint_base::group::history;
use crosspoint_kernel::Kind;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::Dial;
use crosspoint_kernel::net::monitor::{DefaultRoute, NetworkState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{World, echo, free_port, parse, ping, rest, serve, socks5};

const SELECTOR: &str = r#"{"type": "selector", "tag": "sel-cut", "outbounds": ["one", "two"], "default": "two", "interrupt_exist_connections": true}"#;

fn selected(world: &World, tag: &str) -> String {
    let instance = world.slot(tag).now().expect("built");
    instance.face.group().expect("a group").selected().expect("a member").to_string()
}

fn select(world: &World, tag: &str, member: &str) -> bool {
    world.slot(tag).now().expect("built").face.group().expect("a group").select(member)
}

#[tokio::test]
async fn a_selector_switches_and_cuts() {
    let (port, to) = (free_port(), echo().await);
    let mut world = World::new(
        &[
            r#"{"type": "direct", "tag": "one"}"#,
            r#"{"type": "direct", "tag": "two", "reuse_addr": true}"#,
            SELECTOR,
        ],
        &[&format!(r#"{{"type": "mixed", "tag": "sel-cut", "listen_port": {port}}}"#)],
    )
    .await;
    assert_eq!(selected(&world, "sel-cut"), "two");
    let (mut first, _) = socks5(port, to).await;
    ping(&mut first, b"through two").await;
    // A connection of our own.
    let target = Target::from(to);
    let mut own = world.slot("sel-cut").connect(Dial::internal(&target)).await.unwrap();
    own.write_all(b"x").await.unwrap();
    assert_eq!(own.read_u8().await.unwrap(), b'x');
    assert!(!select(&world, "sel-cut", "three"));
    // The same member again changes nothing.
    assert!(select(&world, "sel-cut", "two"));
    ping(&mut first, b"still").await;
    assert!(select(&world, "sel-cut", "one"));
    assert_eq!(selected(&world, "sel-cut"), "one");
    assert_eq!(rest(&mut first).await, b"");
    assert_eq!(own.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    let (mut second, _) = socks5(port, to).await;
    ping(&mut second, b"through one").await;
    // Without the option, connections of clients live on. The choice that was made stays, too.
    let lenient =
        SELECTOR.replace("true", "false").replace(r#""default": "two""#, r#""default": "one""#);
    world.component("sel-cut").reconfigure(Kind::Outbound, &lenient);
    assert!(select(&world, "sel-cut", "two"));
    ping(&mut second, b"kept").await;
    world
        .component("sel-cut")
        .reconfigure(Kind::Outbound, &lenient.replace(r#""default": "one", "#, ""));
    assert_eq!(selected(&world, "sel-cut"), "two");
    // A new instance finds the choice again.
    world.build(Kind::Outbound, &lenient).await.unwrap();
    assert_eq!(selected(&world, "sel-cut"), "two");
    assert_eq!(world.plane.state().selected("sel-cut").as_deref(), Some("two"));
}

#[tokio::test]
async fn a_new_default_counts_where_nobody_chose() {
    let options = |more: &str| {
        format!(
            r#"{{"type": "selector", "tag": "sel-default", "outbounds": ["one", "two"]{more}}}"#
        )
    };
    let mut world = World::new(
        &[
            r#"{"type": "direct", "tag": "one"}"#,
            r#"{"type": "direct", "tag": "two"}"#,
            &options(""),
        ],
        &[],
    )
    .await;
    assert_eq!(selected(&world, "sel-default"), "one");
    world.component("sel-default").reconfigure(Kind::Outbound, &options(r#", "default": "two""#));
    assert_eq!(selected(&world, "sel-default"), "two");
}

#[test]
fn what_groups_refuse() {
    for (text, message) in [
        (r#"{"type": "selector"}"#, "initialize outbound[0]: missing tags"),
        (r#"{"type": "urltest"}"#, "initialize outbound[0]: missing tags"),
        (
            r#"{"type": "selector", "tag": "s", "outbounds": ["a"], "default": "b"}"#,
            "start service: start outbound/selector[s]: default outbound not found: b",
        ),
        (
            r#"{"type": "urltest", "tag": "u", "outbounds": ["a"], "interval": "2h"}"#,
            "start service: start outbound/urltest[u]: interval must be less or equal than idle_timeout",
        ),
        (
            r#"{"type": "direct", "detour": "x"}"#,
            "initialize outbound[0]: `detour` is not supported in direct context",
        ),
        (
            r#"{"type": "socks", "version": "6"}"#,
            "initialize outbound[0]: unknown socks version: 6",
        ),
    ] {
        assert_eq!(parse(Kind::Outbound, text).unwrap_err().summary(), message);
    }
}

/// A web server that waits before it answers, and an echo for everything that is no HTTP.
async fn origin(wait: Duration) -> SocketAddr {
    serve(move |mut stream| async move {
        let mut bytes = vec![0; 1024];
        let Ok(n) = stream.read(&mut bytes).await else { return };
        if bytes.starts_with(b"HEAD /generate_204 HTTP/1.1\r\n") {
            tokio::time::sleep(wait).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            return;
        }
        let _ = stream.write_all(&bytes[..n]).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// A member that leads everything to `to`.
fn member(tag: &str, to: SocketAddr) -> String {
    format!(
        r#"{{"type": "direct", "tag": "{tag}", "override_address": "127.0.0.1", "override_port": {}}}"#,
        to.port()
    )
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..250 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a_urltest_uses_the_fastest_and_moves_on() {
    let port = free_port();
    let (slow, fast) = (origin(Duration::from_millis(300)).await, origin(Duration::ZERO).await);
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let group = r#"{"type": "urltest", "tag": "fastest", "outbounds": ["t-dead", "t-slow", "t-inner"], "url": "http://a.test/generate_204", "interval": "200ms", "idle_timeout": "1m", "interrupt_exist_connections": true}"#;
    let inner = r#"{"type": "selector", "tag": "t-inner", "outbounds": ["t-fast", "t-dead"]}"#;
    let mut world = World::new(
        &[&member("t-dead", dead), &member("t-slow", slow), &member("t-fast", fast), inner, group],
        &[&format!(r#"{{"type": "mixed", "tag": "fastest", "listen_port": {port}}}"#)],
    )
    .await;
    let slot = world.slot("fastest").clone();
    until("the fast member", || {
        slot.now()
            .and_then(|i| i.face.group().and_then(|g| g.selected()))
            .is_some_and(|tag| &*tag == "t-inner")
    })
    .await;
    // Measurements belong to the leaf of a group.
    assert!(
        history().get("t-fast").is_some_and(|delay| delay.millis < 250)
            && history().get("t-inner").is_none()
    );
    assert!(
        history().get("t-slow").is_some_and(|delay| delay.millis >= 300)
            && history().get("t-dead").is_none()
    );
    let to = SocketAddr::from(([192, 0, 2, 1], 80));
    let (mut stream, code) = socks5(port, to).await;
    assert_eq!(code, 0);
    ping(&mut stream, b"hello").await;
    // The fast way breaks: the next test finds out, the group moves on and cuts.
    assert!(select(&world, "t-inner", "t-dead"));
    until("the slow member", || selected(&world, "fastest") == "t-slow").await;
    assert_eq!(rest(&mut stream).await, b"");
    let (mut stream, code) = socks5(port, to).await;
    assert_eq!(code, 0);
    ping(&mut stream, b"again").await;
    // Other settings take effect in the running instance.
    let calm = group.replace("200ms", "30s").replace("50", "10");
    world.component("fastest").reconfigure(Kind::Outbound, &calm);
}

#[tokio::test]
async fn a_urltest_tests_anew_when_the_network_changes() {
    let origin = origin(Duration::ZERO).await;
    let group = r#"{"type": "urltest", "tag": "rerouted", "outbounds": ["r-one"], "url": "http://a.test/generate_204", "interval": "1h", "idle_timeout": "1h"}"#;
    let world = World::new(&[&member("r-one", origin), group], &[]).await;
    until("the first test", || history().get("r-one").is_some()).await;
    let first = history().get("r-one").expect("measured").taken;
    let network = &world.plane.network;
    // No way out: what is known is left alone.
    network.publish(NetworkState::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(history().get("r-one").is_some_and(|delay| delay.taken == first));
    let route = Some(DefaultRoute { index: 7, name: "eth7".into() });
    network.publish(NetworkState { default4: route, ..NetworkState::default() });
    until("another test", || history().get("r-one").is_some_and(|d| d.taken > first)).await;
}

#[tokio::test]
async fn groups_start_with_https_and_need_their_members() {
    let mut world = World::new(&[r#"{"type": "direct", "tag": "one"}"#], &[]).await;
    for url in ["", r#", "url": "https://a.test/""#] {
        let text = format!(r#"{{"type": "urltest", "tag": "h", "outbounds": ["one"]{url}}}"#);
        world.build(Kind::Outbound, &text).await.unwrap();
    }
    let text = r#"{"type": "urltest", "tag": "h", "outbounds": ["one"], "url": "ftp://a.test/"}"#;
    let error = world.build(Kind::Outbound, text).await.unwrap_err();
    assert!(error.contains("url") && error.contains("no http or https"), "{error}");
    let text = r#"{"type": "selector", "tag": "h", "outbounds": ["one", "two"]}"#;
    assert_eq!(world.build(Kind::Outbound, text).await.unwrap_err(), "outbound 1 not found: two");
}
