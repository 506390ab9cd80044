//! A part that cannot start leaves the rest serving.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use crosspoint_conformance::{
    net::{Socks, Via, origin::Origin},
    ports,
};
use serde_json::json;

use super::stage::{Daemon, faulty, until};

#[tokio::test]
async fn a_busy_port_is_retried_while_the_rest_serves() -> Result<()> {
    let [good] = ports::many();
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let busy = taken.local_addr()?.port();
    let config = json!({
        "log": { "level": "error" },
        "inbounds": [
            { "type": "mixed", "tag": "good", "listen": "127.0.0.1", "listen_port": good },
            { "type": "mixed", "tag": "busy", "listen": "127.0.0.1", "listen_port": busy }
        ],
        "outbounds": [
            { "type": "direct", "tag": "direct" },
            { "type": "fault", "tag": "broken", "build": "error" }
        ],
        "crosspoint": { "supervision": { "backoff_min": "50ms", "max_restarts": 1000, "backoff_max": "200ms" } }
    });
    let daemon = Daemon::start_degraded(&config).await?;
    let echo = Origin::tcp_echo("127.0.0.1:0").await?;
    let via = |port| Via::Socks(Socks::v5(SocketAddr::from(([127, 0, 0, 1], port))));
    via(good).tcp(&echo.addr().into()).await?;
    let status = daemon.status().await?;
    let down = status.component("inbound", "busy")?;
    ensure!(down.state == "backoff", "{down:?}");
    let reason = down.last_error.unwrap_or_default();
    ensure!(reason.contains("Address already in use"), "{reason}");
    ensure!(status.component("outbound", "broken")?.state == "backoff");
    drop(taken);
    until("the port is taken", Duration::from_secs(3), async || {
        via(busy).tcp(&echo.addr().into()).await.is_ok()
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn strict_ends_like_the_reference() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let config = json!({
        "inbounds": [{ "type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": taken.local_addr()?.port() }]
    });
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("config.json"), config.to_string())?;
    let output = faulty().run_cli(dir.path(), ["run", "--strict", "--disable-color"], &[])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    ensure!(
        text.contains("FATAL[0000] start service:") && text.contains("inbound/mixed[in]"),
        "{text}"
    );
    Ok(())
}
