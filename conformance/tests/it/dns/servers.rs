//! DNS servers over the network, asked through the subject. On the other side are programs that we did not write:
//!
//! | server type | who answers |
//! |---|---|
//! | `udp`, `tcp` | mihomo, and the reference with `hijack-dns` |
//! | `tls` | OpenSSL's TLS (`dot.py`) in front of mihomo |
//! | `https` | mihomo (HTTP/2), and Caddy with HTTP/1.1 alone |
//! | `h3` | Caddy's HTTP/3 in front of mihomo |
//! | `quic` | aioquic, with a few lines of ours (`doq.py`) |
//!
//! Behind all of them is the test's own server, so that answers are known.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::peers::{Library, Peer};
use crosspoint_conformance::process::{Launch, Ready, Running};
use crosspoint_conformance::subject::{Subject, write_config};
use crosspoint_conformance::{loud, ports};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::client::Ask;
use super::origin::Origin;

/// Longest time for one answer.
const WAIT: Duration = Duration::from_secs(8);

/// The name in the certificate.
const NAME: &str = "dns.test";

/// A certificate for [`NAME`] and the authority that vouches for it, in files.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let root = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![NAME.to_owned(), "127.0.0.1".to_owned()])?
            .signed_by(&key, &issuer)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), root)?;
        std::fs::write(dir.path().join("cert.pem"), leaf.pem())?;
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem())?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// mihomo as a DNS server: UDP and TCP on `dns`, HTTPS on `https`.
async fn mihomo(dns: u16, https: u16, behind: u16, certs: &Certificates) -> Result<Running> {
    let launch = Launch::new("mihomo", Peer::Mihomo.path()?)?;
    let config = json!({
        "log-level": "warning", "mode": "direct", "ipv6": true,
        "dns": {
            "enable": true, "listen": format!("127.0.0.1:{dns}"), "ipv6": true, "use-hosts": false,
            "use-system-hosts": false, "enhanced-mode": "normal",
            "nameserver": [format!("tcp://127.0.0.1:{behind}")],
        },
        "external-controller-tls": format!("127.0.0.1:{https}"),
        "external-doh-server": "/dns-query",
        "tls": {
            "certificate": std::fs::read_to_string(certs.path("cert.pem"))?,
            "private-key": std::fs::read_to_string(certs.path("key.pem"))?,
        },
    });
    write_config(launch.dir(), &config)?;
    let dir = launch.dir().to_string_lossy().into_owned();
    let args = ["-d".to_owned(), dir.clone(), "-f".to_owned(), format!("{dir}/config.json")];
    launch.args(args).ready([Ready::Tcp(dns), Ready::Tcp(https)]).start().await
}

/// Caddy, which speaks every HTTP on `all` and the oldest on `old`.
async fn caddy(all: u16, old: u16, behind: u16, certs: &Certificates) -> Result<Running> {
    let launch = Launch::new("caddy", Peer::Caddy.path()?)?;
    let tls = format!("tls {} {}", shown(&certs.path("cert.pem")), shown(&certs.path("key.pem")));
    let site = |port: u16| {
        format!(
            "https://:{port} {{\n bind 127.0.0.1\n {tls}\n \
             reverse_proxy https://127.0.0.1:{behind} {{\n  transport http {{\n   tls_insecure_skip_verify\n  }}\n }}\n}}\n"
        )
    };
    let config = format!(
        "{{\n admin off\n auto_https off\n skip_install_trust\n grace_period 1s\n servers 127.0.0.1:{old} {{\n  protocols h1\n }}\n \
         servers 127.0.0.1:{all} {{\n  protocols h1 h2 h3\n }}\n}}\n{}{}",
        site(all),
        site(old)
    );
    std::fs::write(launch.dir().join("Caddyfile"), config)?;
    launch
        .args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"])
        .ready([Ready::Tcp(all), Ready::Tcp(old), Ready::Udp(all)])
        .start()
        .await
}

/// One of our few lines of Python, which take TLS or QUIC off.
async fn python(script: &str, ready: Ready, behind: u16, certs: &Certificates) -> Result<Running> {
    let launch = Launch::new(script, "/usr/bin/env")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dns").join(script);
    let (Ready::Tcp(port) | Ready::Udp(port)) = ready;
    launch
        .env("PYTHONPATH", Library::Aioquic.path()?)
        .args(["python3".to_owned(), shown(&path), port.to_string()])
        .args([shown(&certs.path("cert.pem")), shown(&certs.path("key.pem")), behind.to_string()])
        .ready([ready])
        .start()
        .await
}

/// TLS in front of a DNS server.
async fn dot(port: u16, behind: u16, certs: &Certificates) -> Result<Running> {
    python("dot.py", Ready::Tcp(port), behind, certs).await
}

