//! The accept loop, its limits, and descriptors that run out.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crosspoint_schema::options::ListenOptions;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::{listen::tcp_listener, testkit::Kit};

/// Lines that were logged, with the words of interest.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Gives back what comes, in capitals; panics at `!`.
async fn shout(mut conn: Accepted) {
    let mut byte = [0];
    while conn.stream.read_exact(&mut byte).await.is_ok() {
        assert!(byte != *b"!", "shouted at");
        if conn.stream.write_all(&byte.to_ascii_uppercase()).await.is_err() {
            return;
        }
    }
}

async fn ask(client: &mut TcpStream, what: &[u8; 1]) -> Option<u8> {
    let mut byte = [0];
    client.write_all(what).await.ok()?;
    client.read_exact(&mut byte).await.ok()?;
    Some(byte[0])
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_logged_with_its_number() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let cx = Kit::default().cx();
    let bound = tcp_listener(&ListenOptions::default(), &cx).unwrap();
    let addr = bound.local_addr().unwrap();
    let server = tokio::spawn(tcp(bound, cx.clone(), shout));
    let mut calm = TcpStream::connect(addr).await.unwrap();
    assert_eq!(ask(&mut calm, b"a").await, Some(b'A'));
    let mut rude = TcpStream::connect(addr).await.unwrap();
    assert_eq!(ask(&mut rude, b"!").await, None);
    assert_eq!(ask(&mut calm, b"b").await, Some(b'B'));
    let line = log.0.lock().iter().find(|line| line.contains("panicked")).cloned().unwrap();
    assert!(line.contains("conn=2") && line.contains("shouted at"), "{line}");

    // Cancelled: accepts no more; what is established lives on.
    cx.cancel.cancel();
    server.await.unwrap().unwrap();
    assert_eq!(ask(&mut calm, b"c").await, Some(b'C'));
}

