//! Readiness, reloads and proof of life for systemd: datagrams of `KEY=value` lines to `$NOTIFY_SOCKET` (sd_notify(3)).

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tracing::debug;

/// Tells the service manager; without one, says nothing.
#[derive(Debug)]
pub(super) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that the environment names.
    pub(super) fn from_env() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| for_us && *usec > 0);
        Self::new(name.as_deref().map(OsStrExt::as_bytes), watchdog.map(Duration::from_micros))
    }

    /// `name` is a path, or `@` and a name in the abstract name space.
    fn new(name: Option<&[u8]>, watchdog: Option<Duration>) -> Self {
        let to = name.filter(|name| !name.is_empty()).and_then(|name| {
            let address = match name.strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
            };
            let socket = UnixDatagram::unbound().and_then(|socket| {
                // A manager that does not read must not hold up a reload.
                socket.set_nonblocking(true)?;
                Ok((socket, address?))
            });
            socket.inspect_err(|error| debug!("NOTIFY_SOCKET: {error}")).ok()
        });
        Self { to, watchdog }
    }

    fn send(&self, lines: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), address)
        {
            debug!("NOTIFY_SOCKET: {error}");
        }
    }

    /// Serving; after start and after each reload.
    pub(super) fn ready(&self, status: &str) {
        let pid = std::process::id();
        self.send(&format!("READY=1\nMAINPID={pid}\nSTATUS={}\n", one_line(status)));
    }

    /// A reload has begun. `Type=notify-reload` wants to know when, to tell this from an earlier one.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reloading\n"));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\n");
    }

    /// Still alive.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// Alive, but not well.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", one_line(status)));
    }

    /// The manager restarts the daemon when it hears nothing for this long.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn speaks_to_paths_and_abstract_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("crosspoint-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        let path = path.into_os_string();
        for (socket, name) in
            [(by_path, path.as_bytes().to_vec()), (by_name, format!("@{name}").into_bytes())]
        {
            let notifier = Notifier::new(Some(&name), None);
            notifier.ready("two\nlines");
            let pid = std::process::id();
            assert_eq!(receive(&socket), format!("READY=1\nMAINPID={pid}\nSTATUS=two lines\n"));
            notifier.reloading();
            let text = receive(&socket);
            let usec = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(text.starts_with("RELOADING=1\n") && usec.parse::<u64>().unwrap() > 0);
            notifier.alive();
            assert_eq!(receive(&socket), "WATCHDOG=1\n");
        }
        // Nobody there: silence.
        Notifier::new(Some(b"/nonexistent/socket"), None).ready("");
        Notifier::new(None, None).ready("");
    }
}
