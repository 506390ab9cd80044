//! WireGuard against programs of others, in both directions: wireguard-go and boringtun-cli with TUN devices in a network
//! namespace without a way out, mihomo and Xray on loopback.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::{
        Socks, Target, Via,
        suite::{self, Origins},
    },
    netns::{self, Lab, Netns},
    peers::Peer,
    ports,
    process::{Launch, Ready, Running},
    subject::{Subject, write_config},
};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::wireguard_stage::{End, SECRET, start, unknown, with};

/// Everything through a tunnel to servers that are there under another address.
async fn all(via: &Via, origins: &Origins, ip: IpAddr) -> Result<()> {
    let at = |addr: SocketAddr| Target::Addr(SocketAddr::new(ip, addr.port()));
    let name = || format!("to {ip}");
    let echo = at(origins.echo.addr());
    suite::tcp_ping_pong(via, &echo).await.with_context(name)?;
    suite::tcp_bulk(via, &echo, 500_000).await.with_context(name)?;
    suite::tcp_upload(via, &at(origins.sink.addr()), 500_000).await.with_context(name)?;
    suite::tcp_download(via, &at(origins.source.addr()), 500_000).await.with_context(name)?;
    let udp = at(origins.udp.addr());
    suite::udp_ping_pong(via, &udp).await.with_context(name)?;
    suite::udp_many(via, &udp, 20, 1200).await.with_context(name)?;
    suite::udp_size(via, &udp, 4096).await.with_context(name)
}

/// Waits until a peer answers for the first time: it may listen before it is ready.
async fn ready(via: &Via, echo: &Target, program: &Running) -> Result<()> {
    for _ in 0..100 {
        if suite::tcp_ping_pong(via, echo).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    suite::tcp_ping_pong(via, echo).await.with_context(|| program.log_tail())
}

const OURS: [&str; 2] = ["10.9.0.1", "fd00:9::1"];
const THEIRS: [&str; 2] = ["10.9.0.2", "fd00:9::2"];

/// mihomo reaches what is behind us: it has a client only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mihomo_comes_to_us() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[unknown(theirs.peer(SECRET))], &theirs, &json!({}));
    let _ours = start(&Subject::under_test(), &config).await?;
    let launch = Launch::new("mihomo", Peer::Mihomo.path()?)?;
    let config = json!({
        "mixed-port": theirs.entry, "bind-address": "127.0.0.1", "allow-lan": true, "ipv6": true,
        "mode": "rule", "log-level": "warning", "geodata-mode": false, "find-process-mode": "off",
        "proxies": [{
            "name": "tunnel", "type": "wireguard", "server": "127.0.0.1", "port": ours.port,
            "private-key": theirs.keys.private, "public-key": ours.keys.public, "pre-shared-key": SECRET,
            "ip": THEIRS[0], "ipv6": THEIRS[1], "allowed-ips": ["0.0.0.0/0", "::/0"], "udp": true, "mtu": 1408,
            "reserved": [1, 2, 3],
        }],
        "rules": ["MATCH,tunnel"],
    });
    write_config(launch.dir(), &config)?;
    let dir = launch.dir().to_string_lossy().into_owned();
    let args = ["-d".to_owned(), dir.clone(), "-f".to_owned(), format!("{dir}/config.json")];
    let theirs_running = launch.args(args).ready([Ready::Tcp(theirs.entry)]).start().await?;
    for (origins, ip) in [Origins::v4().await?, Origins::v6().await?].iter().zip(OURS) {
        let ip = ip.parse()?;
        let echo = SocketAddr::new(ip, origins.echo.addr().port()).into();
        ready(&theirs.via(), &echo, &theirs_running).await?;
        all(&theirs.via(), origins, ip).await.with_context(|| theirs_running.log_tail())?;
    }
    Ok(())
}

async fn xray(config: &Value, port: u16, ready: Ready) -> Result<Running> {
    let launch = Launch::new("xray", Peer::Xray.path()?)?;
    write_config(launch.dir(), config)?;
    let file = format!("{}/config.json", launch.dir().to_string_lossy());
    ensure!(port > 0);
    launch.args(["run".to_owned(), "-c".to_owned(), file]).ready([ready]).start().await
}