#[tokio::test]
async fn a_successor_takes_over_without_a_gap() {
    let mut cx = Kit::default().cx();
    let options = ListenOptions::default();
    let bound = tcp_listener(&options, &cx).unwrap();
    let addr = bound.local_addr().unwrap();
    tokio::spawn(tcp(bound, cx.clone(), shout));
    let clients = tokio::spawn(async move {
        for _ in 0..400 {
            let mut client = TcpStream::connect(addr).await.unwrap();
            assert_eq!(ask(&mut client, b"a").await, Some(b'A'));
        }
    });
    while !clients.is_finished() {
        let next = BuildCx { cancel: Default::default(), pulse: Default::default(), ..cx.clone() };
        let bound = tcp_listener(&options, &next).unwrap();
        tokio::spawn(tcp(bound, next.clone(), shout));
        cx.cancel.cancel();
        cx = next;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    clients.await.unwrap();
    cx.cancel.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multipath_is_switched_without_a_gap() {
    for listen in ["127.0.0.1", "::1"] {
        let mut cx = Kit::default().cx();
        let listen = crosspoint_schema::decode::Addr::parse(listen).ok();
        let mut options = ListenOptions { listen, ..Default::default() };
        let bound = tcp_listener(&options, &cx).unwrap();
        let addr = bound.local_addr().unwrap();
        options.listen_port = 0;
        tokio::spawn(tcp(bound, cx.clone(), shout));
        let stop = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let stop = stop.clone();
                tokio::spawn(async move {
                    let mut served = 0;
                    while stop.load(Ordering::Relaxed) == 0 {
                        let mut client = TcpStream::connect(addr).await.unwrap();
                        assert_eq!(ask(&mut client, b"a").await, Some(b'A'));
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            options.tcp_multi_path = !options.tcp_multi_path;
            // A reload that is thrown away while it is tried changes nothing.
            drop(tcp_listener(&options, &cx).unwrap());
            cx.plane.vault.sweep(|_| false);
            let next =
                BuildCx { cancel: Default::default(), pulse: Default::default(), ..cx.clone() };
            let bound = tcp_listener(&options, &next).unwrap();
            assert_eq!(bound.local_addr().unwrap(), addr);
            tokio::spawn(tcp(bound, next.clone(), shout));
            tokio::task::yield_now().await;
            cx.cancel.cancel();
            cx = next;
            tokio::time::sleep(Duration::from_millis(1200)).await;
            cx.plane.vault.sweep(|_| false);
            assert_eq!(cx.plane.vault.len(), 1);
        }
        stop.store(1, Ordering::Relaxed);
        for client in clients {
            assert!(client.await.unwrap() > 100);
        }
        cx.cancel.cancel();
    }
}

#[tokio::test]
async fn the_loop_answers_its_pulse() {
    let cx = Kit::default().cx();
    let bound = tcp_listener(&ListenOptions::default(), &cx).unwrap();
    tokio::spawn(tcp(bound, cx.clone(), shout));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!cx.pulse.ask(), "the last question is unanswered");
    }
    cx.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn handshakes_end_in_time() {
    let slow = handshake(Duration::from_secs(3), std::future::pending::<io::Result<()>>());
    let error = slow.await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "handshake not finished within 3s");
    assert_eq!(handshake(Duration::from_secs(3), async { io::Result::Ok(7) }).await.unwrap(), 7);
}

/// Runs one ignored test of this file in a process of its own, because it changes the process.
fn in_child(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("serve::tests::{test}"), "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
}

fn lower_nofile(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
}

#[test]
fn running_out_of_descriptors_pauses_accept() {
    in_child("out_of_descriptors");
}

#[test]
#[ignore = "run by running_out_of_descriptors_pauses_accept in a process of its own"]
fn out_of_descriptors() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    runtime.unwrap().block_on(async {
        let cx = Kit::default().cx();
        let bound = tcp_listener(&ListenOptions::default(), &cx).unwrap();
        let addr = bound.local_addr().unwrap();
        let live = Arc::new(AtomicUsize::new(0));
        let count = live.clone();
        tokio::spawn(tcp(bound, cx.clone(), move |conn| {
            count.fetch_add(1, Ordering::Relaxed);
            shout(conn)
        }));
        let mut first = TcpStream::connect(addr).await.unwrap();
        assert_eq!(ask(&mut first, b"a").await, Some(b'A'));

        // Our own clients take all that is left, and one more connection waits.
        let mut clients = Vec::new();
        for _ in 0..40 {
            clients.push(std::net::TcpStream::connect(addr).unwrap());
        }
        while live.load(Ordering::Relaxed) < 41 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let waiting =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let stat = std::fs::File::open("/proc/self/stat").unwrap();
        lower_nofile(lowest_free());
        waiting.connect(&addr.into()).unwrap();
        let mut waiting: std::net::TcpStream = waiting.into();

        // No spinning: two workers would burn two seconds of CPU in one.
        let (cpu, started) = (cpu_time(&stat), Instant::now());
        tokio::time::sleep(Duration::from_millis(2200)).await;
        let burnt = cpu_time(&stat) - cpu;
        assert!(burnt < Duration::from_millis(220), "{burnt:?} of CPU in {:?}", started.elapsed());
        assert_eq!(live.load(Ordering::Relaxed), 41);
        // Live sessions go on.
        assert_eq!(ask(&mut first, b"b").await, Some(b'B'));
        let lines: Vec<_> =
            log.0.lock().iter().filter(|line| line.contains("accept paused")).cloned().collect();
        assert!((2..=3).contains(&lines.len()), "{lines:?}");
        assert!(lines[0].contains("too many open files (limit "), "{lines:?}");

        // With descriptors again, the one that waited is served.
        clients.truncate(20);
        waiting.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        std::io::Write::write_all(&mut waiting, b"z").unwrap();
        let mut byte = [0];
        let waiting =
            tokio::task::spawn_blocking(move || waiting.read_exact(&mut byte).map(|()| byte));
        assert_eq!(&waiting.await.unwrap().unwrap(), b"Z");

        // The other ends of those that went are closed a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;

        // When the lack lasts, a client that waits is told instead of left hanging.
        let late =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        lower_nofile(lowest_free());
        late.connect(&addr.into()).unwrap();
        let mut late: std::net::TcpStream = late.into();
        late.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
        let told = tokio::task::spawn_blocking(move || late.read(&mut [0])).await.unwrap();
        assert_eq!(told.unwrap(), 0);
        assert_eq!(ask(&mut first, b"c").await, Some(b'C'));
        assert!(log.0.lock().iter().any(|line| line.contains("closed for want of descriptors")));
        cx.cancel.cancel();
    });
}

/// CPU time of this process; the system counts in steps of 10 ms.
fn cpu_time(stat: &std::fs::File) -> Duration {
    use std::os::unix::fs::FileExt;
    let mut text = [0; 1024];
    let len = stat.read_at(&mut text, 0).unwrap();
    let stat = std::str::from_utf8(&text[..len]).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// The number that the next descriptor will get: with the limit there, the next one fails.
fn lowest_free() -> u64 {
    use std::os::fd::AsRawFd;
    std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64
}

#[test]
fn a_full_house_pauses_accept() {
    in_child("full_house");
}

#[test]
#[ignore = "run by a_full_house_pauses_accept in a process of its own"]
fn full_house() {
    lower_nofile(700);
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cx = Kit::default().cx();
        let bound = tcp_listener(&ListenOptions::default(), &cx).unwrap();
        let addr = bound.local_addr().unwrap();
        tokio::spawn(tcp(bound, cx.clone(), shout));
        assert_eq!(connection_limit(), 286);
        let held = permits().acquire_many_owned(284).await.unwrap();
        let mut first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        assert_eq!(ask(&mut first, b"a").await, Some(b'A'));
        assert_eq!(ask(&mut second, b"b").await, Some(b'B'));
        let mut third = TcpStream::connect(addr).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), ask(&mut third, b"c")).await;
        assert!(early.is_err(), "no permit, no accept");
        assert!(log.0.lock().iter().any(|line| line.contains("286 connections")));
        assert!(permit().is_none());
        drop(first);
        let mut byte = [0];
        third.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"C");
        drop(held);
        assert!(permit().is_some());
        cx.cancel.cancel();
    });
}

#[test]
fn the_limit_of_descriptors_is_raised() {
    in_child("raise");
}

#[test]
#[ignore = "run by the_limit_of_descriptors_is_raised in a process of its own"]
fn raise() {
    lower_nofile(300);
    let maximum = getrlimit(Resource::Nofile).maximum;
    assert_eq!(raise_nofile().unwrap(), maximum.unwrap_or(u64::MAX));
    assert_eq!(getrlimit(Resource::Nofile).current, maximum);
}
