//! What takes minutes: tunnels that are idle, and new keys while traffic flows. Runs when asked for with
//! `CONFORMANCE_WIREGUARD=long`.

use std::time::Duration;

use anyhow::{Context, Result};
use crosspoint_conformance::{
    loud,
    net::suite::{self, Origins},
    subject::Subject,
};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use super::wireguard_stage::{
    End, Flow, Relay, SECRET, Side, Weather, long, start, through, unknown, with,
};

/// Longer than any session lives, and than the 9 minutes after which the last secret of one is forgotten.
const IDLE: Duration = Duration::from_secs(600);

/// One of the ways in which a tunnel can be idle.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// The reference is on the other side, or another one of ours.
    reference: bool,
    /// We know where the other side is (and it learns where we are), or the other way round.
    we_begin: bool,
    /// Seconds between packets that keep the way open; 0 for none.
    keepalive: u16,
    /// A stream is open and idle.
    flow: bool,
}

impl Case {
    async fn run(self) -> Result<()> {
        let (ours, theirs) = (End::new(1)?, End::new(2)?);
        let keep = json!({ "persistent_keepalive_interval": self.keepalive });
        let (mut to_them, mut to_us) = (theirs.peer(SECRET), ours.peer(SECRET));
        if self.we_begin {
            to_us = unknown(to_us);
            to_them = with(to_them, &keep);
        } else {
            to_them = unknown(to_them);
            to_us = with(to_us, &keep);
        }
        let other = if self.reference { Subject::Reference } else { Subject::under_test() };
        let us =
            start(&Subject::under_test(), &ours.config(&[to_them], &theirs, &json!({}))).await?;
        let them = start(&other, &theirs.config(&[to_us], &ours, &json!({}))).await?;
        let origins = Origins::v4().await?;
        let echo = origins.echo.addr();
        let (first, second) = if self.we_begin { (&ours, &theirs) } else { (&theirs, &ours) };
        let mut flows = Vec::new();
        suite::tcp_ping_pong(&first.via(), &echo.into()).await?;
        suite::tcp_ping_pong(&second.via(), &echo.into()).await?;
        if self.flow {
            flows.push(Flow::open("from the side that began", first, echo).await?);
            flows.push(Flow::open("from the other side", second, echo).await?);
        }
        for flow in &mut flows {
            flow.beat().await?;
        }
        tokio::time::sleep(IDLE).await;
        let before = Instant::now();
        for flow in &mut flows {
            flow.beat().await?;
        }
        // The side that knows the other's address can always begin; the other one if the way was kept open.
        let (one, other) = if self.keepalive > 0 { (second, first) } else { (first, second) };
        let told = || format!("ours:\n{}\ntheirs:\n{}", us.log_tail(), them.log_tail());
        suite::tcp_ping_pong(&one.via(), &echo.into()).await.with_context(told)?;
        let took = before.elapsed();
        suite::tcp_ping_pong(&other.via(), &echo.into()).await.with_context(told)?;
        suite::udp_ping_pong(&one.via(), &origins.udp.addr().into()).await.with_context(told)?;
        loud::line(&format!("idle for {IDLE:?}, {self:?}: the first answer took {took:?}"));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_for_ten_minutes_then_traffic() -> Result<()> {
    if !long("a tunnel that is idle for ten minutes") {
        return Ok(());
    }
    let mut cases = JoinSet::new();
    for reference in [true, false] {
        for (we_begin, keepalive, flow) in [
            (true, 0, false),
            (false, 0, false),
            (true, 25, false),
            (false, 25, false),
            (true, 0, true),
        ] {
            let case = Case { reference, we_begin, keepalive, flow };
            cases.spawn(async move { case.run().await.with_context(|| format!("{case:?}")) });
        }
    }
    while let Some(done) = cases.join_next().await {
        done??;
    }
    Ok(())
}

/// Streams in both directions say something twice a second while the keys change five times under them: nothing is
/// noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_under_traffic() -> Result<()> {
    if !long("new keys while traffic flows") {
        return Ok(());
    }
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let relay = Relay::to(theirs.port, Weather::default()).await?;
    let peer = through(&relay, theirs.peer(SECRET));
    let _us = start(&Subject::under_test(), &ours.config(&[peer], &theirs, &json!({}))).await?;
    let peer = unknown(ours.peer(SECRET));
    let _them = start(&Subject::Reference, &theirs.config(&[peer], &ours, &json!({}))).await?;
    let origins = Origins::v4().await?;
    let echo = origins.echo.addr();
    let mut flows = [Flow::open("out", &ours, echo).await?, Flow::open("in", &theirs, echo).await?];
    let end = Instant::now() + IDLE;
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        for flow in &mut flows {
            let before = Instant::now();
            flow.beat_within(Duration::from_secs(3)).await?;
            slowest = slowest.max(before.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let seen = relay.seen();
    let count = |kind: u8, side: Side| {
        seen.iter()
            .filter(|(from, message)| *from == side && message.first() == Some(&kind))
            .count()
    };
    let begun = count(1, Side::Near) + count(1, Side::Far);
    loud::line(&format!("{begun} handshakes in {IDLE:?}; the slowest answer took {slowest:?}"));
    anyhow::ensure!((4..=12).contains(&begun), "{begun} handshakes in {IDLE:?}");
    Ok(())
}