/// Xray as a client of ours, and as a server that we reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_with_xray() -> Result<()> {
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    let config = ours.config(&[unknown(theirs.peer(SECRET))], &theirs, &json!({}));
    let our = start(&Subject::under_test(), &config).await?;
    let settings = json!({
        "secretKey": theirs.keys.private, "address": THEIRS, "mtu": 1408, "noKernelTun": true, "kernelMode": false,
        "peers": [{
            "endpoint": format!("127.0.0.1:{}", ours.port), "publicKey": ours.keys.public, "preSharedKey": SECRET,
            "allowedIPs": ["0.0.0.0/0", "::/0"],
        }],
    });
    let config = json!({
        "log": { "loglevel": "warning" },
        "inbounds": [{
            "listen": "127.0.0.1", "port": theirs.entry, "protocol": "socks",
            "settings": { "udp": true, "ip": "127.0.0.1" },
        }],
        "outbounds": [{ "protocol": "wireguard", "settings": settings }],
    });
    let client = xray(&config, theirs.entry, Ready::Tcp(theirs.entry)).await?;
    let both = [Origins::v4().await?, Origins::v6().await?];
    for (origins, ip) in both.iter().zip(OURS) {
        let ip = ip.parse()?;
        let echo = SocketAddr::new(ip, origins.echo.addr().port()).into();
        ready(&theirs.via(), &echo, &client).await?;
        xray_all(&theirs.via(), origins, ip).await.with_context(|| client.log_tail())?;
    }
    drop((our, client));
    // Its server sends everything to the loopback address, whatever it was meant for.
    let config = json!({
        "log": { "loglevel": "warning" },
        "inbounds": [{
            "listen": "127.0.0.1", "port": theirs.port, "protocol": "wireguard",
            "settings": {
                "secretKey": theirs.keys.private, "mtu": 1408, "kernelMode": false, "noKernelTun": true,
                "address": THEIRS,
                "peers": [{ "publicKey": ours.keys.public, "preSharedKey": SECRET, "allowedIPs": ["10.9.0.1/32", "fd00:9::1/128"] }],
            },
        }],
        "outbounds": [{ "protocol": "freedom", "settings": { "redirect": "127.0.0.1:0" } }],
    });
    let server = xray(&config, theirs.port, Ready::Udp(theirs.port)).await?;
    let peer = with(theirs.peer(SECRET), &json!({ "allowed_ips": ["0.0.0.0/0", "::/0"] }));
    let mut config = ours.config(&[peer], &theirs, &json!({}));
    config["route"]["rules"] = json!([{ "inbound": "in", "outbound": "tunnel" }]);
    let _ours = start(&Subject::under_test(), &config).await?;
    // Addresses that it does not take for its own.
    for ip in ["10.66.0.7", "fd00:66::7"] {
        let ip = ip.parse()?;
        let echo = SocketAddr::new(ip, both[0].echo.addr().port()).into();
        ready(&ours.via(), &echo, &server).await?;
        xray_all(&ours.via(), &both[0], ip).await.with_context(|| server.log_tail())?;
    }
    Ok(())
}

/// What Xray carries: no half-closed streams, no bursts of datagrams.
async fn xray_all(via: &Via, origins: &Origins, ip: IpAddr) -> Result<()> {
    let at = |addr: SocketAddr| Target::Addr(SocketAddr::new(ip, addr.port()));
    let name = || format!("to {ip}");
    let echo = at(origins.echo.addr());
    suite::tcp_ping_pong(via, &echo).await.with_context(name)?;
    suite::tcp_bulk_open(via, &echo, 500_000).await.with_context(name)?;
    suite::tcp_download(via, &at(origins.source.addr()), 500_000).await.with_context(name)?;
    let udp = at(origins.udp.addr());
    suite::udp_ping_pong(via, &udp).await.with_context(name)?;
    suite::udp_size(via, &udp, 1200).await.with_context(name)
}

/// A program that makes a TUN device, and is told the rest by `wg`.
struct Tun {
    program: &'static str,
    before: &'static [&'static str],
}

const WIREGUARD_GO: Tun = Tun { program: "wireguard-go", before: &["-f"] };
const BORINGTUN: Tun =
    Tun { program: "boringtun-cli", before: &["--foreground", "--disable-drop-privileges"] };

