//! The machine under the measurement: a network namespace of the run, cores, limits.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use crosspoint_conformance::loud;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Set in the process that already runs inside its namespace.
const INSIDE: &str = "CROSSPOINT_BENCH_NETNS";

/// The core of the proxy and the core of load and sinks in the layout `pin`.
pub(crate) const PROXY_CORE: usize = 0;
pub(crate) const LOAD_CORE: usize = 1;

/// Replaces this process by itself inside a network namespace of its own; comes back when it is
/// there already, or when that is not possible, which it says.
pub(crate) fn enter_namespace(args: &[String]) -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let own = std::env::current_exe().context("find this program")?;
    let mut unshare = Command::new("unshare");
    unshare.arg("--net");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    // Tried first, because a failed exec of the real thing could not come back.
    let possible = {
        let mut probe = Command::new("unshare");
        probe.args(unshare.get_args()).arg("true");
        probe.output().is_ok_and(|output| output.status.success())
    };
    if !possible {
        loud::not_run("network namespace", "`unshare --net` is refused here; using the host's");
        return Ok(());
    }
    let error = unshare.arg("--").arg(own).args(args).env(INSIDE, "1").exec();
    Err(error).context("start again inside a namespace")
}

fn prepare() -> Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    status.context("start `ip` (iproute2)")?;
    for (name, value) in [
        // BBR's pacing timers double the cost of a byte on loopback; cubic is refused in here.
        ("tcp_congestion_control", "reno"),
        // The ports of the proxies lie below.
        ("ip_local_port_range", "4096 65535"),
        ("tcp_tw_reuse", "1"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{name}");
        if let Err(error) = std::fs::write(&path, value) {
            loud::not_run(&format!("{name} = {value}"), &error.to_string());
        }
    }
    Ok(())
}

/// Takes as many descriptors as are allowed; children inherit it.
pub(crate) fn raise_descriptors() -> Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raise RLIMIT_NOFILE")?;
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Puts this process and its children before everything else on the machine.
pub(crate) fn first_in_line() -> Result<()> {
    rustix::process::nice(-20).context("raise the priority")?;
    // With autogroups a nice value counts among the processes of one session only; the group of
    // the session has its own. Without autogroups the file is not there.
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    Ok(())
}

/// Binds the calling thread, and what it starts from now on, to one core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("bind to core {core}"))
}

/// One line that says what the figures were taken on.
pub(crate) fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split(": ").nth(1)).unwrap_or("unknown processor");
    // Of the machine, not of this thread, which may be bound to one.
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    format!(
        "{cores} × {model}, Linux {}, {} in {}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
        if std::env::var_os(INSIDE).is_some() { "its own namespace" } else { "THE HOST'S NETWORK" },
    )
}

/// Lets the calling thread, and what it starts from now on, use every core.
pub(crate) fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    for core in 0..CpuSet::MAX_CPU.min(64) {
        set.set(core);
    }
    sched_setaffinity(None, &set).context("use every core")
}
