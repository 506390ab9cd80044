use std::sync::Arc;

use crosspoint_kernel::{addr::Target, flow::BoxStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::{
    uuid,
    vmess::{
        accept::accept,
        body::{Options, Security},
        header::{Command, Request},
        keys::ClientKey,
        link::{Asker, now},
        replay::Seen,
        users::{Entry, Users},
    },
};

fn users() -> Users {
    Users::new(vec![Entry::new("ann".into(), "ann", 4)], now()).unwrap()
}

fn asker(legacy: bool) -> Arc<Asker> {
    let id = uuid::id("ann");
    Arc::new(Asker { key: ClientKey::new(&id).unwrap(), legacy: legacy.then_some(id) })
}

/// Both ends of a stream.
async fn pair(security: Security, options: Options, legacy: bool) -> (Vmess, Vmess) {
    let (near, far) = duplex(100_000);
    let target = Target::new("a.test", 443);
    let request = Request::new(options, security, Command::Tcp, Some(target.clone()));
    let mut client = Vmess(Link::client(Box::new(near), asker(legacy), request).unwrap());
    client.write_all(b"first").await.unwrap();
    let far: BoxStream = Box::new(far);
    let accepted = accept(far, &users(), &Seen::default()).await.unwrap();
    assert_eq!((&*accepted.user, accepted.request.target), ("ann", Some(target)));
    let mut server = Vmess(accepted.link);
    let mut five = [0; 5];
    server.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"first");
    (client, server)
}

#[tokio::test]
async fn every_way_of_making_a_body() {
    let all = [Security::None, Security::Legacy, Security::Aes128Gcm, Security::ChaCha20Poly1305];
    for (security, options, legacy) in all
        .into_iter()
        .flat_map(|security| (0..32).map(move |options| (security, Options(options))))
        .flat_map(|(security, options)| [(security, options, false), (security, options, true)])
    {
        let what = format!("{security:?}, {options:?}, legacy {legacy}");
        let (mut client, mut server) = pair(security, options, legacy).await;
        for up in [true, false] {
            let (from, to) =
                if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
            let sent: Vec<u8> = (0..200_000u32).map(|n| (n ^ n >> 8) as u8).collect();
            let mut got = vec![0; sent.len()];
            let (written, read) = tokio::join!(
                async {
                    from.write_all(&sent).await?;
                    from.flush().await
                },
                to.read_exact(&mut got)
            );
            written.unwrap();
            read.expect(&what);
            assert!(sent == got, "{what}");
        }
        // One direction ends, the other goes on.
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect(&what);
        assert_eq!(rest, b"last", "{what}");
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        rest.clear();
        client.read_to_end(&mut rest).await.expect(&what);
        assert_eq!(rest, b"answer", "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_listens_asks_all_the_same() {
    let (near, far) = duplex(10_000);
    let target = Some(Target::new("a.test", 25));
    let request = Request::new(Options::CHUNKS, Security::Aes128Gcm, Command::Tcp, target);
    let mut client = Vmess(Link::client(Box::new(near), asker(false), request).unwrap());
    let served = tokio::spawn(async move {
        let accepted = accept(Box::new(far), &users(), &Seen::default()).await.unwrap();
        let mut server = Vmess(accepted.link);
        server.write_all(b"220 hello").await.unwrap();
        server.flush().await.unwrap();
        server
    });
    let mut greeting = [0; 9];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello");
    drop(served.await.unwrap());
    // The server has gone between two chunks.
    assert_eq!(client.read(&mut greeting).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_is_no_end() {
    let (mut client, mut server) = pair(Security::Aes128Gcm, Options::CHUNKS, false).await;
    let (near, mut far) = duplex(10_000);
    client.0.inner = Box::new(near);
    client.write_all(b"hello").await.unwrap();
    let mut bytes = [0; 10];
    far.read_exact(&mut bytes).await.unwrap();
    let (near, mut far) = duplex(10_000);
    server.0.inner = Box::new(near);
    far.write_all(&bytes).await.unwrap();
    drop(far);
    let error = server.read(&mut bytes).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

async fn refused(bytes: &[u8], seen: &Seen) -> String {
    let (mut near, far) = duplex(10_000);
    near.write_all(bytes).await.unwrap();
    drop(near);
    match accept(Box::new(far), &users(), seen).await {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn strangers_replays_and_wrong_clocks() {
    let seen = Seen::default();
    assert_eq!(refused(&[7; 200], &seen).await, "bad request");
    assert_eq!(refused(&[7; 20], &seen).await, "unexpected end of file");
    let target = Some(Target::new("a.test", 25));
    let request = Request::new(Options::CHUNKS, Security::Aes128Gcm, Command::Tcp, target);
    let asker = asker(false);
    let good = request.seal(&asker.key, now()).unwrap();
    assert_eq!(refused(&good, &seen).await, "accepted");
    assert_eq!(refused(&good, &seen).await, "replayed request");
    for (skew, expected) in
        [(-119, "accepted"), (119, "accepted"), (-125, "bad timestamp"), (125, "bad timestamp")]
    {
        let bytes = request.seal(&asker.key, now().saturating_add_signed(skew)).unwrap();
        let got = refused(&bytes, &seen).await;
        assert!(got.starts_with(expected), "{skew}: {got}");
    }
    let mut changed = request.seal(&asker.key, now()).unwrap();
    changed[70] ^= 1;
    assert_eq!(refused(&changed, &seen).await, "message authentication failed");
    let short = request.seal(&asker.key, now()).unwrap();
    assert_eq!(refused(&short[..short.len() - 1], &seen).await, "unexpected end of file");

    let time = now();
    let hash = crate::vmess::users::legacy_hash(&uuid::id("ann"), time);
    let good = request.seal_legacy(&asker.key.command, &hash, time).unwrap();
    assert_eq!(refused(&good, &seen).await, "accepted");
    assert_eq!(refused(&good, &seen).await, "replayed request");
}
