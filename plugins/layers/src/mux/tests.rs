//! Sessions with both ends of ours, and time that only passes when nothing else happens.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use super::{
    carrier::Carrier,
    driver,
    frame::{Dialect, WINDOW},
    session::{MuxStream, Session},
};

/// Both ends of a session.
struct Pair {
    client: Arc<Session>,
    server: Arc<Session>,
    accepted: mpsc::UnboundedReceiver<MuxStream>,
    work: [JoinHandle<std::io::Result<()>>; 2],
}

fn session(
    dialect: Dialect,
    client: bool,
    io: DuplexStream,
) -> (Arc<Session>, JoinHandle<std::io::Result<()>>, mpsc::UnboundedReceiver<MuxStream>) {
    let session = Session::new(dialect, client, None);
    let (send, accepted) = mpsc::unbounded_channel();
    let carrier = Carrier::server(Box::new(io), false);
    let work = driver::run(session.clone(), carrier, move |stream| drop(send.send(stream)));
    (session, tokio::spawn(work), accepted)
}

fn pair(dialect: Dialect) -> Pair {
    let (near, far) = duplex(16 * 1024);
    let (client, one, _) = session(dialect, true, near);
    let (server, two, accepted) = session(dialect, false, far);
    Pair { client, server, accepted, work: [one, two] }
}

const BOTH: [Dialect; 2] = [Dialect::Smux, Dialect::Yamux];

/// Bytes that are not all the same.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + seed * 7 + n / 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_streams_at_once_carry_what_they_are_given() {
    for dialect in BOTH {
        let Pair { client, server, mut accepted, work } = pair(dialect);
        let echo = tokio::spawn(async move {
            while let Some(stream) = accepted.recv().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    let mut buffer = vec![0; 50_000];
                    loop {
                        match read.read(&mut buffer).await.unwrap() {
                            0 => break,
                            n => write.write_all(&buffer[..n]).await.unwrap(),
                        }
                    }
                    write.shutdown().await.unwrap();
                });
            }
        });
        let streams = (0..200).map(|n| {
            let stream = client.open().unwrap();
            tokio::spawn(async move {
                let sent = pattern(100_000 + n * 37, n);
                let wanted = sent.clone();
                let (mut read, mut write) = tokio::io::split(stream);
                let sender = tokio::spawn(async move {
                    write.write_all(&sent).await.unwrap();
                    write.shutdown().await.unwrap();
                    write
                });
                let mut got = Vec::new();
                read.read_to_end(&mut got).await.unwrap();
                assert!(got == wanted, "stream {n}");
                sender.await.unwrap();
            })
        });
        for stream in streams.collect::<Vec<_>>() {
            timeout(Duration::from_secs(600), stream).await.expect("in time").unwrap();
        }
        assert_eq!(client.live(), 0);
        // An unused session that drains ends, and so does the other end.
        client.drain();
        for work in work {
            timeout(Duration::from_secs(60), work).await.expect("in time").unwrap().unwrap();
        }
        assert!(client.is_closed() && server.is_closed());
        echo.await.unwrap();
        assert_eq!(server.unread.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_does_not_stop_the_others() {
    for dialect in BOTH {
        let Pair { client, mut accepted, work: _work, .. } = pair(dialect);
        let mut slow = client.open().unwrap();
        let written = timeout(Duration::from_secs(5), slow.write_all(&vec![1; 3 << 20])).await;
        // yamux stops the writer; smux takes it in up to the bound of the session.
        assert_eq!(written.is_err(), dialect == Dialect::Yamux);
        let stalled = accepted.recv().await.unwrap();
        for n in 0..20 {
            let mut stream = client.open().unwrap();
            stream.write_all(&pattern(100_000, n)).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut other = accepted.recv().await.unwrap();
            let mut got = Vec::new();
            let read = other.read_to_end(&mut got);
            timeout(Duration::from_secs(5), read).await.expect("not stopped").unwrap();
            assert!(got == pattern(100_000, n));
        }
        drop(stalled);
    }
}

#[tokio::test(start_paused = true)]
async fn an_smux_session_that_is_full_goes_on_without_the_worst() {
    let Pair { client, server, mut accepted, work: _work } = pair(Dialect::Smux);
    let mut slow = client.open().unwrap();
    let writer = tokio::spawn(async move { slow.write_all(&vec![1; 30 << 20]).await });
    let mut stalled = accepted.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!server.takes_more(), "full");
    let held = server.unread.load(std::sync::atomic::Ordering::SeqCst);
    assert!(held < server.limit + 64 * 1024, "bounded: {held}");
    // Alone it may stand as long as it likes.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!writer.is_finished());
    let mut byte = [0];
    stalled.read_exact(&mut byte).await.unwrap();
    drop(client.open().unwrap());
    let mut other = client.open().unwrap();
    // The request of the second one is behind what fills the session, and the server knows one stream alone: reading helps.
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(1..) = stalled.read(&mut buffer).await {}
    });
    other.write_all(b"now").await.unwrap();
    let mut second =
        timeout(Duration::from_secs(60), accepted.recv()).await.expect("in time").unwrap();
    let mut bytes = [0; 3];
    second.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"now");
}

