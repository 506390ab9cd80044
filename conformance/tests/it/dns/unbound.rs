//! unbound behind us over UDP, TCP, TLS and HTTPS, dig and kdig in front of us: where the machine has them
//! (Debian: unbound, bind9-dnsutils, knot-dnsutils). They are in no registry that pins can name.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    loud, ports,
    process::{Launch, Ready},
    subject::Subject,
};
use serde_json::json;

use crate::tls::certs::Certs;

const SERVER: &str = "/usr/sbin/unbound";
const DIG: &str = "/usr/bin/dig";
const KDIG: &str = "/usr/bin/kdig";

/// Where the server answers.
struct Places {
    plain: u16,
    tls: u16,
    https: u16,
}

fn server_config(places: &Places, dir: &Path, certs: &Certs) -> Result<String> {
    let files = certs.issue("unbound", &["dns.test", "127.0.0.1"])?;
    let Places { plain, tls, https } = places;
    // 20 strings of 200 bytes: more than 4096 bytes.
    let big: String =
        (0..20).map(|n| format!("local-data: 'big.test. 300 TXT \"{n:0>200}\"'\n")).collect();
    Ok(format!(
        r#"server:
do-daemonize: no
username: ""
chroot: ""
pidfile: ""
use-syslog: no
directory: "{dir}"
do-not-query-localhost: no
interface: 127.0.0.1@{plain}
interface: 127.0.0.1@{tls}
interface: 127.0.0.1@{https}
tls-port: {tls}
https-port: {https}
tls-service-key: "{key}"
tls-service-pem: "{pem}"
access-control: 127.0.0.0/8 allow
max-udp-size: 65535
local-zone: "test." static
local-data: "a.test. 300 A 192.0.2.1"
local-data: "a.test. 300 AAAA 2001:db8::1"
local-data: "alias.test. 300 CNAME a.test."
local-zone: "refused.test." refuse
{big}"#,
        dir = dir.display(),
        key = files.key.display(),
        pem = files.certificate.display(),
    ))
}

fn ask(client: &str, port: u16, args: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } = Command::new(client)
        .args(["@127.0.0.1", "-p", &port.to_string()])
        .args(args)
        .output()
        .with_context(|| format!("run {client}"))?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let why = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{client} {args:?}: {status}\n{text}{why}");
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unbound_answers_dig_through_us() -> Result<()> {
    if let Some(missing) = [SERVER, DIG, KDIG].iter().find(|path| !Path::new(path).is_file()) {
        loud::not_run("unbound, dig and kdig", &format!("{missing} is not installed"));
        return Ok(());
    }
    let [plain, tls, https, udp_in, tcp_in, tls_in, https_in] = ports::many();
    let places = Places { plain, tls, https };
    let certs = Certs::new("unbound")?;
    let launch = Launch::new("unbound", SERVER)?;
    let config = server_config(&places, launch.dir(), &certs)?;
    std::fs::write(launch.dir().join("unbound.conf"), config)?;
    let _server = launch
        .args(["-d", "-c", "unbound.conf"])
        .ready([Ready::Tcp(plain), Ready::Tcp(tls), Ready::Tcp(https), Ready::Udp(plain)])
        .start()
        .await?;

    let secured =
        json!({ "enabled": true, "server_name": "dns.test", "certificate_path": certs.file() });
    let inbounds = [("udp", udp_in), ("tcp", tcp_in), ("tls", tls_in), ("https", https_in)];
    let config = json!({
        "dns": {
            "servers": [
                { "type": "udp", "tag": "udp", "server": "127.0.0.1", "server_port": plain },
                { "type": "tcp", "tag": "tcp", "server": "127.0.0.1", "server_port": plain },
                { "type": "tls", "tag": "tls", "server": "127.0.0.1", "server_port": tls, "tls": secured },
                { "type": "https", "tag": "https", "server": "127.0.0.1", "server_port": https, "tls": secured },
            ],
            "rules": inbounds.map(|(tag, _)| json!({ "inbound": tag, "server": tag })),
            "independent_cache": true,
        },
        "inbounds": inbounds.map(|(tag, port)| {
            json!({ "type": "dns", "tag": tag, "listen": "127.0.0.1", "listen_port": port })
        }),
    });
    let _subject = Subject::under_test().start(&config).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let work = tokio::task::spawn_blocking(move || {
        for (tag, port) in inbounds {
            for client in [DIG, KDIG] {
                suite(client, port).with_context(|| format!("{client}, server {tag}"))?;
            }
        }
        anyhow::Ok(())
    });
    work.await?
}

fn suite(client: &str, port: u16) -> Result<()> {
    let has = |args: &[&str], wanted: &[&str]| -> Result<()> {
        let text = ask(client, port, args)?;
        for word in wanted {
            ensure!(text.contains(word), "{args:?}: no {word} in\n{text}");
        }
        Ok(())
    };
    for transport in ["+notcp", "+tcp"] {
        has(&[transport, "a.test", "A"], &["192.0.2.1", "NOERROR"])?;
        has(&[transport, "a.test", "AAAA"], &["2001:db8::1"])?;
        has(&[transport, "alias.test", "A"], &["CNAME", "a.test."])?;
        has(&[transport, "none.test", "A"], &["NXDOMAIN"])?;
        has(&[transport, "a.test", "MX"], &["NOERROR"])?;
        has(&[transport, "x.refused.test", "A"], &["REFUSED"])?;
    }
    // Too long for a datagram: cut, and whole over TCP; whole in a datagram that may be that long.
    has(&["+notcp", "+ignore", "+bufsize=1232", "big.test", "TXT"], &[" tc"])?;
    let last = format!("{:0>200}", 19);
    has(&["+tcp", "big.test", "TXT"], &[&last])?;
    has(&["+notcp", "+ignore", "+bufsize=8192", "big.test", "TXT"], &[&last])
}
