//! DNS server `dhcp` in a network that only DHCP describes: by a server of our own, which can do what others do not,
//! and by those that this machine has.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::netns::{self, Lab, Netns};
use crosspoint_conformance::process::Running;
use crosspoint_conformance::subject::Subject;
use crosspoint_conformance::{loud, ports};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::client::Ask;
use super::origin::Origin;

const WAIT: Duration = Duration::from_secs(9);

/// DHCP servers as distributions name them, and how to start them with a file; CONFIG, LEASES and ADDRESS stand for
/// what they say.
const SERVERS: &[(&str, &[&str], &str)] = &[
    (
        "dnsmasq",
        &[
            "-k",
            "--port=0",
            "--interface=veth0",
            "--bind-interfaces",
            "--conf-file=CONFIG",
            "--dhcp-leasefile=LEASES",
            "--user=root",
            "--pid-file=",
        ],
        "dhcp-range=NET.100,NET.150,1h\ndhcp-option=6,ADDRESS\ndhcp-option=option:domain-search,lan,eng.lan\n",
    ),
    (
        "udhcpd",
        &["-f", "CONFIG"],
        "start NET.100\nend NET.150\ninterface veth0\nlease_file LEASES\npidfile /dev/null\n\
         option dns ADDRESS\noption subnet 255.255.255.0\noption domain lan\n",
    ),
    (
        "dhcpd",
        &["-f", "-cf", "CONFIG", "-lf", "LEASES", "--no-pid", "veth0"],
        "subnet NET.0 netmask 255.255.255.0 { range NET.100 NET.150; option domain-name \"lan\"; \
         option domain-name-servers ADDRESS; }\n",
    ),
    (
        "kea-dhcp4",
        &["-c", "CONFIG"],
        r#"{"Dhcp4": {"interfaces-config": {"interfaces": ["veth0"],
            "service-sockets-max-retries": 40, "service-sockets-retry-wait-time": 250},
            "lease-database": {"type": "memfile", "persist": false},
            "subnet4": [{"id": 1, "subnet": "NET.0/24", "pools": [{"pool": "NET.100-NET.150"}],
            "option-data": [{"name": "domain-name-servers", "data": "ADDRESS"},
            {"name": "domain-search", "data": "lan"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}]}}"#,
    ),
];

fn config(port: u16, interface: Option<&str>) -> Value {
    let mut server = json!({ "type": "dhcp", "tag": "d" });
    if let Some(interface) = interface {
        server["interface"] = json!(interface);
    }
    json!({
        "log": { "level": "debug" },
        "dns": { "servers": [server], "disable_cache": true },
        "inbounds": [{ "type": "direct", "listen": "127.0.0.1", "listen_port": port }],
        "route": { "rules": [{ "action": "hijack-dns" }] },
    })
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("start `ip`")?;
    ensure!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// An offer or acknowledgement for a request, as RFC 2131 has it.
fn reply(request: &[u8], dns: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let (fixed, options) = request.split_at_checked(240)?;
    let kind = *options.get(2).filter(|_| options.starts_with(&[53, 1]))?;
    let mut bytes = fixed.to_vec();
    bytes[0] = 2;
    bytes.extend([53, 1, if kind == 1 { 2 } else { 5 }]);
    bytes.extend([6, u8::try_from(dns.len() * 4).ok()?]);
    bytes.extend(dns.iter().flat_map(Ipv4Addr::octets));
    bytes.extend(b"\x0f\x03lan\xff");
    Some(bytes)
}

/// A DHCP server of our own: first silent, then wrong, then right; and from then on with `later` for an answer.
async fn own_server(dns: Ipv4Addr, later: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).await?;
    socket.set_broadcast(true)?;
    let to = SocketAddr::from((Ipv4Addr::BROADCAST, 68));
    let (mut space, mut count, mut transaction) = ([0; 2048], 0, 0);
    loop {
        let (length, _) = socket.recv_from(&mut space).await?;
        let request = &space[..length];
        let Some(any) = reply(request, &[]).filter(|reply| reply[242] == 2) else {
            continue; // an inform
        };
        let this = u32::from_be_bytes([any[4], any[5], any[6], any[7]]);
        if this != transaction {
            (transaction, count) = (this, count + 1);
            if count == 1 {
                continue;
            }
        }
        let Some(good) = reply(request, &[if count == 1 { dns } else { later }]) else { continue };
        let mut wrong = reply(request, &[Ipv4Addr::new(192, 0, 2, 66)]).unwrap_or_default();
        wrong[4] ^= 1;
        for bytes in [&good[..100], &wrong, &good] {
            socket.send_to(bytes, to).await?;
        }
    }
}

async fn ask(netns: &Netns, port: u16, text: &str) -> Result<String> {
    let ask = Ask::parse(text)?;
    let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    netns.within(move || async move { ask.at(listener, WAIT).await }).await
}

async fn start(lab: &Lab, config: &Value) -> Result<Running> {
    Subject::Crosspoint(None).launch(config)?.netns(&lab.left).start().await
}

