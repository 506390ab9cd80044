//! The cache file: what survives a restart, a kill, a damaged file, and the step over from the reference.

mod import;
mod kill;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

/// A selector of two members and a cache file.
fn config(port: u16, cache: &Path) -> Value {
    json!({
        "log": { "level": "info" },
        "inbounds": [{ "type": "mixed", "listen": "127.0.0.1", "listen_port": port }],
        "outbounds": [
            { "type": "selector", "tag": "choice", "outbounds": ["a", "b", "c"] },
            { "type": "direct", "tag": "a" },
            { "type": "direct", "tag": "b" },
            { "type": "block", "tag": "c" }
        ],
        "experimental": { "cache_file": { "enabled": true, "path": cache } }
    })
}

/// Starts the daemon and waits until its control socket answers.
async fn start(config: &Value) -> Result<Running> {
    let running = Subject::Crosspoint(None).start(config).await?;
    let end = Instant::now() + Duration::from_secs(10);
    while running.ctl(&["status"]).is_err() {
        ensure!(Instant::now() < end, "no control socket:\n{}", running.log_tail());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(running)
}

/// The member in use of the group `choice`.
fn chosen(running: &Running) -> Result<String> {
    let groups = running.ctl(&["groups"])?;
    let groups = groups["groups"].as_array().or_else(|| groups.as_array());
    let group = groups.into_iter().flatten().find(|group| group["tag"] == "choice");
    Ok(group.and_then(|g| g["selected"].as_str()).context("no such group")?.to_owned())
}
