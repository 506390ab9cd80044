//! The suites of the reference's tests through every inbound of the subject.

use anyhow::{Context, Result};
use crosspoint_conformance::loud;
use crosspoint_conformance::net::http::HttpProxy;
use crosspoint_conformance::net::suite::{self, Naming};
use crosspoint_conformance::net::{Socks, Version, Via};
use crosspoint_conformance::subject::Subject;

use super::stage::{PASSWORD, Ports, Stage, USER};

#[tokio::test]
async fn socks5_carries_everything() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    let p = stage.ports;
    let socks = [
        Socks::v5(Ports::v4(p.mixed)),
        Socks::v5(Ports::v6(p.mixed6)),
        Socks::v5(Ports::v4(p.mixed_login)).login(USER, PASSWORD),
        Socks::v5(Ports::v4(p.socks)),
        Socks::v5(Ports::v4(p.socks_login)).login(USER, PASSWORD),
    ];
    for socks in socks {
        let server = socks.server;
        let via = Via::from(socks);
        for (origins, naming) in [
            (&stage.v4, Naming::Address),
            (&stage.v6, Naming::Address),
            (&stage.v4, Naming::Localhost),
        ] {
            let what = format!("by {server} to {} as {naming:?}", origins.echo.addr());
            suite::full(&via, origins, naming).await.context(what)?;
        }
    }
    Ok(())
}

/// Better than the reference, which cuts datagrams at 16 KiB and closes both directions of a SOCKS
/// connection when the server ends its own.
#[tokio::test]
async fn nothing_is_cut() -> Result<()> {
    let subject = Subject::under_test();
    if subject.is_reference() {
        loud::not_run("nothing_is_cut", "the subject is the reference, which cuts");
        return Ok(());
    }
    let stage = Stage::start(&subject).await?;
    let socks = Socks::v5(Ports::v4(stage.ports.mixed));
    let via = Via::from(socks.clone());
    suite::udp_largest(&via, &stage.v4, Naming::Address).await?;
    suite::udp_largest(&via, &stage.v6, Naming::Address).await?;
    let v4a = Via::from(socks.version(Version::V4a));
    let http = Via::from(HttpProxy::new(Ports::v4(stage.ports.http)));
    for via in [via, v4a, http] {
        suite::server_ends_first(&via, &stage.v4.source, Naming::Localhost).await?;
    }
    Ok(())
}

#[tokio::test]
async fn socks4_and_4a_carry_tcp() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    for port in [stage.ports.mixed, stage.ports.socks] {
        let socks = Socks::v5(Ports::v4(port));
        let v4 = Via::from(socks.clone().version(Version::V4));
        suite::tcp(&v4, &stage.v4, Naming::Address).await.context("SOCKS4")?;
        let v4a = Via::from(socks.version(Version::V4a));
        suite::tcp(&v4a, &stage.v4, Naming::Localhost).await.context("SOCKS4a")?;
    }
    Ok(())
}

#[tokio::test]
async fn http_connect_carries_tcp() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    let p = stage.ports;
    for http in [
        HttpProxy::new(Ports::v4(p.mixed)),
        HttpProxy::new(Ports::v4(p.http)),
        HttpProxy::new(Ports::v4(p.http_login)).login(USER, PASSWORD),
    ] {
        let via = Via::from(http);
        suite::tcp(&via, &stage.v4, Naming::Address).await?;
        suite::tcp(&via, &stage.v6, Naming::Address).await?;
        suite::tcp(&via, &stage.v4, Naming::Localhost).await?;
    }
    Ok(())
}

#[tokio::test]
async fn direct_inbound_forwards_to_its_target() -> Result<()> {
    let stage = Stage::start(&Subject::under_test()).await?;
    let at = Ports::v4(stage.ports.direct);
    let via = Via::Forwarded { tcp: at, udp: at };
    let echo = stage.v4.echo.addr().into();
    suite::tcp_ping_pong(&via, &echo).await?;
    suite::tcp_bulk(&via, &echo, suite::BULK).await?;
    Ok(())
}
