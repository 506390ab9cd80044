//! WireGuard over a network that loses, delays, moves and replays.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::suite::{self, Origins},
    process::Running,
    subject::Subject,
};
use serde_json::json;
use tokio::{net::UdpSocket, task::JoinSet, time::Instant};

use super::wireguard_stage::{
    End, Flow, Relay, SECRET, Side, Weather, served, start, through, unknown, with,
};

/// Two ends with a relay between them. The near one knows where the far one is, the far one learns it.
struct Pair {
    near: End,
    far: End,
    relay: Relay,
    programs: [Running; 2],
}

impl Pair {
    async fn start(near: Subject, far: Subject, weather: Weather) -> Result<Self> {
        let programs = [near, far];
        let (near, far) = (End::new(1)?, End::new(2)?);
        let relay = Relay::to(far.port, weather).await?;
        let peer = through(&relay, far.peer(SECRET));
        let one = start(&programs[0], &near.config(&[peer], &far, &json!({}))).await?;
        let peer = unknown(near.peer(SECRET));
        let two = start(&programs[1], &far.config(&[peer], &near, &json!({}))).await?;
        Ok(Self { near, far, relay, programs: [one, two] })
    }

    fn logs(&self) -> String {
        let [one, two] = &self.programs;
        format!("near:\n{}\nfar:\n{}", one.log_tail(), two.log_tail())
    }
}

/// The two ways in which we can stand to another program.
fn sides() -> [(Subject, Subject); 2] {
    [(Subject::under_test(), Subject::Reference), (Subject::Reference, Subject::under_test())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_in_a_hundred_is_lost_and_some_are_late() -> Result<()> {
    let weather = Weather { lost: 10, late: 20 };
    let pair = Pair::start(Subject::under_test(), Subject::Reference, weather).await?;
    let origins = Origins::v4().await?;
    let (echo, source) = (origins.echo.addr().into(), origins.source.addr().into());
    let (near, far) = (pair.near.via(), pair.far.via());
    // The near end first: the other one does not know where it is.
    suite::tcp_ping_pong(&near, &echo).await.with_context(|| pair.logs())?;
    let out = async {
        suite::tcp_bulk(&near, &echo, 1_000_000).await.context("out")?;
        suite::tcp_download(&near, &source, 1_000_000).await.context("out, back")
    };
    let back = async {
        suite::tcp_bulk(&far, &echo, 1_000_000).await.context("in")?;
        suite::tcp_download(&far, &source, 1_000_000).await.context("in, back")
    };
    tokio::try_join!(out, back).with_context(|| pair.logs())?;
    // What is lost of datagrams is lost: two ways and 200 of them, of which four are to be expected.
    let datagrams = near.udp(&origins.udp.addr().into()).await?;
    for number in 0..200_u32 {
        datagrams.send(&number.to_be_bytes()).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut came = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(300), datagrams.recv()).await {
        came += 1;
    }
    ensure!((170..=200).contains(&came), "{came} of 200 datagrams came back");
    Ok(())
}

/// Each end sees the other one move, twice, and follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_move_are_followed() -> Result<()> {
    for (near, far) in sides() {
        let what =
            format!("{} behind a moving address, {} behind another", near.name(), far.name());
        let pair = Pair::start(near, far, Weather::default()).await?;
        let origins = Origins::v4().await?;
        let echo = origins.echo.addr();
        let context = || format!("{what}\n{}", pair.logs());
        let mut out = Flow::open("out", &pair.near, echo).await.with_context(context)?;
        let mut back = Flow::open("in", &pair.far, echo).await.with_context(context)?;
        for _ in 0..2 {
            // Whoever moved speaks first: the other one cannot know.
            pair.relay.moves(Side::Far).await?;
            out.beat().await.with_context(context)?;
            back.beat().await.with_context(context)?;
            pair.relay.moves(Side::Near).await?;
            back.beat().await.with_context(context)?;
            out.beat().await.with_context(context)?;
        }
    }
    Ok(())
}

/// Both ends take the MTU, which decides how large segments are; one end may have a smaller one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_mtu() -> Result<()> {
    for (here, there) in [(1280, 1280), (1420, 1420), (1500, 1500), (1500, 1280)] {
        let what = || format!("MTU {here} here, {there} there");
        let (ours, theirs) = (End::new(1)?, End::new(2)?);
        let config = ours.config(&[theirs.peer("")], &theirs, &json!({ "mtu": here }));
        let _ours = start(&Subject::under_test(), &config).await?;
        let config = theirs.config(&[ours.peer("")], &ours, &json!({ "mtu": there }));
        let _theirs = start(&Subject::Reference, &config).await?;
        for origins in [Origins::v4().await?, Origins::v6().await?] {
            let (echo, udp) = (origins.echo.addr().into(), origins.udp.addr().into());
            for via in [ours.via(), theirs.via()] {
                suite::tcp_bulk(&via, &echo, 500_000).await.with_context(what)?;
                // Around the largest one that is not cut, with headers of 28 and 48 bytes.
                for size in [here - 48, here - 28, here - 27, here, 4096] {
                    suite::udp_size(&via, &udp, size).await.with_context(what)?;
                }
            }
        }
    }
    Ok(())
}

