//! The machine's own `curl`, as a client that nobody here has written.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// What one run of `curl` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Exit code of `curl`; 0 is success, 97 a proxy that refused, see its manual.
    pub exit: i32,
    /// HTTP status of the last answer, 0 without one.
    pub status: u16,
    /// HTTP status of the proxy's answer to CONNECT, 0 without one.
    pub connect_status: u16,
    /// The body.
    pub body: String,
    /// What it wrote to standard error.
    pub error: String,
}

/// The version line of the machine's `curl`.
///
/// # Errors
/// When the program is missing: the caller must fail or say so loudly.
pub fn version() -> Result<String> {
    let output = Command::new("curl").arg("--version").output().context(
        "the program `curl` is missing; install it, the conformance suite fetches through it",
    )?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Fetches with `curl ARGS`, bounded to ten seconds, without blocking the runtime.
///
/// # Errors
/// When `curl` cannot be started. That it fails is not an error, see [`Fetched::exit`].
pub async fn fetch(args: &[&str]) -> Result<Fetched> {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    tokio::task::spawn_blocking(move || run(&args)).await.context("wait for curl")?
}

fn run(args: &[String]) -> Result<Fetched> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "10", "--noproxy", ""])
        .args(["--write-out", "\n%{http_code} %{http_connect}"])
        .args(args)
        .stdin(Stdio::null());
    for key in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(key).env_remove(key.to_uppercase());
    }
    let output = command.output().context("the program `curl` is missing or cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, codes) = text.rsplit_once('\n').unwrap_or(("", &text));
    let mut codes = codes.split(' ').map(|code| code.trim().parse().unwrap_or(0));
    Ok(Fetched {
        exit: output.status.code().unwrap_or(-1),
        status: codes.next().unwrap_or(0),
        connect_status: codes.next().unwrap_or(0),
        body: body.to_owned(),
        error: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
