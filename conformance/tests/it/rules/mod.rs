//! Random rules and random connections: the reference and we must choose the same outbound.
//!
//! Every outbound of a configuration is a SOCKS proxy of ours that answers who it is and what it was asked for,
//! so one exchange tells which rule decided and what it changed.

mod generate;
mod teller;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::{Socks, SocksError},
    ports,
    process::Running,
    subject::Subject,
};
use generate::{Connection, Rng};
use serde_json::json;
use teller::Teller;
use tokio::{io::AsyncReadExt, task::JoinSet};

/// Pairs of a rule list and a connection; `CONFORMANCE_RULE_PAIRS` overrides it.
const PAIRS: usize = 5000;

/// Connections for each rule list.
const EACH: usize = 256;

/// Connections on the way at a time.
const AT_ONCE: usize = 16;

/// How long a program may take to decide.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_decide_as_in_the_reference() -> Result<()> {
    let said = std::env::var("CONFORMANCE_RULE_PAIRS").ok().and_then(|text| text.parse().ok());
    let (pairs, seed) = (said.unwrap_or(PAIRS), seed());
    let subject = Subject::under_test();
    let (mut judged, mut outcomes, mut wrong) =
        (0, std::collections::BTreeMap::<String, usize>::new(), Vec::new());
    for round in 0..pairs.div_ceil(EACH) as u64 {
        let mut rng = Rng::new(seed + round);
        let teller = Teller::start().await?;
        let theirs = Side::start(&Subject::Reference, &mut rng.clone(), &teller).await?;
        let ours = Side::start(&subject, &mut rng, &teller).await?;
        let sides = Arc::new((theirs, ours));
        let mut workers = JoinSet::new();
        for _ in 0..AT_ONCE {
            let connections: Vec<_> =
                (0..EACH / AT_ONCE).map(|_| Connection::random(&mut rng)).collect();
            workers.spawn(ask_all(sides.clone(), connections));
        }
        let verdicts = workers.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        for (connection, theirs, ours) in verdicts.into_iter().flatten() {
            judged += 1;
            let kind = theirs.split(' ').next().unwrap_or_default().to_owned();
            *outcomes.entry(kind).or_default() += 1;
            if theirs != ours {
                let rules = ours_config(seed + round);
                wrong.push(format!(
                    "seed {}: {connection:?}: reference {theirs}, we {ours}; rules {rules}",
                    seed + round
                ));
            }
        }
        ensure!(wrong.len() < 10, "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    }
    ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    // A generator whose rules never match, or always the same one, would prove nothing.
    ensure!(outcomes.len() > 4, "too few outcomes: {outcomes:?}");
    loud::line(&format!("{judged} decisions on random rules agree (seed {seed}): {outcomes:?}"));
    Ok(())
}

async fn ask_all(
    sides: Arc<(Side, Side)>,
    connections: Vec<Connection>,
) -> Result<Vec<(Connection, String, String)>> {
    let mut verdicts = Vec::new();
    for connection in connections {
        let (theirs, ours) = tokio::join!(sides.0.ask(&connection), sides.1.ask(&connection));
        let (theirs, ours) = (theirs.context("the reference")?, ours.context("the subject")?);
        verdicts.push((connection, theirs, ours));
    }
    Ok(verdicts)
}

/// The same rules in every run, unless `CONFORMANCE_SEED` says otherwise.
fn seed() -> u64 {
    std::env::var("CONFORMANCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn ours_config(seed: u64) -> serde_json::Value {
    generate::route(&mut Rng::new(seed))
}

/// One program with the rules.
struct Side {
    _running: Running,
    inbounds: [SocketAddr; 2],
}

impl Side {
    async fn start(subject: &Subject, rng: &mut Rng, teller: &Teller) -> Result<Self> {
        let ports: [u16; 2] = ports::many();
        let users = ["ann", "bob"].map(|user| json!({ "username": user, "password": "x" }));
        let outbounds = generate::OUTBOUNDS.map(|tag| {
            json!({ "type": "socks", "tag": tag, "server": "127.0.0.1", "server_port": teller.port(),
                    "username": tag, "password": "x" })
        });
        let mut config = json!({
            "log": { "level": "error" },
            "dns": { "servers": [{ "type": "hosts", "tag": "hosts", "predefined": generate::hosts() }] },
            "inbounds": [
                { "type": "mixed", "tag": "in0", "listen": "127.0.0.1", "listen_port": ports[0] },
                { "type": "mixed", "tag": "in1", "listen": "127.0.0.1", "listen_port": ports[1], "users": users },
            ],
            "outbounds": outbounds,
            "route": generate::route(rng),
        });
        if !subject.is_reference() {
            // What the reference does by mistake, done on purpose.
            config["crosspoint"] =
                json!({ "compat": ["rule-set-flag-leak", "headless-query-type"] });
        }
        let running = subject.start(&config).await.with_context(|| config.to_string())?;
        let inbounds = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Self { _running: running, inbounds })
    }

    /// What becomes of a connection: the outbound and what it was asked for, or `refused`.
    async fn ask(&self, connection: &Connection) -> Result<String> {
        let mut socks = Socks::v5(self.inbounds[connection.inbound]);
        if let Some(user) = connection.user {
            socks = socks.login(user, "x");
        }
        let work = async {
            if connection.udp {
                let association = socks.associate().await?;
                association.send_to(&connection.target, b"?").await?;
                let (_, answer) = association.recv_from().await?;
                return anyhow::Ok(String::from_utf8_lossy(&answer).into_owned());
            }
            let mut stream = match socks.connect(&connection.target).await {
                Ok(stream) => stream,
                Err(SocksError::Refused(_) | SocksError::Io(_)) => return Ok("refused".to_owned()),
                Err(error) => return Err(error.into()),
            };
            let mut text = String::new();
            match stream.read_to_string(&mut text).await {
                Ok(_) if !text.is_empty() => Ok(text),
                _ => Ok("refused".to_owned()),
            }
        };
        let answer = tokio::time::timeout(PATIENCE, work).await;
        // Datagrams that a rule refuses are not answered at all, so such rules are for TCP only.
        answer.with_context(|| format!("{connection:?}: no decision within {PATIENCE:?}"))?
    }
}