/// A DNS server over QUIC.
async fn doq(port: u16, behind: u16, certs: &Certificates) -> Result<Running> {
    python("doq.py", Ready::Udp(port), behind, certs).await
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The reference, which forwards.
async fn reference(port: u16, behind: u16) -> Result<Running> {
    let config = json!({
        "log": { "level": "warn" },
        "dns": {
            "servers": [{ "type": "tcp", "tag": "up", "server": "127.0.0.1", "server_port": behind }],
            "disable_cache": true,
        },
        "inbounds": [{ "type": "direct", "listen": "127.0.0.1", "listen_port": port }],
        "route": { "rules": [{ "action": "hijack-dns" }] },
    });
    Subject::Reference.start(&config).await
}

/// A DNS server of the subject under test, and the port that it is asked at.
struct Way {
    tag: &'static str,
    server: Value,
    port: u16,
}

impl Way {
    fn new(tag: &'static str, type_name: &str, to: u16, options: &Value) -> Self {
        let mut server = json!({
            "type": type_name, "tag": tag, "server": "127.0.0.1", "server_port": to,
        });
        for (key, value) in options.as_object().into_iter().flatten() {
            server[key] = value.clone();
        }
        Self { tag, server, port: ports::free() }
    }

    fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Asks, and wants `part` in what is said.
    async fn wants(&self, ask: &str, part: &str) -> Result<()> {
        let said = Ask::parse(ask)?.at(self.addr(), WAIT).await?;
        ensure!(said.contains(part), "{}: {ask}: {said}", self.tag);
        Ok(())
    }
}

/// One inbound for each server.
fn config(ways: &[Way], more: &[Value]) -> Value {
    let servers: Vec<_> = ways.iter().map(|way| way.server.clone()).chain(more.to_vec()).collect();
    let inbounds: Vec<_> = ways
        .iter()
        .map(|way| {
            json!({ "type": "direct", "tag": way.tag, "listen": "127.0.0.1", "listen_port": way.port })
        })
        .collect();
    let rules: Vec<_> =
        ways.iter().map(|way| json!({ "inbound": way.tag, "server": way.tag })).collect();
    json!({
        "log": { "level": "debug" },
        "dns": { "servers": servers, "rules": rules, "disable_cache": true },
        "inbounds": inbounds,
        "route": { "rules": [{ "action": "hijack-dns" }] },
    })
}

/// What every server must do.
async fn suite(way: &Way) -> Result<()> {
    // mihomo listens before it can answer.
    let begun = Instant::now();
    while let Err(error) = way.wants("a.0.test A", " A 192.0.2.1").await {
        if begun.elapsed() > Duration::from_secs(15) {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    way.wants("a.1.test A", " A 192.0.2.1").await?;
    way.wants("a.2.test AAAA", " AAAA 2001:db8::1").await?;
    way.wants("a.3.test MX", " MX 10 mail.a.test.").await?;
    way.wants("a.4.test HTTPS", " HTTPS 1 ").await?;
    way.wants("nx.5.test A", "NXDomain").await?;
    way.wants("cname.6.test A", " A 192.0.2.1").await?;
    way.wants("A.7.TeSt A tcp", " A 192.0.2.1").await?;
    way.wants("many.8.test A tcp edns=4096", " and 56 more").await?;
    let cut = matches!(way.server["type"].as_str(), Some("https" | "h3"));
    if !cut {
        // 4 KiB of addresses: over UDP they are truncated on the way and come over TCP. (mihomo cuts what it says over
        // HTTPS to the size that clients name, and to 1232 bytes at most.)
        way.wants("huge.10.test A tcp", " and 252 more").await?;
    }
    way.wants("long.9.test TXT tcp edns=4096", if cut { " TXT " } else { " and 8 more" }).await?;
    let mut many = JoinSet::new();
    let addr = way.addr();
    for n in 0..200 {
        many.spawn(async move {
            let ask = format!("a.m{n}.test A{}", if n % 2 == 0 { " tcp" } else { "" });
            anyhow::Ok((Ask::parse(&ask)?.at(addr, WAIT).await?, n))
        });
    }
    while let Some(done) = many.join_next().await {
        let (said, n) = done??;
        ensure!(
            said.contains(&format!("a.m{n}.test.")) && said.contains(" A 192.0.2.1"),
            "{}: {n} of 200: {said}",
            way.tag
        );
    }
    loud::line(&format!("ANSWERED  {}", way.tag));
    Ok(())
}

/// Whether the peers can be had; says so if not.
fn peers() -> bool {
    let all = [Peer::Mihomo.path(), Peer::Caddy.path(), Library::Aioquic.path()];
    for error in all.iter().filter_map(|peer| peer.as_ref().err()) {
        loud::not_run("DNS servers of others", &format!("{error:#}"));
    }
    all.iter().all(Result::is_ok)
}

#[tokio::test]
async fn servers_of_others_answer() -> Result<()> {
    if !peers() {
        return Ok(());
    }
    let certs = Certificates::new()?;
    let origin = Origin::start("main").await?;
    let [dns, https, tls, all, old, quic, forward] = ports::many();
    let mut mihomo_runs = mihomo(dns, https, origin.port(), &certs).await?;
    let mut tls_runs = dot(tls, dns, &certs).await?;
    let mut caddy_runs = caddy(all, old, https, &certs).await?;
    let mut quic_runs = doq(quic, origin.port(), &certs).await?;
    let mut forward_runs = reference(forward, origin.port()).await?;

    let secure =
        json!({ "tls": { "server_name": NAME, "certificate_path": certs.path("ca.pem") } });
    let by_address = json!({ "tls": { "certificate_path": certs.path("ca.pem") } });
    let none = json!({});
    let ways = [
        Way::new("udp", "udp", dns, &none),
        Way::new("tcp", "tcp", dns, &none),
        Way::new("udp-reference", "udp", forward, &none),
        Way::new("tcp-reference", "tcp", forward, &none),
        Way::new("tls", "tls", tls, &secure),
        Way::new("tls-by-address", "tls", tls, &by_address),
        Way::new("https", "https", https, &secure),
        Way::new("https-old", "https", old, &secure),
        Way::new("https-caddy", "https", all, &secure),
        Way::new("h3", "h3", all, &secure),
        Way::new("quic", "quic", quic, &secure),
    ];
    let subject = Subject::under_test().start(&config(&ways, &[])).await?;
    for way in &ways {
        suite(way).await.with_context(|| format!("{}\n{}", way.tag, subject.log_tail()))?;
    }

    // Servers that go and come back are found again, by all.
    for running in
        [&mut mihomo_runs, &mut tls_runs, &mut caddy_runs, &mut quic_runs, &mut forward_runs]
    {
        running.stop().await?;
    }
    let _again = (
        mihomo(dns, https, origin.port(), &certs).await?,
        dot(tls, dns, &certs).await?,
        caddy(all, old, https, &certs).await?,
        doq(quic, origin.port(), &certs).await?,
        reference(forward, origin.port()).await?,
    );
    for way in &ways {
        suite(way).await.with_context(|| {
            format!("{} after a restart of the server\n{}", way.tag, subject.log_tail())
        })?;
    }
    Ok(())
}

#[tokio::test]
async fn a_detour_and_a_name_lead_to_the_server() -> Result<()> {
    if !peers() {
        return Ok(());
    }
    let certs = Certificates::new()?;
    let origin = Origin::start("main").await?;
    let [dns, https, tls, all, old, quic, proxy] = ports::many();
    let _runs = (
        mihomo(dns, https, origin.port(), &certs).await?,
        dot(tls, dns, &certs).await?,
        caddy(all, old, https, &certs).await?,
        doq(quic, origin.port(), &certs).await?,
    );
    // A SOCKS server that knows the name; we do not.
    let _proxy = Subject::Reference
        .start(&json!({
            "dns": { "servers": [{ "type": "hosts", "predefined": { NAME: "127.0.0.1" } }] },
            "inbounds": [{ "type": "socks", "listen": "127.0.0.1", "listen_port": proxy }],
        }))
        .await?;
    let way = |tag, type_name, to, how: Value| {
        let mut options = json!({ "server": NAME });
        if !matches!(type_name, "udp" | "tcp") {
            options["tls"] = json!({ "certificate_path": certs.path("ca.pem") });
        }
        for (key, value) in how.as_object().into_iter().flatten() {
            options[key] = value.clone();
        }
        Way::new(tag, type_name, to, &options)
    };
    let detour = json!({ "detour": "proxy" });
    let named = json!({ "domain_resolver": "names" });
    let ways = [
        way("udp-detour", "udp", dns, detour.clone()),
        way("tcp-detour", "tcp", dns, detour.clone()),
        way("tls-detour", "tls", tls, detour.clone()),
        way("https-detour", "https", https, detour.clone()),
        way("h3-detour", "h3", all, detour.clone()),
        way("quic-detour", "quic", quic, detour),
        way("udp-named", "udp", dns, named.clone()),
        way("tcp-named", "tcp", dns, named.clone()),
        way("tls-named", "tls", tls, named.clone()),
        way("https-named", "https", https, named.clone()),
        way("h3-named", "h3", all, named.clone()),
        way("quic-named", "quic", quic, named),
    ];
    let names = json!({ "type": "hosts", "tag": "names", "predefined": { NAME: "127.0.0.1" } });
    let mut config = config(&ways, &[names]);
    config["outbounds"] = json!([
        { "type": "direct", "tag": "direct" },
        { "type": "socks", "tag": "proxy", "server": "127.0.0.1", "server_port": proxy },
    ]);
    let subject = Subject::under_test().start(&config).await?;
    for way in &ways {
        suite(way).await.with_context(|| format!("{}\n{}", way.tag, subject.log_tail()))?;
    }
    Ok(())
}
