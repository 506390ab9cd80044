//! What stands in front of the resolver: the DNS inbound, `hijack-dns` behind sniffers, the old `dns` outbound, made-up
//! addresses, reverse mapping, loops, and clients that send nonsense.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::net::origin::Origin as Echo;
use crosspoint_conformance::net::{Socks, Target, within};
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::{Subject, write_config};
use crosspoint_conformance::{loud, ports};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::client::{Ask, framed, said};
use super::origin::Origin;

const WAIT: Duration = Duration::from_secs(3);

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A configuration with one DNS server; `extra` replaces or adds sections.
fn config(port: u16, origin: &Origin, extra: Value) -> Value {
    let mut config = json!({
        "log": { "level": "debug" },
        "dns": {
            "servers": [
                { "type": "udp", "tag": "main", "server": "127.0.0.1", "server_port": origin.port() },
            ],
        },
        "inbounds": [
            { "type": "dns", "tag": "dns", "listen": "127.0.0.1", "listen_port": port },
        ],
        "outbounds": [{ "type": "direct", "tag": "direct" }],
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

async fn ask(port: u16, text: &str) -> Result<String> {
    Ask::parse(text)?.at(local(port), WAIT).await
}

#[tokio::test]
async fn the_inbound_answers_over_both_networks() -> Result<()> {
    let (origin, other) = (Origin::start("main").await?, Origin::start("other").await?);
    let [port, second] = ports::many();
    let dns = json!({
        "servers": [
            { "type": "udp", "tag": "main", "server": "127.0.0.1", "server_port": origin.port() },
            { "type": "udp", "tag": "other", "server": "127.0.0.1", "server_port": other.port() },
        ],
        "rules": [
            { "inbound": "second", "domain_suffix": ".in.test", "server": "other" },
            { "source_ip_cidr": "127.0.0.0/8", "domain_suffix": ".src.test", "server": "other" },
            { "domain": "drop.test", "action": "reject", "method": "drop" },
        ],
    });
    let mut config = config(port, &origin, json!({ "dns": dns }));
    config["inbounds"] = json!([
        { "type": "dns", "tag": "dns", "listen": "127.0.0.1", "listen_port": port },
        { "type": "dns", "tag": "second", "listen": "::", "listen_port": second },
    ]);
    let daemon = Subject::under_test().start(&config).await?;
    for (port, text, expected) in [
        (port, "a.1.test A", "NoError rd ra ? a.1.test. A = a.1.test. 300 A 192.0.2.1"),
        (port, "a.1.test A tcp", "NoError rd ra ? a.1.test. A = a.1.test. 300 A 192.0.2.1"),
        (port, "nx.test A", "NXDomain rd ra ? nx.test. A @ test. 60 SOA"),
        (port, "who.2.in.test TXT", "300 TXT main"),
        (second, "who.3.in.test TXT", "300 TXT other"),
        (second, "who.4.in.test TXT tcp", "300 TXT other"),
        (second, "who.5.src.test TXT", "300 TXT other"),
        (port, "many.6.test A", "NoError tc rd ra"),
        (port, "many.6.test A edns=1232", "NoError rd ra"),
        (port, "many.6.test A tcp", "NoError rd ra"),
        (port, "drop.test A", "no answer"),
        (port, "drop.test A tcp", "closed"),
    ] {
        let told = ask(port, text).await?;
        ensure!(told.contains(expected), "{text}: {told}\n{}", daemon.log_tail());
    }
    // A socket for all addresses answers from the one that was asked.
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect((Ipv4Addr::new(127, 0, 0, 9), second)).await?;
    socket.send(&Ask::parse("a.1.test A")?.message(7)?).await?;
    let mut buffer = [0; 1500];
    let len = within("answer", WAIT, socket.recv(&mut buffer)).await?;
    ensure!(said(&buffer[..len], 7).starts_with("NoError rd"), "{}", said(&buffer[..len], 7));
    Ok(())
}

#[tokio::test]
async fn streams_are_pipelined() -> Result<()> {
    let origin = Origin::start("main").await?;
    let port = ports::free();
    let daemon = Subject::under_test().start(&config(port, &origin, json!({}))).await?;
    let mut stream = TcpStream::connect(local(port)).await?;
    let mut all = framed(&Ask::parse("slow.1.test A")?.message(0)?)?;
    for id in 1..200 {
        all.extend(framed(&Ask::parse(&format!("a.{}.test A", id % 50))?.message(id)?)?);
    }
    let half = all.len() / 2 + 1;
    stream.write_all(&all[..half]).await?;
    tokio::time::sleep(Duration::from_millis(30)).await;
    stream.write_all(&all[half..]).await?;
    // Half a connection is enough to be answered.
    stream.shutdown().await?;
    let mut order = Vec::new();
    for _ in 0..200 {
        let mut answer = vec![0; stream.read_u16().await.context("an answer")?.into()];
        stream.read_exact(&mut answer).await?;
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        ensure!(said(&answer, id).contains("192.0.2.1"), "{}", said(&answer, id));
        order.push(id);
    }
    ensure!(order.last() == Some(&0), "a slow answer holds others back: {order:?}");
    order.sort_unstable();
    ensure!(order == (0..200).collect::<Vec<_>>(), "{order:?}");
    ensure!(stream.read(&mut [0]).await? == 0, "the end of the stream");
    drop(daemon);
    Ok(())
}

/// Sends what is no DNS in every way that comes to mind, while somebody else wants answers.
#[tokio::test]
async fn nonsense_harms_nobody() -> Result<()> {
    let origin = Origin::start("main").await?;
    let [port, hijacked] = ports::many();
    let mut config = config(
        port,
        &origin,
        json!({
            "route": { "rules": [{ "inbound": "direct", "action": "hijack-dns" }] },
        }),
    );
    config["inbounds"] = json!([
        { "type": "dns", "tag": "dns", "listen": "127.0.0.1", "listen_port": port },
        { "type": "direct", "tag": "direct", "listen": "127.0.0.1", "listen_port": hijacked },
    ]);
    config["log"] = json!({ "level": "warn" });
    let mut daemon = Subject::under_test().start(&config).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = tokio::task::JoinSet::new();
    for port in [port, hijacked] {
        for seed in 0..2 {
            senders.spawn(flood(port, seed, stop.clone()));
            senders.spawn(streams_of_nonsense(port, seed, stop.clone()));
        }
    }
    let (mut worst, mut lost, mut asked) = (Duration::ZERO, 0, 0);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for port in [port, hijacked] {
            for (text, expected) in [("a.1.test A", "192.0.2.1"), ("a.1.test A tcp", "192.0.2.1")] {
                let start = Instant::now();
                let told = ask(port, text).await?;
                asked += 1;
                // The queue of a flooded socket drops what it likes.
                if told == "no answer" && !text.ends_with("tcp") {
                    lost += 1;
                } else {
                    ensure!(told.contains(expected), "{text}: {told}");
                    worst = worst.max(start.elapsed());
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = 0;
    while let Some(count) = senders.join_next().await {
        sent += count??;
    }
    ensure!(lost * 10 <= asked, "{lost} of {asked} queries lost");
    ensure!(daemon.try_exit().is_none(), "the daemon ended:\n{}", daemon.log_tail());
    let log = daemon.log();
    ensure!(!log.contains("panick"), "{log}");
    let told = ask(port, "a.2.test A").await?;
    ensure!(told.contains("192.0.2.1"), "{told}");
    loud::line(&format!("NONSENSE {sent} messages; {asked} queries, {lost} lost, worst {worst:?}"));
    Ok(())
}

/// Small, deterministic noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A query that was mangled, or bytes without sense.
    fn message(&mut self) -> Result<Vec<u8>> {
        let n = self.next();
        let mut bytes = Ask::parse(&format!("a.{}.test A edns=1232", n % 7))?.message(n as u16)?;
        match n % 8 {
            0 => bytes = (0..self.next() % 60).map(|_| self.next() as u8).collect(),
            1 => bytes.truncate((self.next() % 60) as usize),
            // Compression that leads to itself, forward, and into the header.
            2 => bytes.splice(12.., [0xc0, 12, 0, 1, 0, 1]).for_each(drop),
            3 => bytes.splice(12.., [0xc0, 0xff, 0, 1, 0, 1]).for_each(drop),
            4 => bytes[4..12].fill(0xff),
            5 => bytes[2] |= 0x80,
            6 => bytes.resize(1400, 0xc0),
            _ => {
                let at = self.next() as usize % bytes.len();
                bytes[at] = self.next() as u8;
            }
        }
        Ok(bytes)
    }
}

async fn flood(port: u16, seed: u64, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut noise = Noise(seed + 11);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        for _ in 0..50 {
            // Answers nobody reads, refusals nobody minds.
            let _ = socket.send_to(&noise.message()?, local(port)).await;
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(sent)
}

async fn streams_of_nonsense(port: u16, seed: u64, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut noise = Noise(seed + 77);
    let mut sent = 0;
    let mut open = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(local(port)).await?;
        for _ in 0..noise.next() % 4 {
            let _ = stream.write_all(&framed(&noise.message()?)?).await;
            sent += 1;
        }
        // A length, and nothing or little behind it.
        let _ = stream.write_all(&[0xff, 0xff, 1, 2, 3]).await;
        open.push(stream);
        if open.len() > 50 {
            open.clear();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(sent)
}

/// Reloads change the inbound, its socket's options, rules and servers; no query stays without answer.
#[tokio::test]
async fn no_query_is_lost_over_reloads() -> Result<()> {
    let origin = Origin::start("main").await?;
    let [port, extra] = ports::many();
    let generation = |n: u32| {
        let mut config = config(port, &origin, json!({}));
        config["dns"]["rules"] = json!([{ "domain": format!("x{n}.test"), "action": "reject" }]);
        config["dns"]["servers"][0]["connect_timeout"] = json!(format!("{}s", 3 + n % 2));
        config["inbounds"][0]["tcp_keep_alive"] = json!(format!("{}s", 60 + n % 3));
        if n % 2 == 1 {
            let more = json!({ "type": "dns", "tag": "more", "listen": "127.0.0.1",
                "listen_port": extra });
            config["inbounds"].as_array_mut().into_iter().for_each(|list| list.push(more.clone()));
        }
        config
    };
    let daemon = Subject::under_test().start(&generation(0)).await?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..3 {
        let (stop, count) = (stop.clone(), count.clone());
        clients.spawn(async move {
            let mut stream = TcpStream::connect(local(port)).await?;
            let mut n = 0_u16;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let text = format!("a.{client}-{n}.test A");
                let told = ask(port, &text).await?;
                ensure!(told.contains("192.0.2.1"), "{text}: {told}");
                // One stream lives through all of it.
                stream.write_all(&framed(&Ask::parse(&text)?.message(n)?)?).await?;
                let mut answer =
                    vec![0; stream.read_u16().await.context("the stream ended")?.into()];
                stream.read_exact(&mut answer).await?;
                ensure!(said(&answer, n).contains("192.0.2.1"), "{}", said(&answer, n));
                count.fetch_add(2, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    for n in 1..=20 {
        write_config(daemon.dir(), &generation(n))?;
        daemon.ctl(&["reload"]).with_context(|| daemon.log_tail())?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if n % 5 == 0 {
            daemon.ctl(&["restart", "inbound/dns"])?;
        }
        // Rules of the new generation hold for streams that were open before.
        let told = ask(port, &format!("x{n}.test A")).await?;
        ensure!(told.starts_with("Refused"), "{told}");
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = clients.join_next().await {
        result?.with_context(|| daemon.log_tail())?;
    }
    let count = count.load(Ordering::Relaxed);
    loud::line(&format!("DNS INBOUND {count} queries over 20 reloads, none lost"));
    ensure!(count > 100, "only {count} queries");
    Ok(())
}

/// The configuration that everybody has: sniff, and take over what is DNS.
#[tokio::test]
async fn sniffed_dns_is_taken_over() -> Result<()> {
    let origin = Origin::start("main").await?;
    let [dns, mixed] = ports::many();
    for (route, env) in [
        (
            json!({ "rules": [
                { "action": "sniff" }, { "protocol": "dns", "action": "hijack-dns" },
                { "action": "reject" },
            ] }),
            "",
        ),
        // The same in the language of old.
        (
            json!({ "rules": [
                { "action": "sniff" }, { "protocol": "dns", "outbound": "dns" },
                { "action": "reject" },
            ] }),
            "ENABLE_DEPRECATED_SPECIAL_OUTBOUNDS",
        ),
    ] {
        let mut config = config(dns, &origin, json!({ "route": route }));
        config["inbounds"] = json!([
            { "type": "mixed", "tag": "mixed", "listen": "127.0.0.1", "listen_port": mixed },
        ]);
        if !env.is_empty() {
            config["outbounds"] = json!([
                { "type": "direct", "tag": "direct" }, { "type": "dns", "tag": "dns" },
            ]);
        }
        let launch = Subject::under_test().launch(&config)?;
        let launch = if env.is_empty() { launch } else { launch.env(env, "true") };
        let daemon = launch.start().await?;
        through_socks(mixed).await.with_context(|| format!("{env}\n{}", daemon.log()))?;
    }
    Ok(())
}

/// Asks a server that does not exist, over UDP and TCP through SOCKS.
async fn through_socks(mixed: u16) -> Result<()> {
    let socks = Socks::v5(local(mixed));
    let nowhere = Target::Addr("192.0.2.53:53".parse()?);
    let association = socks.associate().await?;
    for id in 0..50 {
        let message = Ask::parse(&format!("a.{}.test A", id % 10))?.message(id)?;
        association.send_to(&nowhere, &message).await?;
    }
    association.send_to(&nowhere, b"garbage").await?;
    let mut ids = Vec::new();
    for _ in 0..50 {
        let (from, answer) = within("answer", WAIT, association.recv_from()).await?;
        ensure!(format!("{from:?}") == format!("{nowhere:?}"), "an answer from {from:?}");
        let id = u16::from_be_bytes([answer[0], answer[1]]);
        ensure!(said(&answer, id).contains("192.0.2.1"), "{}", said(&answer, id));
        ids.push(id);
    }
    ids.sort_unstable();
    ensure!(ids == (0..50).collect::<Vec<_>>(), "{ids:?}");
    let mut stream = socks.connect(&nowhere).await?;
    for id in 0..3 {
        stream.write_all(&framed(&Ask::parse("a.1.test AAAA")?.message(id)?)?).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        ensure!(said(&answer, id).contains("2001:db8::1"), "{}", said(&answer, id));
    }
    Ok(())
}

/// A client that was told a made-up address reaches the name behind it, and is answered from that address.
#[tokio::test]
async fn made_up_addresses_lead_to_their_names() -> Result<()> {
    let origin = Origin::start("main").await?;
    let (echo, datagrams) =
        (Echo::tcp_echo("127.0.0.1:0").await?, Echo::udp_echo("127.0.0.1:0").await?);
    let [dns, mixed] = ports::many();
    let mut config = config(
        dns,
        &origin,
        json!({
            "dns": {
                "servers": [
                    { "type": "udp", "tag": "main", "server": "127.0.0.1",
                      "server_port": origin.port() },
                    { "type": "hosts", "tag": "hosts", "path": ["/nonexistent"],
                      "predefined": { "echo.fake.test": "127.0.0.1" } },
                    { "type": "fakeip", "tag": "fake", "inet4_range": "198.18.0.0/15",
                      "inet6_range": "fc00::/18" },
                ],
                "rules": [
                    { "inbound": "dns", "domain_suffix": ".fake.test", "server": "fake" },
                    { "domain_suffix": ".fake.test", "server": "hosts" },
                ],
            },
            "route": { "rules": [
                { "domain": "refused.fake.test", "action": "reject" },
            ], "default_domain_resolver": "hosts" },
        }),
    );
    config["inbounds"].as_array_mut().context("inbounds")?.push(
        json!({ "type": "mixed", "tag": "mixed", "listen": "127.0.0.1", "listen_port": mixed }),
    );
    let daemon = Subject::under_test().start(&config).await?;
    let told = ask(dns, "echo.fake.test A").await?;
    let fake = told.rsplit(' ').next().context("no address")?;
    ensure!(fake.starts_with("198.18."), "{told}");
    let socks = Socks::v5(local(mixed));
    let through = async {
        let mut stream =
            socks.connect(&Target::Addr(format!("{fake}:{}", echo.addr().port()).parse()?)).await?;
        stream.write_all(b"hello").await?;
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).await?;
        ensure!(&buffer == b"hello");
        let association = socks.associate().await?;
        let target = Target::Addr(format!("{fake}:{}", datagrams.addr().port()).parse()?);
        association.send_to(&target, b"there").await?;
        let (from, back) = within("answer", WAIT, association.recv_from()).await?;
        ensure!(back == b"there" && format!("{from:?}") == format!("{target:?}"), "{from:?}");
        Ok(())
    };
    through.await.with_context(|| daemon.log())?;
    // An address of the range that was never given out.
    let unknown = Target::Addr("198.18.99.99:80".parse()?);
    ensure!(socks.connect(&unknown).await.is_err());
    ensure!(daemon.log().contains("missing fakeip record"), "{}", daemon.log());
    Ok(())
}

/// Rules on names see connections to addresses that clients were told for these names.
#[tokio::test]
async fn addresses_are_known_by_the_names_they_were_told_for() -> Result<()> {
    let origin = Origin::start("main").await?;
    let echo = Echo::tcp_echo("127.0.0.1:0").await?;
    let [dns, mixed] = ports::many();
    let mut config = config(
        dns,
        &origin,
        json!({
            "route": { "rules": [
                { "domain": "a.mapped.test", "outbound": "direct",
                  "override_address": "127.0.0.1", "override_port": echo.addr().port() },
                { "action": "reject" },
            ] },
        }),
    );
    config["dns"]["reverse_mapping"] = json!(true);
    config["inbounds"].as_array_mut().context("inbounds")?.push(
        json!({ "type": "mixed", "tag": "mixed", "listen": "127.0.0.1", "listen_port": mixed }),
    );
    let daemon = Subject::under_test().start(&config).await?;
    let socks = Socks::v5(local(mixed));
    let target = Target::Addr("192.0.2.1:80".parse()?);
    ensure!(socks.connect(&target).await.is_err(), "nobody was told that address");
    ask(dns, "a.mapped.test A").await?;
    let mut stream = socks.connect(&target).await.with_context(|| daemon.log())?;
    stream.write_all(b"hello").await?;
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await?;
    ensure!(&buffer == b"hello");
    Ok(())
}

/// Servers that need themselves to be reached fail at once, and say which.
#[tokio::test]
async fn loops_are_found_and_named() -> Result<()> {
    let origin = Origin::start("main").await?;
    let proxy = ports::free();
    for (what, servers, outbounds) in [
        (
            "a server whose name only it can resolve",
            json!([{ "type": "udp", "tag": "self", "server": "dns.loop.test",
                "domain_resolver": "self" }]),
            json!([]),
        ),
        (
            "two servers that need each other",
            json!([
                { "type": "udp", "tag": "self", "server": "dns.loop.test",
                  "domain_resolver": "second" },
                { "type": "tcp", "tag": "second", "server": "other.loop.test",
                  "domain_resolver": "self" },
            ]),
            json!([]),
        ),
        (
            "a server behind an outbound that asks it",
            json!([{ "type": "tcp", "tag": "self", "server": "192.0.2.1", "detour": "proxy" }]),
            json!([{ "type": "socks", "tag": "proxy", "server": "proxy.loop.test",
                "server_port": proxy, "domain_resolver": "self" }]),
        ),
    ] {
        let port = ports::free();
        let mut config = config(port, &origin, json!({}));
        config["dns"]["servers"] = servers;
        let list = config["outbounds"].as_array_mut().context("outbounds")?;
        list.extend(outbounds.as_array().into_iter().flatten().cloned());
        let start = Instant::now();
        let daemon: Result<Running> = Subject::under_test().start(&config).await;
        let seen = match daemon {
            // Some are found before anything runs.
            Err(error) => format!("{error:#}"),
            Ok(daemon) => {
                let told = ask(port, "a.test A").await?;
                ensure!(told.starts_with("ServFail"), "{what}: {told}");
                daemon.log()
            }
        };
        ensure!(start.elapsed() < Duration::from_secs(8), "{what} took {:?}", start.elapsed());
        let named = seen.contains("self") && (seen.contains("loop") || seen.contains("circular"));
        ensure!(named, "{what}: nothing named:\n{seen}");
    }
    Ok(())
}
