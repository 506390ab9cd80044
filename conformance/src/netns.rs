//! Network namespaces for tests that need more than loopback: two hosts on one cable, with no
//! route to anywhere else.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::loud;

/// A namespace with loopback up and one end of a cable in it; deleted on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// Two namespaces with a veth pair between them, and no default route in either.
#[derive(Debug)]
pub struct Lab {
    /// Where clients stand by custom.
    pub left: Netns,
    /// Where servers stand by custom.
    pub right: Netns,
}

/// Whether this process may make namespaces. When not, says loudly that `what` does not run.
pub fn available(what: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        loud::not_run(what, "network namespaces need root");
        return false;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        loud::not_run(what, "there is no `ip` program (iproute2)");
        return false;
    }
    true
}

impl Lab {
    /// Makes the pair. Call [`available`] first.
    ///
    /// # Errors
    /// When `ip` refuses; the text holds its words.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = format!("cp{}-{n}", std::process::id());
        let left = Netns::add(format!("{base}-l"), n, 1)?;
        let right = Netns::add(format!("{base}-r"), n, 2)?;
        // Both ends are born inside their namespaces: nothing appears on the host.
        let pair = ["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns"];
        let mut args = vec!["-n", left.name()];
        args.extend(pair);
        args.push(right.name());
        ip(&args)?;
        for netns in [&left, &right] {
            let (v4, v6) = (format!("{}/24", netns.v4), format!("{}/64", netns.v6));
            ip(&["-n", netns.name(), "addr", "add", &v4, "dev", "veth0"])?;
            ip(&["-n", netns.name(), "addr", "add", &v6, "dev", "veth0", "nodad"])?;
            ip(&["-n", netns.name(), "link", "set", "veth0", "up"])?;
        }
        Ok(Self { left, right })
    }
}

impl Netns {
    pub(crate) fn add(name: String, net: u8, host: u8) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let v6 = Ipv6Addr::new(0xfd00, 0x77, u16::from(net), 0, 0, 0, 0, u16::from(host));
        let netns = Self { name, v4: Ipv4Addr::new(10, 77, net, host), v6 };
        ip(&["-n", netns.name(), "link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address on the cable.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// The IPv6 address on the cable.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// Gives programs that are started in the namespace a hosts file of their own, by
    /// `/etc/netns/NAME/hosts`. Code run by [`Netns::run`] does not see it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn hosts(&self, entries: &[(&str, IpAddr)]) -> Result<()> {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for (name, address) in entries {
            text += &format!("{address} {name}\n");
        }
        let dir = self.etc();
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        std::fs::write(dir.join("hosts"), text).context("write the hosts file of a namespace")
    }

    /// Runs a future on a thread of its own that stands inside the namespace, with a runtime of
    /// one thread. Sockets made in it belong to the namespace wherever they go later.
    ///
    /// # Errors
    /// When no thread can be started; the handle yields what the future did.
    pub fn run<T, F, Fut>(&self, body: F) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::Builder::new()
            .name(format!("ns-{}", self.name))
            .spawn(move || {
                let file = std::fs::File::open(&path)
                    .with_context(|| format!("open {}", path.display()))?;
                move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&file),
                    Some(LinkNameSpaceType::Network),
                )
                .context("enter the namespace")?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(body())
            })
            .context("start a thread")
    }

    /// As [`Netns::run`], and waits for the result without blocking the runtime.
    ///
    /// # Errors
    /// What the future returns, or that it panicked.
    pub async fn within<T, F, Fut>(&self, body: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>>,
    {
        let handle = self.run(body)?;
        tokio::task::spawn_blocking(move || {
            handle.join().map_err(|_| anyhow!("the body of a namespace panicked"))?
        })
        .await
        .context("wait for a namespace")?
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
        let _ = std::fs::remove_dir_all(self.etc());
    }
}

pub(crate) fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("start `ip`")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
