//! Running the program.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own in which the program runs.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        // Renamed into place, as editors do.
        fs::write(self.path("part"), text).unwrap();
        fs::rename(self.path("part"), self.path(name)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crosspoint"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env("TZ", "UTC")
            .env_remove("CROSSPOINT_CONTROL")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Done::new(self.command(args).output().unwrap())
    }

    /// Runs to the end with a text on standard input.
    pub(crate) fn run_with(&self, args: &[&str], stdin: &str) -> Done {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        Done::new(child.wait_with_output().unwrap())
    }

    /// Starts a daemon. Its output goes to the files `out` and `err`.
    pub(crate) fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Daemon<'_> {
        let file = |name| fs::File::create(self.path(name)).unwrap();
        let mut command = self.command(args);
        command.envs(env.iter().copied()).stdout(file("out")).stderr(file("err"));
        Daemon { place: self, child: command.spawn().unwrap() }
    }
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The standard output of a run that went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// Asserts exit code 1 and a `FATAL[0000]` line that says so.
    #[track_caller]
    pub(crate) fn fatal(&self, message: &str) {
        let line = format!("FATAL[0000] {message}");
        let found = self.err.lines().any(|l| l == line);
        assert!(self.code == Some(1) && found, "no {line:?} in {self:?}");
    }
}

/// A running daemon, killed when dropped.
pub(crate) struct Daemon<'a> {
    place: &'a Place,
    child: Child,
}

impl Daemon<'_> {
    /// Waits until standard error holds the text.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.place.read("err").contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended with {ended:?}: {}", self.place.read("err"));
            assert!(began.elapsed() < PATIENCE, "no {text:?} in {}", self.place.read("err"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "still there: {}", self.place.read("err"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `ctl … --json`, which must go well.
    #[track_caller]
    pub(crate) fn ctl(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.place.run(&[&["ctl", "--json"], args].concat()).ok()).unwrap()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Ended already, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A configuration with one inbound.
pub(crate) fn config(port: u16, level: &str) -> String {
    format!(
        r#"{{"log": {{"level": "{level}"}},
            "inbounds": [{{"type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": {port}}}],
            "outbounds": [{{"type": "direct", "tag": "out"}}]}}"#
    )
}

/// Whether something listens there.
pub(crate) fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Whether it exists.
pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