#[tokio::test(start_paused = true)]
async fn of_several_streams_in_a_full_session_the_one_that_holds_most_is_reset() {
    let Pair { client, server, mut accepted, work: _work } = pair(Dialect::Smux);
    let mut other = client.open().unwrap();
    other.write_all(b"x").await.unwrap();
    let mut fine = accepted.recv().await.unwrap();
    fine.read_exact(&mut [0]).await.unwrap();
    let mut slow = client.open().unwrap();
    let writer = tokio::spawn(async move { slow.write_all(&vec![1; 30 << 20]).await });
    let mut stalled = accepted.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!server.takes_more(), "full");
    other.write_all(b"yz").await.unwrap();
    let mut bytes = [0; 2];
    timeout(Duration::from_secs(60), fine.read_exact(&mut bytes)).await.expect("in time").unwrap();
    assert_eq!(&bytes, b"yz");
    let why = stalled.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(why.kind(), std::io::ErrorKind::TimedOut);
    assert!(writer.await.unwrap().is_err(), "the other side hears of it");
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_stream_goes_on_in_the_other_direction() {
    for dialect in BOTH {
        let Pair { client, mut accepted, work: _work, .. } = pair(dialect);
        let mut near = client.open().unwrap();
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        assert!(near.write_all(b"more").await.is_err());
        let mut far = accepted.recv().await.unwrap();
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"question");
        let reader = tokio::spawn(async move {
            let mut bytes = Vec::new();
            near.read_to_end(&mut bytes).await.map(|_| bytes)
        });
        far.write_all(&pattern(500_000, 1)).await.unwrap();
        far.shutdown().await.unwrap();
        assert!(reader.await.unwrap().unwrap() == pattern(500_000, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_an_smux_stream_nothing_is_sent() {
    let Pair { client, mut accepted, work: _work, .. } = pair(Dialect::Smux);
    let mut near = client.open().unwrap();
    near.write_all(b"x").await.unwrap();
    drop(near);
    let mut far = accepted.recv().await.unwrap();
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"x");
    assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    // Neither after the end of one direction, when the other side has gone altogether.
    let mut near = client.open().unwrap();
    near.write_all(b"x").await.unwrap();
    near.shutdown().await.unwrap();
    let mut far = accepted.recv().await.unwrap();
    far.read_to_end(&mut bytes).await.unwrap();
    far.write_all(b"still there").await.unwrap();
    drop(near);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(far.write_all(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn a_yamux_stream_that_is_dropped_is_reset() {
    let Pair { client, server, mut accepted, work: _work } = pair(Dialect::Yamux);
    let mut near = client.open().unwrap();
    near.write_all(b"x").await.unwrap();
    let mut far = accepted.recv().await.unwrap();
    drop(near);
    far.read_exact(&mut [0]).await.unwrap();
    assert_eq!(far.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(far.write_all(b"x").await.is_err());
    drop(far);
    // One that was ended properly waits for the other end, but not for ever.
    let mut near = client.open().unwrap();
    near.write_all(b"x").await.unwrap();
    near.shutdown().await.unwrap();
    let far = accepted.recv().await.unwrap();
    drop(near);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.streams.lock().by_id.len(), 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(client.streams.lock().by_id.len(), 0);
    drop(far);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.streams.lock().by_id.len(), 0);
    assert_eq!((client.live(), server.live()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_received_is_read_before_the_session_is_missed() {
    for dialect in BOTH {
        let Pair { client, mut accepted, work, .. } = pair(dialect);
        let mut near = client.open().unwrap();
        near.write_all(b"last words").await.unwrap();
        let mut far = accepted.recv().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        work.iter().for_each(JoinHandle::abort);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut bytes = [0; 10];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"last words");
        assert!(far.read(&mut bytes).await.is_err());
        assert!(near.read(&mut bytes).await.is_err());
        assert!(near.write_all(b"x").await.is_err());
        assert!(client.open().is_err() && client.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_yamux_peer_that_is_silent_is_given_up() {
    let (near, mut far) = duplex(16 * 1024);
    let (client, work, _accepted) = session(Dialect::Yamux, true, near);
    let mut stream = client.open().unwrap();
    stream.write_all(b"x").await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!client.takes_more(), "it does not accept streams");
    let end = timeout(Duration::from_secs(60), work).await.expect("in time").unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    let mut bytes = Vec::new();
    far.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes[..12], [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_ignores_a_window_is_sent_away() {
    let (near, mut far) = duplex(1 << 20);
    let (_server, work, mut accepted) = session(Dialect::Yamux, false, near);
    let mut frames = Vec::new();
    Dialect::Yamux.open(1, &mut frames);
    for _ in 0..5 {
        Dialect::Yamux.data(1, 0xffff, &mut frames);
        frames.resize(frames.len() + 0xffff, 0);
    }
    const { assert!(5 * 0xffff > WINDOW) };
    far.write_all(&frames).await.unwrap();
    let _stream = accepted.recv().await.unwrap();
    assert!(work.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_a_session() {
    for dialect in BOTH {
        for garbage in [&[0x5a; 600][..], b"GET / HTTP/1.1\r\n\r\n", &[0; 5]] {
            let (near, mut far) = duplex(16 * 1024);
            let (_server, work, _accepted) = session(dialect, false, near);
            far.write_all(garbage).await.unwrap();
            drop(far);
            assert!(work.await.unwrap().is_err());
        }
    }
}

/// What a peer may send: any frames, in any order, with any numbers.
#[derive(Clone, Debug)]
enum Said {
    Open(u32),
    Data(u32, u16),
    End(u32),
    Reset(u32),
    Window(u32, u32),
    Ping(bool, u32),
    Bytes(Vec<u8>),
}

fn said() -> impl proptest::strategy::Strategy<Value = Said> {
    use proptest::prelude::*;
    let id = 0u32..6;
    prop_oneof![
        4 => id.clone().prop_map(Said::Open),
        6 => (id.clone(), 0u16..5000).prop_map(|(id, len)| Said::Data(id, len)),
        2 => id.clone().prop_map(Said::End),
        2 => id.clone().prop_map(Said::Reset),
        2 => (id, any::<u32>()).prop_map(|(id, more)| Said::Window(id, more)),
        1 => (any::<bool>(), any::<u32>()).prop_map(|(answer, number)| Said::Ping(answer, number)),
        1 => proptest::collection::vec(any::<u8>(), 0..30).prop_map(Said::Bytes),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    /// Whatever a peer says, a session neither panics nor hangs, and nothing of it is left when both ends are gone.
    #[test]
    fn nothing_that_a_peer_says_breaks_a_session(yamux: bool, client: bool, all in proptest::collection::vec(said(), 0..60)) {
        let dialect = if yamux { Dialect::Yamux } else { Dialect::Smux };
        let mut bytes = Vec::new();
        for said in all {
            match said {
                Said::Open(id) => dialect.open(id, &mut bytes),
                Said::Data(id, len) => {
                    dialect.data(id, len, &mut bytes);
                    bytes.resize(bytes.len() + usize::from(len), 7);
                }
                Said::End(id) => dialect.end(id, &mut bytes),
                Said::Reset(id) => dialect.reset(id, &mut bytes),
                Said::Window(id, more) => dialect.window(id, more, &mut bytes),
                Said::Ping(answer, number) => dialect.ping(answer, number, &mut bytes),
                Said::Bytes(any) => bytes.extend(any),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (near, far) = duplex(1 << 20);
            let (session, work, mut accepted) = session(dialect, client, near);
            let mut own = session.open().unwrap();
            let echo = tokio::spawn(async move {
                let mut streams = tokio::task::JoinSet::new();
                while let Some(mut stream) = accepted.recv().await {
                    streams.spawn(async move {
                        let mut buffer = vec![0; 3000];
                        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                            if stream.write_all(&buffer[..n]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
                while streams.join_next().await.is_some() {}
            });
            let mine = tokio::spawn(async move {
                let _ = own.write_all(b"hello").await;
                let _ = own.read(&mut [0; 100]).await;
            });
            let (mut reader, mut writer) = tokio::io::split(far);
            let sink = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
            let _ = writer.write_all(&bytes).await;
            let _ = writer.shutdown().await;
            drop(timeout(Duration::from_secs(300), work).await.expect("ends").unwrap());
            timeout(Duration::from_secs(300), mine).await.expect("ends").unwrap();
            timeout(Duration::from_secs(300), echo).await.expect("ends").unwrap();
            drop(timeout(Duration::from_secs(300), sink).await.expect("ends"));
            assert_eq!((session.live(), session.unread.load(std::sync::atomic::Ordering::SeqCst)), (0, 0));
        });
    }
}