impl Tun {
    /// The program, if it and everything it needs is there; says so if not.
    fn find(&self) -> Option<PathBuf> {
        let what = format!("WireGuard with {}", self.program);
        if !netns::available(&what) {
            return None;
        }
        let said = std::env::var("CONFORMANCE_PEERS").unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        let find = |name: &str| {
            let dirs = said.split(':').chain(path.split(':')).filter(|dir| !dir.is_empty());
            dirs.map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
        };
        for needed in ["wg", self.program] {
            if find(needed).is_none() {
                loud::not_run(&what, &format!("there is no `{needed}` (PATH, CONFORMANCE_PEERS)"));
                return None;
            }
        }
        if !Path::new("/dev/net/tun").exists() {
            loud::not_run(&what, "there is no /dev/net/tun");
            return None;
        }
        find(self.program)
    }
}

fn within(netns: &Netns, args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(["netns", "exec", netns.name()]).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A device of such a program in a namespace.
struct Device {
    running: Running,
    name: String,
}

impl Device {
    /// Makes the device of `end`, whose only peer is `to` at that address of the cable (or unknown).
    async fn start(
        tun: &Tun,
        program: &Path,
        netns: &Netns,
        (end, to): (&End, &End),
        at: Option<IpAddr>,
        mtu: &str,
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Its socket of orders lies in a directory that all namespaces share.
        let name = format!("cp{:x}-{number}", std::process::id());
        let launch = Launch::new(tun.program, program)?.netns(netns);
        let file = launch.dir().join("wg.conf");
        let endpoint = at.map(|ip| format!("Endpoint = {}\n", SocketAddr::new(ip, to.port)));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {}\n[Peer]\nPublicKey = {}\nPresharedKey = {SECRET}\n\
             AllowedIPs = {}/32, {}/128, 10.66.0.0/16\n{}",
            end.keys.private,
            end.port,
            to.keys.public,
            OURS[0],
            OURS[1],
            endpoint.unwrap_or_default(),
        );
        std::fs::write(&file, text)?;
        let running = launch
            .args(tun.before.iter().copied().chain([name.as_str()]))
            .env("WG_SUDO", "1")
            .env("WG_LOG_LEVEL", "error")
            .spawn()?;
        let device = Self { running, name };
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", device.name));
        let mut left = 100;
        while !socket.exists() {
            left -= 1;
            ensure!(left > 0, "{}: no device: {}", tun.program, device.running.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let name = device.name.as_str();
        within(netns, &["wg", "setconf", name, &file.to_string_lossy()])?;
        within(netns, &["ip", "addr", "add", &format!("{}/24", THEIRS[0]), "dev", name])?;
        within(netns, &["ip", "addr", "add", &format!("{}/64", THEIRS[1]), "dev", name, "nodad"])?;
        within(netns, &["ip", "link", "set", name, "up", "mtu", mtu])?;
        within(netns, &["ip", "route", "add", "10.66.0.0/16", "dev", name])?;
        Ok(device)
    }
}

/// Servers that live on a thread inside a namespace, until they are told to go.
struct Inside {
    origins: Arc<[Origins; 2]>,
    done: Arc<Notify>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.done.notify_one();
    }
}

impl Inside {
    async fn on(netns: &Netns, ips: [&'static str; 2]) -> Result<Self> {
        let done = Arc::new(Notify::new());
        let (made, wait) = oneshot::channel();
        let stay = done.clone();
        netns.run(move || async move {
            let (v4, v6) = (format!("{}:0", ips[0]), format!("[{}]:0", ips[1]));
            let origins = Arc::new([Origins::on(&v4).await?, Origins::on(&v6).await?]);
            let _ = made.send(origins.clone());
            stay.notified().await;
            Ok(())
        })?;
        let origins = wait.await.context("servers in a namespace")?;
        Ok(Self { origins, done })
    }
}

/// Everything that is to be shown with such a program.
async fn with_tun(tun: &Tun) -> Result<()> {
    let Some(program) = tun.find() else { return Ok(()) };
    let lab = Lab::new()?;
    let (ours, theirs) = (End::new(1)?, End::new(2)?);
    // On a cable of 1500 bytes, a tunnel of 1500 has messages that the system must cut.
    for (mtu, more) in [("1420", json!({})), ("1500", json!({ "udp_fragment": true }))] {
        let what = || format!("{}, MTU {mtu}", tun.program);
        let mut peer = theirs.peer(SECRET);
        peer["address"] = lab.right.v4().to_string().into();
        let more = with(more, &json!({ "mtu": mtu.parse::<u16>()? }));
        let mut config = ours.config(&[peer], &theirs, &more);
        // Clients name addresses in the tunnel; 10.66.0.0/16 behind us is this machine too.
        config["route"]["rules"] = json!([
            { "inbound": "in", "outbound": "tunnel" },
            { "inbound": "tunnel", "ip_cidr": "10.66.0.0/16", "action": "route-options", "override_address": "127.0.0.1" },
        ]);
        let our = Subject::under_test().launch(&config)?.netns(&lab.left).start().await?;
        let ends = (&theirs, &ours);
        let device = Device::start(tun, &program, &lab.right, ends, None, mtu).await?;
        let (here, there) = (
            Inside::on(&lab.left, ["127.0.0.1", "::1"]).await?,
            Inside::on(&lab.right, THEIRS).await?,
        );
        let (socks, origins) =
            (Socks::v5(([127, 0, 0, 1], ours.entry).into()), there.origins.clone());
        let told = || format!("ours:\n{}\ntheirs:\n{}", our.log_tail(), device.running.log_tail());
        let out = lab.left.within(move || async move {
            let via = Via::from(socks);
            for (origins, ip) in origins.iter().zip(THEIRS) {
                all(&via, origins, ip.parse()?).await?;
            }
            Ok(())
        });
        out.await.context("through us").with_context(what).with_context(told)?;
        let origins = here.origins.clone();
        let back = lab.right.within(move || async move {
            for (origins, ip) in origins.iter().zip(OURS) {
                all(&Via::Direct, origins, ip.parse()?).await?;
            }
            all(&Via::Direct, &origins[0], "10.66.0.9".parse()?).await
        });
        back.await.context("to us").with_context(what).with_context(told)?;
        let socks = Socks::v5(([127, 0, 0, 1], ours.entry).into());
        let ports = [&there, &here].map(|inside| inside.origins[0].echo.addr().port());
        let device_at = (device.name.as_str(), ports::free());
        moves(&lab, socks, device_at, ports).await.with_context(what).with_context(told)?;
        let shown = within(&lab.right, &["wg", "show", &device.name])?;
        ensure!(shown.contains(" received, "), "{shown}");
    }
    Ok(())
}

/// Its port changes, and then our address on the cable, and the next word goes through.
async fn moves(
    lab: &Lab,
    socks: Socks,
    (device, port): (&str, u16),
    ports: [u16; 2],
) -> Result<()> {
    let [there, here] = ports;
    let out = move || {
        let via = Via::from(socks.clone());
        async move {
            let echo = SocketAddr::new(THEIRS[0].parse()?, there);
            suite::tcp_ping_pong(&via, &echo.into()).await
        }
    };
    let back = move || async move {
        let echo = SocketAddr::new(OURS[0].parse()?, here);
        suite::tcp_ping_pong(&Via::Direct, &echo.into()).await
    };
    within(&lab.right, &["wg", "set", device, "listen-port", &port.to_string()])?;
    lab.right.within(back).await.context("it has moved")?;
    lab.left.within(out.clone()).await.context("to where it moved")?;
    let net = match lab.left.v4() {
        IpAddr::V4(ip) => ip.octets()[2],
        IpAddr::V6(_) => 0,
    };
    // As it was, in the end.
    for (from, to) in [(1, 6), (6, 1)] {
        let at = |host: u8| format!("10.77.{net}.{host}/24");
        within(&lab.left, &["ip", "addr", "del", &at(from), "dev", "veth0"])?;
        within(&lab.left, &["ip", "addr", "add", &at(to), "dev", "veth0"])?;
        lab.left.within(out.clone()).await.context("we have moved")?;
        lab.right.within(back).await.context("to where we moved")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_with_wireguard_go() -> Result<()> {
    with_tun(&WIREGUARD_GO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_with_boringtun() -> Result<()> {
    with_tun(&BORINGTUN).await
}
