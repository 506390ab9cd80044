//! Restarts of every kind.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use rustix::process::Signal;
use serde_json::json;

use super::{chosen, config, start};

#[tokio::test]
async fn a_choice_survives_a_kill_at_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = dir.path().join("cache.db");
    let mut last = "a";
    for round in 0..9 {
        let mut daemon = start(&config(ports::free(), &cache)).await?;
        ensure!(chosen(&daemon)? == last, "round {round}: {last} was forgotten");
        last = ["b", "c", "a"][round % 3];
        daemon.ctl(&["select", "choice", last])?;
        // Without a moment of grace.
        daemon.signal(Signal::KILL)?;
        daemon.wait_exit(Duration::from_secs(5)).await?;
    }
    let mode = std::fs::metadata(&cache)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    // And an orderly stop.
    let mut daemon = start(&config(ports::free(), &cache)).await?;
    daemon.ctl(&["select", "choice", "b"])?;
    daemon.stop().await?;
    let daemon = start(&config(ports::free(), &cache)).await?;
    ensure!(chosen(&daemon)? == "b");
    Ok(())
}

#[tokio::test]
async fn choices_follow_a_reload_into_another_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let port = ports::free();
    let [first, second] = ["1.db", "2.db"].map(|name| dir.path().join(name));
    let without = {
        let mut config = config(port, &first);
        config["experimental"] = json!({});
        config
    };
    let daemon = start(&without).await?;
    daemon.ctl(&["select", "choice", "b"])?;
    let reload = |config: &serde_json::Value| {
        crosspoint_conformance::subject::write_config(daemon.dir(), config)?;
        daemon.ctl(&["reload"])
    };
    // Switched on by a reload: what was chosen before is in it.
    reload(&config(port, &first))?;
    reload(&config(port, &second))?;
    daemon.ctl(&["select", "choice", "c"])?;
    // A file that cannot be had changes nothing.
    let nowhere = config(port, &dir.path().join("no/such/cache.db"));
    let refused = reload(&nowhere).err().context("it was put in force")?;
    ensure!(format!("{refused:#}").contains("initialize cache-file: open"), "{refused:#}");
    daemon.ctl(&["select", "choice", "a"])?;
    drop(daemon);
    for (cache, wanted) in [(&first, "b"), (&second, "a")] {
        let daemon = start(&config(ports::free(), cache)).await?;
        ensure!(chosen(&daemon)? == wanted, "{}: {}", cache.display(), chosen(&daemon)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_file_is_set_aside() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = dir.path().join("cache.db");
    std::fs::write(&cache, "this is no database".repeat(999))?;
    let mut daemon = start(&config(ports::free(), &cache)).await?;
    ensure!(daemon.log().contains("cannot be used"), "{}", daemon.log());
    ensure!(dir.path().join("cache.db.damaged").exists());
    daemon.ctl(&["select", "choice", "b"])?;
    daemon.stop().await?;
    let daemon = start(&config(ports::free(), &cache)).await?;
    ensure!(chosen(&daemon)? == "b");
    Ok(())
}

#[tokio::test]
async fn a_file_in_use_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cache = dir.path().join("cache.db");
    let first = start(&config(ports::free(), &cache)).await?;
    let second = config(ports::free(), &cache);
    let strict = Subject::Crosspoint(None).launch(&second)?.args(["--strict"]).spawn();
    // Degraded: it serves, and says what it lacks.
    let lenient = start(&second).await?;
    ensure!(lenient.log().contains("is in use by another process"), "{}", lenient.log());
    lenient.ctl(&["select", "choice", "b"])?;
    // Strict: as the reference, it does not start.
    let mut strict = strict?;
    let status = strict.wait_exit(Duration::from_secs(15)).await?;
    let log = strict.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("start service: initialize cache-file: "), "{log}");
    ensure!(chosen(&first)? == "a");
    Ok(())
}
