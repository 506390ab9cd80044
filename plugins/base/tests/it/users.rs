//! Users come and go while connections live.

use crosspoint_kernel::Kind;
use tokio::io::AsyncWriteExt as _;

use crate::support::{DIRECT, World, connect, echo, free_port, ping, request5, rest, take};

async fn login(
    port: u16,
    user: &str,
    password: &str,
    to: std::net::SocketAddr,
) -> Option<tokio::net::TcpStream> {
    let mut stream = connect(port).await;
    let mut hello = b"\x05\x01\x02\x01".to_vec();
    for text in [user, password] {
        hello.push(text.len() as u8);
        hello.extend(text.bytes());
    }
    hello.extend(request5(1, to));
    stream.write_all(&hello).await.unwrap();
    if take(&mut stream, 4).await != b"\x05\x02\x01\x00" {
        return None;
    }
    assert_eq!(take(&mut stream, 10).await[1], 0);
    Some(stream)
}

#[tokio::test]
async fn revoked_users_are_cut_and_no_others() {
    let (port, to) = (free_port(), echo().await);
    let options = |users: &[(&str, &str)]| {
        let users: Vec<_> = users
            .iter()
            .map(|(u, p)| format!(r#"{{"username": "{u}", "password": "{p}"}}"#))
            .collect();
        format!(
            r#"{{"type": "mixed", "tag": "in", "listen_port": {port}, "users": [{}]}}"#,
            users.join(",")
        )
    };
    let mut world = World::new(&[DIRECT], &[&options(&[("a", "1"), ("b", "2"), ("c", "3")])]).await;
    let mut a = login(port, "a", "1", to).await.unwrap();
    let mut b = login(port, "b", "2", to).await.unwrap();
    let mut c = login(port, "c", "3", to).await.unwrap();
    ping(&mut a, b"before").await;
    // b has another password, c is gone, d is new.
    world
        .component("in")
        .reconfigure(Kind::Inbound, &options(&[("a", "1"), ("b", "x"), ("d", "4")]));
    assert_eq!((rest(&mut b).await, rest(&mut c).await), (vec![], vec![]));
    ping(&mut a, b"after").await;
    assert!(login(port, "c", "3", to).await.is_none());
    assert!(login(port, "b", "2", to).await.is_none());
    let mut d = login(port, "d", "4", to).await.unwrap();
    // Nobody has to log in any more: nobody is cut.
    world.component("in").reconfigure(Kind::Inbound, &options(&[]));
    ping(&mut a, b"open").await;
    ping(&mut d, b"open").await;
    // Only options of users are taken by message.
    let next = crate::support::parse(
        Kind::Inbound,
        &options(&[]).replace(r#""tag""#, r#""udp_timeout": "1m", "tag""#),
    )
    .unwrap();
    assert_eq!(
        world.component("in").spec.change(&*next),
        crosspoint_kernel::component::Change::Replace
    );
}
