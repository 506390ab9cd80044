//! A day of a tunnel under a clock that the test moves. The clock is a feature of the crate, which no daemon may have: so
//! the crate's own tests are built once more with it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::workspace;

#[test]
fn a_day_goes_by() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "test",
            "--quiet",
            "-p",
            "crosspoint-wireguard",
            "--lib",
            "--features",
            "fake-clock",
        ])
        .arg("--target-dir")
        .arg(workspace::target_dir())
        .args(["--", "day::"])
        .current_dir(workspace::root());
    let output = command.output().context("start cargo")?;
    let (said, wrong) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\n{wrong}");
    ensure!(said.contains("4 passed"), "{said}\n{wrong}");
    Ok(())
}
