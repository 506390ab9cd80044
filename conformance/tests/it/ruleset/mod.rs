//! Rule-set files: the program under test and the reference do the same with them, and read what the other has written.

mod adguard;
mod generate;
mod generated;
mod geo;
mod life;
mod mistakes;
mod real;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{peers::Peer, subject::Subject};

/// The two programs, and a directory for their files.
struct Pair {
    ours: PathBuf,
    reference: PathBuf,
    dir: tempfile::TempDir,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Pair {
    fn new() -> Result<Self> {
        let ours = Subject::under_test().binary()?;
        let reference = Peer::SingBox.path()?;
        let dir = tempfile::Builder::new().prefix("cp-ruleset-").tempdir()?;
        Ok(Self { ours, reference, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.path(name), content).with_context(|| format!("write {name}"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| format!("read {name}"))
    }

    fn text(&self, name: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(name)?).into_owned())
    }

    /// Runs the program under test.
    fn ours(&self, args: &[&str]) -> Result<Outcome> {
        run(&self.ours, args, self.dir.path())
    }

    /// Runs the reference.
    fn reference(&self, args: &[&str]) -> Result<Outcome> {
        run(&self.reference, args, self.dir.path())
    }

    /// Runs both; code and outputs must be the same.
    fn same(&self, args: &[&str]) -> Result<Outcome> {
        let (ours, theirs) = (self.ours(args)?, self.reference(args)?);
        ensure!(ours == theirs, "{args:?}:\n ours {ours:?}\n reference {theirs:?}");
        Ok(ours)
    }

    /// Runs the program under test, and the time that took; it must succeed.
    fn timed(&self, ours: bool, args: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        let outcome = if ours { self.ours(args)? } else { self.reference(args)? };
        let time = start.elapsed();
        ensure!(outcome.code == Some(0), "{args:?}: {outcome:?}");
        Ok(time)
    }
}

fn run(program: &Path, args: &[&str], dir: &Path) -> Result<Outcome> {
    let output = Command::new(program)
        .arg("--disable-color")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    Ok(Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        // The reference colours some errors although it was told not to.
        stderr: plain(&String::from_utf8_lossy(&output.stderr)),
    })
}

/// A text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.split_once('m').map_or(part, |(_, rest)| rest));
    first + &rest.collect::<String>()
}

/// The head of a binary rule-set, and its rules inflated.
fn inflate(file: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let (head, packed) = file.split_at_checked(4).context("no head")?;
    let mut body = Vec::new();
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut body).context("inflate")?;
    Ok((head.to_vec(), body))
}
