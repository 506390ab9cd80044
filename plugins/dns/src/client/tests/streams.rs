use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::*;

/// Answers everything, in order.
async fn honest(mut stream: TcpStream) {
    while let Some(query) = read_frame(&mut stream).await {
        write_frame(&mut stream, &answer(&query)).await;
    }
}

async fn many(server: &Arc<dyn DnsServer>, count: u16) {
    join_all((0..count).map(|n| {
        let server = server.clone();
        async move { ask_well(&*server, n, &format!("q{n}.test")).await }
    }))
    .await;
}

#[tokio::test]
async fn queries_share_few_connections_and_answers_come_in_any_order() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let addr = tcp_server(listener().await, move |_, mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            // Ten at a time, backwards.
            let mut held = Vec::new();
            while let Some(query) = read_frame(&mut stream).await {
                held.push(answer(&query));
                if held.len() == 10 {
                    for answer in held.drain(..).rev() {
                        write_frame(&mut stream, &answer).await;
                    }
                }
            }
        }
    })
    .await;
    let server = at("tcp", addr).await;
    many(&server, 40).await;
    assert!(opened.load(Ordering::Relaxed) <= 4);
}

#[tokio::test]
async fn a_server_may_close_whenever_it_likes() {
    // After each answer; after three answers with more queries on the way; before any answer, but then once only.
    for limit in [1, 3] {
        let addr = tcp_server(listener().await, move |_, mut stream| async move {
            for _ in 0..limit {
                let Some(query) = read_frame(&mut stream).await else { return };
                write_frame(&mut stream, &answer(&query)).await;
            }
        })
        .await;
        let server = at("tcp", addr).await;
        for n in 0..6 {
            ask_well(&*server, n, "a.test").await;
        }
        many(&server, 60).await;
        many(&server, 60).await;
    }
    let addr = tcp_server(listener().await, |n, stream| async move {
        if n > 0 {
            honest(stream).await;
        }
    })
    .await;
    ask_well(&*at("tcp", addr).await, 7, "a.test").await;
}

#[tokio::test]
async fn a_server_that_only_closes_is_an_error_at_once() {
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    let addr = tcp_server(listener().await, move |_, mut stream| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let _ = read_frame(&mut stream).await;
        }
    })
    .await;
    let begun = Instant::now();
    let error = ask(&*at("tcp", addr).await, 7, "a.test").await.unwrap_err();
    assert!(error.to_string().contains("closed without an answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(opened.load(Ordering::Relaxed), 2, "one more chance, no more");
}

#[tokio::test]
async fn a_half_closed_connection_is_replaced() {
    let addr = tcp_server(listener().await, |n, mut stream| async move {
        if n > 0 {
            return honest(stream).await;
        }
        let query = read_frame(&mut stream).await.unwrap();
        write_frame(&mut stream, &answer(&query)).await;
        stream.shutdown().await.unwrap();
        // It still reads, for ever.
        while read_frame(&mut stream).await.is_some() {}
    })
    .await;
    let server = at("tcp", addr).await;
    for n in 0..3 {
        ask_well(&*server, n, "a.test").await;
    }
}

#[tokio::test]
async fn a_connection_that_hangs_is_left() {
    let addr = tcp_server(listener().await, |n, mut stream| async move {
        if n > 0 {
            return honest(stream).await;
        }
        while read_frame(&mut stream).await.is_some() {}
    })
    .await;
    let server = at("tcp", addr).await;
    let begun = Instant::now();
    ask_well(&*server, 7, "a.test").await;
    assert!((2400..4000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let begun = Instant::now();
    many(&server, 20).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits for it again");
}

#[tokio::test]
async fn a_slow_answer_on_the_first_connection_still_counts() {
    let addr = tcp_server(listener().await, |n, mut stream| async move {
        let query = read_frame(&mut stream).await.unwrap();
        if n == 0 {
            tokio::time::sleep(Duration::from_secs(3)).await;
            write_frame(&mut stream, &answer(&query)).await;
        }
        let _ = read_frame(&mut stream).await;
    })
    .await;
    ask_well(&*at("tcp", addr).await, 7, "a.test").await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_strangers_are_ignored() {
    let addr = tcp_server(listener().await, |n, mut stream| async move {
        let query = read_frame(&mut stream).await.unwrap();
        if n == 0 {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            return;
        }
        let mut other = answer(&query);
        other[13] ^= 1;
        write_frame(&mut stream, &other).await;
        write_frame(&mut stream, &answer(&query)).await;
        let _ = read_frame(&mut stream).await;
    })
    .await;
    // "HT" is a length of 18516 bytes that never come: the end of the connection ends the wait.
    ask_well(&*at("tcp", addr).await, 7, "a.test").await;
    let addr = tcp_server(listener().await, |_, mut stream| async move {
        let _ = read_frame(&mut stream).await;
        let _ = stream.write_all(&[0, 3, 1, 2, 3]).await;
        let _ = read_frame(&mut stream).await;
    })
    .await;
    let error = ask(&*at("tcp", addr).await, 7, "a.test").await.unwrap_err();
    assert!(error.to_string().contains("not a dns message"), "{error}");
}

#[tokio::test]
async fn the_longest_answers_pass() {
    let addr = tcp_server(listener().await, |_, mut stream| async move {
        while let Some(query) = read_frame(&mut stream).await {
            let mut long = answer(&query);
            long.resize(65_535, 9);
            write_frame(&mut stream, &long).await;
        }
    })
    .await;
    let server = at("tcp", addr).await;
    let asks = (0..50).map(|n| {
        let server = server.clone();
        async move { ask(&*server, n, &format!("q{n}.test")).await.unwrap().len() }
    });
    assert!(join_all(asks).await.iter().all(|length| *length == 65_535));
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let first = listener().await;
    let addr = first.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let (stream, _) = first.accept().await.unwrap();
        tokio::select! {
            () = honest(stream) => {}
            _ = ended => {}
        }
    });
    let server = at("tcp", addr).await;
    ask_well(&*server, 7, "a.test").await;
    drop(end);
    task.await.unwrap();
    let error = ask(&*server, 7, "a.test").await.unwrap_err();
    assert!(error.to_string().contains("connection refused"), "{error}");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    tcp_server(socket.listen(16).unwrap(), |_, stream| honest(stream)).await;
    ask_well(&*server, 7, "a.test").await;
}

#[tokio::test]
async fn a_reset_asks_again() {
    let addr = tcp_server(listener().await, |n, mut stream| async move {
        if n > 0 {
            return honest(stream).await;
        }
        while read_frame(&mut stream).await.is_some() {}
    })
    .await;
    let server = at("tcp", addr).await;
    let asked = server.clone();
    let waiting = tokio::spawn(async move { ask_well(&*asked, 7, "a.test").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    server.reset();
    waiting.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn connections_end_with_the_server() {
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    let addr = tcp_server(listener().await, move |_, stream| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            honest(stream).await;
            count.fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    let server = at("tcp", addr).await;
    many(&server, 30).await;
    assert!(open.load(Ordering::Relaxed) > 0);
    drop(server);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(open.load(Ordering::Relaxed), 0);
}
