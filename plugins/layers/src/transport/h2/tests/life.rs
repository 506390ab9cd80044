//! Connections: their beginning, their pings, their end.

use std::{sync::atomic::Ordering, time::Duration};

use crosspoint_kernel::{BoxFuture, DialError, error::DialClass};
use crosspoint_schema::{
    decode::Duration as Time,
    options::{GrpcTransport, HttpTransport, TransportOptions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use super::house::{Manner, Site, client, grpc, http};
use crate::transport::{AdmitError, Carried, Lower};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_dead_server_is_dialled_anew() {
    for options in [http(), grpc()] {
        let site = Site::new(&options, true, Manner::Echo);
        let client = client(&options, true);
        for round in 1..4 {
            let mut stream = client.open(&site).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            assert_eq!(site.dials(), round);
            site.kill();
            let end = timeout(SOON, stream.read_u8()).await.unwrap();
            assert!(end.is_err(), "it is not dead");
        }
    }
}

#[tokio::test]
async fn an_inbound_that_gives_way_ends_its_connections_softly() {
    let site = Site::new(&http(), true, Manner::Echo);
    let client = client(&http(), true);
    let mut old = client.open(&site).await.unwrap();
    old.write_all(b"x").await.unwrap();
    assert_eq!(old.read_u8().await.unwrap(), b'x');
    site.close();
    // Two ways until the client knows.
    sleep(Duration::from_millis(100)).await;
    let next = Site::new(&http(), true, Manner::Echo);
    let mut new = client.open(&next).await.unwrap();
    new.write_all(b"y").await.unwrap();
    assert_eq!(new.read_u8().await.unwrap(), b'y');
    assert_eq!((site.dials(), next.dials()), (1, 1));
    // What was there goes on, and its connection ends with it.
    old.write_all(b"z").await.unwrap();
    assert_eq!(old.read_u8().await.unwrap(), b'z');
    drop(old);
    timeout(SOON, site.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_outbound_that_is_gone_leaves_no_connection() {
    let site = Site::new(&grpc(), true, Manner::Echo);
    let client = client(&grpc(), true);
    let mut stream = client.open(&site).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    drop(client);
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    drop(stream);
    timeout(SOON, site.ended()).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_for_a_dial_shares_its_failure() {
    let site = Site::new(&http(), true, Manner::Echo);
    site.down.store(true, Ordering::Relaxed);
    let client = client(&http(), true);
    let opened: Vec<_> = (0..50).map(|_| client.open(&site)).collect();
    let mut tasks = Vec::new();
    for open in opened {
        tasks.push(open);
    }
    for result in join(tasks).await {
        assert_eq!(result.map(drop).unwrap_err().class, DialClass::Refused);
    }
    assert_eq!(site.dials(), 1);
    site.down.store(false, Ordering::Relaxed);
    client.open(&site).await.unwrap();
    assert_eq!(site.dials(), 2);
}

/// Drives all of them at a time.
async fn join<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(Some).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        for slot in &mut pending {
            if let Some(future) = slot
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                done.push(value);
                *slot = None;
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}

/// A server that takes everything and says nothing but its settings.
struct Silent(Mutex<Vec<DuplexStream>>);

impl Lower for Silent {
    fn open(&self) -> BoxFuture<'_, Result<Carried, DialError>> {
        Box::pin(async {
            let (near, mut far) = duplex(256 << 10);
            far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            self.0.lock().await.push(far);
            Ok(Carried { stream: Box::new(near), alpn: None })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up() {
    let (idle_timeout, ping_timeout) = (Time::from_secs(30), Time::from_secs(7));
    let http = HttpTransport { idle_timeout, ping_timeout, ..Default::default() };
    let grpc = GrpcTransport { idle_timeout, ..Default::default() };
    for (options, patience) in
        [(TransportOptions::Http(http), 7), (TransportOptions::Grpc(grpc), 15)]
    {
        let silent = Silent(Mutex::default());
        let client = client(&options, true);
        let mut stream = client.open(&silent).await.unwrap();
        let begin = Instant::now();
        stream.read_u8().await.unwrap_err();
        assert_eq!(begin.elapsed().as_secs(), 30 + patience);
        // Another connection then.
        let _stream = client.open(&silent).await.unwrap();
        assert_eq!(silent.0.lock().await.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_is_kept() {
    let options = |permit_without_stream| {
        TransportOptions::Grpc(GrpcTransport {
            service_name: "a/service".to_owned(),
            idle_timeout: Time::from_secs(30),
            permit_without_stream,
            ..Default::default()
        })
    };
    for (permitted, dials) in [(true, 1), (false, 2)] {
        let site = Site::new(&grpc(), true, Manner::Echo);
        let client = client(&options(permitted), true);
        let mut stream = client.open(&site).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        drop(stream);
        // Without streams it is asked only if that is permitted; unasked it is not trusted any more.
        sleep(Duration::from_secs(3600)).await;
        let mut stream = client.open(&site).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert_eq!(site.dials(), dials);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_ends_when_the_server_says_so() {
    let server = HttpTransport { idle_timeout: Time::from_secs(40), ..Default::default() };
    let site = Site::new(&TransportOptions::Http(server), true, Manner::Echo);
    let client = client(&TransportOptions::Http(HttpTransport::default()), true);
    let mut stream = client.open(&site).await.unwrap();
    sleep(Duration::from_secs(400)).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    drop(stream);
    let begin = Instant::now();
    site.ended().await.unwrap();
    assert!((40..46).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    client.open(&site).await.unwrap();
    assert_eq!(site.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_any_request_ends() {
    for (tls, limit) in [(true, 15), (false, 15)] {
        let site = Site::new(&http(), tls, Manner::Echo);
        let _silent = site.connect();
        let begin = Instant::now();
        let ended = site.ended().await;
        assert!(matches!(ended, Err(AdmitError::Io(_))), "{ended:?}");
        assert_eq!(begin.elapsed().as_secs(), limit);
    }
    let site = Site::new(&http(), true, Manner::Echo);
    let mut lazy = site.connect();
    lazy.write_all(super::super::PREFACE).await.unwrap();
    lazy.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let begin = Instant::now();
    site.ended().await.unwrap();
    assert!((60..70).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}
