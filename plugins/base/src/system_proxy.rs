//! Option `set_system_proxy`: makes an inbound the proxy of the desktop while it runs.
//!
//! GNOME is set with `gsettings`, KDE with `kwriteconfig5` or `kwriteconfig6`, for the user who runs us. Run by root
//! through sudo, it is set for the user who called sudo; root itself has no desktop.

use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crosspoint_kernel::BuildError;
use parking_lot::Mutex;
use tracing::warn;

/// Who has set the proxy last. Its predecessor, ending after it, must not unset it.
static OWNER: Mutex<u64> = Mutex::new(0);

/// One command with its arguments.
type Line = Vec<String>;

/// How to reach the desktops of this machine.
#[derive(Clone, Debug)]
pub(crate) struct SystemProxy {
    gsettings: bool,
    kwriteconfig: Option<&'static str>,
    /// Set for whom, when we are root.
    user: Option<String>,
    addr: SocketAddr,
    socks: bool,
}

impl SystemProxy {
    /// Looks for desktops. `socks`: the inbound speaks SOCKS as well.
    ///
    /// # Errors
    /// There is none, or we are root without sudo.
    pub(crate) fn find(addr: SocketAddr, socks: bool) -> Result<Self, BuildError> {
        let gsettings = in_path("gsettings");
        let kwriteconfig =
            ["kwriteconfig5", "kwriteconfig6"].into_iter().find(|name| in_path(name));
        let fail = |why| Err(BuildError::options(format_args!("initialize system proxy: {why}")));
        if !gsettings && kwriteconfig.is_none() {
            return fail("unsupported desktop environment");
        }
        let user = if rustix::process::getuid().is_root() {
            match std::env::var("SUDO_USER") {
                Ok(user) if !user.is_empty() => Some(user),
                _ => return fail("unable to set as root"),
            }
        } else {
            None
        };
        let ip =
            if addr.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { addr.ip() };
        Ok(Self {
            gsettings,
            kwriteconfig,
            user,
            addr: SocketAddr::new(ip.to_canonical(), addr.port()),
            socks,
        })
    }

    /// Sets the proxy.
    ///
    /// # Errors
    /// A command fails.
    pub(crate) async fn enable(self) -> io::Result<Enabled> {
        let work = move || {
            let owner = {
                let mut owner = OWNER.lock();
                *owner += 1;
                *owner
            };
            // From here on, what was set is unset again.
            let enabled = Enabled { proxy: self, owner };
            enabled.proxy.enable_lines().iter().try_for_each(|line| enabled.proxy.run(line))?;
            Ok(enabled)
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn schemes(&self) -> &'static [&'static str] {
        if self.socks { &["ftp", "http", "https", "socks"] } else { &["http", "https"] }
    }

    fn enable_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.gsettings {
            let mut set = |schema: &str, key: &str, value: String| {
                lines.push(vec![
                    "gsettings".into(),
                    "set".into(),
                    format!("org.gnome.system.proxy{schema}"),
                    key.into(),
                    value,
                ]);
            };
            set(".http", "enabled", "true".into());
            for scheme in self.schemes() {
                set(&format!(".{scheme}"), "host", self.addr.ip().to_string());
                set(&format!(".{scheme}"), "port", self.addr.port().to_string());
            }
            set("", "use-same-proxy", self.socks.to_string());
            set("", "mode", "manual".into());
        }
        if let Some(tool) = self.kwriteconfig {
            lines.push(kde(tool, "ProxyType", "1"));
            for scheme in self.schemes() {
                let url = format!(
                    "{}://{}",
                    if *scheme == "socks" { "socks" } else { "http" },
                    self.addr
                );
                lines.push(kde(tool, &format!("{scheme}Proxy"), &url));
            }
            lines.push(kde(tool, "Authmode", "0"));
            lines.push(reparse());
        }
        lines
    }

    fn disable_lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.gsettings {
            lines.push(
                ["gsettings", "set", "org.gnome.system.proxy", "mode", "none"]
                    .map(Into::into)
                    .into(),
            );
        }
        if let Some(tool) = self.kwriteconfig {
            lines.push(kde(tool, "ProxyType", "0"));
            lines.push(reparse());
        }
        lines
    }

    /// The command as it is really run.
    fn command(&self, line: &Line) -> Line {
        match &self.user {
            None => line.clone(),
            Some(user) => {
                let quote = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
                let script = line.iter().map(quote).collect::<Vec<_>>().join(" ");
                vec!["su".into(), "-".into(), user.clone(), "-c".into(), script]
            }
        }
    }

    fn run(&self, line: &Line) -> io::Result<()> {
        let line = self.command(line);
        let Some((program, args)) = line.split_first() else { return Ok(()) };
        let failed =
            |why: String| io::Error::other(format!("set system proxy: {}: {why}", line.join(" ")));
        let mut command = Command::new(program);
        let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.map_err(|e| failed(e.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
    }
}

fn kde(tool: &str, key: &str, value: &str) -> Line {
    [tool, "--file", "kioslaverc", "--group", "Proxy Settings", "--key", key, value]
        .map(Into::into)
        .into()
}

/// Lets running KDE programs read their settings again.
fn reparse() -> Line {
    [
        "dbus-send",
        "--type=signal",
        "/KIO/Scheduler",
        "org.kde.KIO.Scheduler.reparseSlaveConfiguration",
        "string:''",
    ]
    .map(Into::into)
    .into()
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH");
    let directories = std::env::split_paths(path.as_deref().unwrap_or(OsStr::new("")));
    directories.map(|directory: PathBuf| directory.join(name)).any(|file| file.is_file())
}

/// Unsets the proxy when it is dropped, unless somebody else has set it meanwhile.
#[derive(Debug)]
pub(crate) struct Enabled {
    proxy: SystemProxy,
    owner: u64,
}

impl Drop for Enabled {
    fn drop(&mut self) {
        let owner = OWNER.lock();
        if *owner != self.owner {
            return;
        }
        // A few short commands, at the end of an inbound or of the process: nobody can wait for them otherwise.
        for line in self.proxy.disable_lines() {
            if let Err(error) = self.proxy.run(&line) {
                warn!("{error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(socks: bool, user: Option<&str>) -> SystemProxy {
        SystemProxy {
            gsettings: true,
            kwriteconfig: Some("kwriteconfig5"),
            user: user.map(Into::into),
            addr: "127.0.0.1:2080".parse().unwrap(),
            socks,
        }
    }

    #[test]
    fn commands() {
        let lines: Vec<_> =
            proxy(true, None).enable_lines().iter().map(|line| line.join(" ")).collect();
        assert!(lines.contains(&"gsettings set org.gnome.system.proxy.socks port 2080".to_owned()));
        assert!(
            lines.contains(&"gsettings set org.gnome.system.proxy use-same-proxy true".to_owned())
        );
        assert!(lines.contains(
            &"kwriteconfig5 --file kioslaverc --group Proxy Settings --key socksProxy socks://127.0.0.1:2080".to_owned()
        ));
        assert!(
            !proxy(false, None).enable_lines().iter().flatten().any(|word| word.contains("socks"))
        );
        let line =
            proxy(false, Some("ann")).command(&vec!["a".into(), "b c".into(), "it's".into()]);
        assert_eq!(line, ["su", "-", "ann", "-c", r"'a' 'b c' 'it'\''s'"]);
    }
}
