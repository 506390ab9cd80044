//! The reference with every build tag.

use anyhow::Result;
use serde_json::Value;

use super::Library;
use crate::process::Launch;
use crate::subject::{listening_ports, write_config};

/// Runs a configuration until a signal comes.
const SCRIPT: &str = "\
import signal, singbox
box = singbox.SingBox()
box.startFromJSON(open('config.json').read())
signal.sigwait([signal.SIGTERM, signal.SIGINT])
box.stop()
";

/// Prepares the reference as a library, which has what its program lacks (Tailscale, DERP), with a configuration; waits for
/// the ports as [`Subject::launch`](crate::subject::Subject::launch) does. Its own program is preferred where it will do: this one is of
/// a later version, has no commands and knows no reload.
///
/// # Errors
/// When the library cannot be fetched, or there is no directory.
pub fn full_reference(config: &Value) -> Result<Launch> {
    let library = Library::SingBox.path()?;
    let launch = Launch::new("reference with everything", "/usr/bin/env")?;
    write_config(launch.dir(), config)?;
    let args = ["python3", "-c", SCRIPT];
    Ok(launch.env("PYTHONPATH", library).args(args).ready(listening_ports(config)))
}