/// Bytes 2 to 4 of every message are what the configuration says, and whatever comes in them is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_bytes() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let relay = Relay::to(theirs.port, Weather::default()).await?;
    let peer = with(through(&relay, theirs.peer(SECRET)), &json!({ "reserved": [7, 8, 9] }));
    let _ours = start(&Subject::under_test(), &ours.config(&[peer], &theirs, &json!({}))).await?;
    let peer = with(ours.peer(SECRET), &json!({ "reserved": "AQID" }));
    let _theirs = start(&Subject::Reference, &theirs.config(&[peer], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    suite::tcp_bulk(&ours.via(), &origins.echo.addr().into(), 300_000).await?;
    suite::udp_size(&ours.via(), &origins.udp.addr().into(), 4096).await?;
    for (side, message) in relay.seen() {
        if side == Side::Near {
            ensure!(message[1..4] == [7, 8, 9], "{:?}", &message[..16]);
        }
    }
    Ok(())
}

/// Replayed, cut, changed and made-up messages, from the right address and from a wrong one, while streams go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_and_changed_messages_harm_nothing() -> Result<()> {
    for (near, far) in sides() {
        let pair = Pair::start(near, far, Weather::default()).await?;
        let origins = Origins::v4().await?;
        let echo = origins.echo.addr();
        let mut out = Flow::open("out", &pair.near, echo).await.with_context(|| pair.logs())?;
        let mut back = Flow::open("in", &pair.far, echo).await.with_context(|| pair.logs())?;
        suite::tcp_bulk(&pair.near.via(), &echo.into(), 200_000).await?;
        let seen = pair.relay.seen();
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        for (number, (side, message)) in seen.iter().take(400).enumerate() {
            // What one end said is said to it and to the other one.
            let ports = [pair.near.port, pair.far.port];
            let to = ports[usize::from((number % 4 == 0) != (*side == Side::Near))];
            let mut changed = message.clone();
            match number % 5 {
                0 => {}
                1 => changed.truncate(message.len() * number % 97 + 1),
                2 => {
                    let at = number * 31 % message.len();
                    changed[at] ^= 1 << (number % 8);
                }
                3 => changed.extend_from_slice(message),
                _ => changed[0] = (number % 7).try_into()?,
            }
            // By nobody that anyone knows, and from the address that is the right one.
            stranger.send_to(&changed, (Ipv4Addr::LOCALHOST, to)).await?;
            pair.relay.say(*side, &changed).await?;
            if number % 40 == 0 {
                out.beat().await.with_context(|| pair.logs())?;
                back.beat().await.with_context(|| pair.logs())?;
            }
        }
        suite::tcp_bulk(&pair.near.via(), &echo.into(), 200_000).await?;
        suite::tcp_bulk(&pair.far.via(), &echo.into(), 200_000).await?;
        // Nobody answers a stranger with what is inside the tunnel.
        let mut buf = [0; 2048];
        while let Ok(len) = stranger.try_recv(&mut buf) {
            ensure!(buf[0] != 4, "{len} bytes of a session went to a stranger");
        }
    }
    Ok(())
}

/// A peer with a wrong shared secret, and one whose key is not ours, are not served; the right one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_open_nothing() -> Result<()> {
    let (ours, good, secretless, stranger) =
        (End::new(1)?, End::new(2)?, End::new(3)?, End::new(4)?);
    let peers = [unknown(good.peer(SECRET)), unknown(secretless.peer(SECRET))];
    let _ours = start(&Subject::under_test(), &ours.config(&peers, &good, &json!({}))).await?;
    let mut programs = Vec::new();
    for (end, secret) in [(&good, SECRET), (&secretless, ""), (&stranger, SECRET)] {
        let config = end.config(&[ours.peer(secret)], &ours, &json!({}));
        programs.push(start(&Subject::Reference, &config).await?);
    }
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flow = Flow::open("of the right peer", &good, echo).await?;
    let target = echo.into();
    let (one, two) = tokio::join!(served(&secretless, &target), served(&stranger, &target));
    ensure!(!one && !two, "served without the secret: {one}, without a key: {two}");
    flow.beat().await
}

/// A thousand streams at once, half of them in each direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_flows() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[theirs.peer("")], &theirs, &json!({}));
    let us = start(&Subject::under_test(), &with(config, &json!({ "log": {} }))).await?;
    let config = theirs.config(&[ours.peer("")], &ours, &json!({}));
    let _theirs = start(&Subject::Reference, &with(config, &json!({ "log": {} }))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let begun = Instant::now();
    let mut opening = JoinSet::new();
    for n in 0..1000_u32 {
        let via = if n % 2 == 0 { ours.via() } else { theirs.via() };
        opening
            .spawn(async move { via.tcp(&echo.into()).await.with_context(|| format!("flow {n}")) });
    }
    let mut streams = Vec::new();
    while let Some(opened) = opening.join_next().await {
        streams.push(opened??);
    }
    let opened = begun.elapsed();
    // All of them are open now, and all of them talk.
    let mut talking = JoinSet::new();
    for mut stream in streams {
        talking.spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            for round in 0..4_u8 {
                let said = vec![round; 2000];
                stream.write_all(&said).await?;
                let mut heard = vec![0; said.len()];
                let read = stream.read_exact(&mut heard);
                tokio::time::timeout(Duration::from_secs(30), read).await.context("silence")??;
                ensure!(heard == said, "other bytes came back");
            }
            Ok(())
        });
    }
    while let Some(talked) = talking.join_next().await {
        talked?.with_context(|| us.log_tail())?;
    }
    println!("1,000 flows: open after {opened:?}, done after {:?}", begun.elapsed());
    Ok(())
}