fn v4(netns: &Netns) -> Result<Ipv4Addr> {
    match netns.v4() {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(ip) => bail!("{ip} is no IPv4 address"),
    }
}

#[tokio::test]
async fn servers_are_found_and_found_anew() -> Result<()> {
    if !netns::available("dns dhcp") {
        return Ok(());
    }
    let lab = Lab::new()?;
    let (name, right) = (lab.right.name().to_owned(), v4(&lab.right)?);
    let [a, b, c, _] = right.octets();
    let other = Ipv4Addr::new(a, b, c, 3);
    ip(&["-n", &name, "addr", "add", &format!("{other}/24"), "dev", "veth0"])?;
    ip(&["-n", &name, "route", "add", "255.255.255.255/32", "dev", "veth0"])?;
    ip(&["-n", lab.left.name(), "route", "add", "default", "via", &right.to_string()])?;
    // Ends with the namespace's thread, that is with this process.
    let _servers = lab.right.run(move || async move {
        let _first = Origin::bind("first", (right, 53).into()).await?;
        let _other = Origin::bind("other", (other, 53).into()).await?;
        own_server(right, other).await
    })?;
    let port = ports::free();
    // The interface of the default route.
    let daemon = start(&lab, &config(port, None)).await?;
    let said = ask(&lab.left, port, "who.test TXT").await?;
    ensure!(said.contains("first"), "{said}\n{}", daemon.log_tail());
    let said = ask(&lab.left, port, "who TXT").await?;
    ensure!(said.contains("? who. TXT = who. 300 TXT first"), "{said}");
    let said = ask(&lab.left, port, "nx.test A").await?;
    ensure!(said.starts_with("NXDomain"), "{said}");
    // Another address: another network, for all we know.
    let (left, new) = (lab.left.name(), format!("{}/24", Ipv4Addr::new(a, b, c, 9)));
    ip(&["-n", left, "addr", "flush", "dev", "veth0"])?;
    ip(&["-n", left, "addr", "add", &new, "dev", "veth0"])?;
    ip(&["-n", left, "route", "add", "default", "via", &right.to_string()])?;
    let until = tokio::time::Instant::now() + WAIT;
    while !ask(&lab.left, port, "who.test TXT").await?.contains("other") {
        ensure!(tokio::time::Instant::now() < until, "{}", daemon.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An interface that does not exist is named.
    let port = ports::free();
    let daemon = start(&lab, &config(port, Some("none7"))).await?;
    let said = ask(&lab.left, port, "who.test TXT").await?;
    ensure!(said.starts_with("ServFail"), "{said}");
    let log = daemon.log();
    ensure!(log.contains("dhcp: prepare interface: no such network interface: none7"), "{log}");
    Ok(())
}

/// Ends with it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn servers_of_others_are_understood() -> Result<()> {
    if !netns::available("dns dhcp with real servers") {
        return Ok(());
    }
    for (program, args, text) in SERVERS {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
        if !found.status.success() {
            loud::not_run(&format!("dns dhcp with {program}"), "it is not installed");
            continue;
        }
        with_server(program, args, text).await.with_context(|| format!("with {program}"))?;
    }
    Ok(())
}

async fn with_server(program: &str, args: &[&str], text: &str) -> Result<()> {
    let lab = Lab::new()?;
    let right = v4(&lab.right)?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let [a, b, c, _] = right.octets();
    let net = format!("{a}.{b}.{c}");
    std::fs::write(
        path("conf"),
        text.replace("NET", &net)
            .replace("ADDRESS", &right.to_string())
            .replace("LEASES", &path("leases")),
    )?;
    std::fs::write(path("leases"), "")?;
    let args = args
        .iter()
        .map(|arg| arg.replace("CONFIG", &path("conf")).replace("LEASES", &path("leases")));
    let child = Command::new("ip")
        .args(["netns", "exec", lab.right.name(), program])
        .args(args)
        .env("KEA_PIDFILE_DIR", dir.path())
        .env("KEA_LOCKFILE_DIR", dir.path())
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(path("log"))?)
        .stderr(std::fs::File::create(path("errors"))?)
        .spawn()?;
    let log = || std::fs::read_to_string(path("log"));
    let _server = Server(child);
    let _dns = lab.right.run(move || async move {
        let _origin = Origin::bind("found", (right, 53).into()).await?;
        std::future::pending::<Result<()>>().await
    })?;
    let port = ports::free();
    let daemon = start(&lab, &config(port, Some("veth0"))).await?;
    // Some take their time to start, and we ask again less and less often.
    let mut said = String::new();
    for _ in 0..4 {
        said = ask(&lab.left, port, "who TXT").await?;
        if said.contains("found") {
            break;
        }
    }
    ensure!(said.contains("found"), "{said}\n{}\n{}", daemon.log_tail(), log()?);
    ensure!(daemon.log().contains("search: [lan"), "{}", daemon.log_tail());
    loud::line(&format!("DHCP by {program}: {right} found"));
    Ok(())
}
