//! The same configuration on the subject and on the reference: what a client sees must be the
//! same, or be listed in `deviations.tsv` under the suite `proxy`.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use crosspoint_conformance::curl::fetch;
use crosspoint_conformance::golden::lists::Deviations;
use crosspoint_conformance::loud;
use crosspoint_conformance::net::http::{HttpProxy, Message, base64};
use crosspoint_conformance::net::origin::Origin;
use crosspoint_conformance::net::suite::{self, Naming};
use crosspoint_conformance::net::{Socks, SocksError, Target, Version, Via, within};
use crosspoint_conformance::subject::Subject;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::raw::converse;
use super::stage::{PASSWORD, Ports, Stage, USER};

/// Long enough for an answer over loopback.
const QUIET: Duration = Duration::from_secs(2);

/// A scenario's name and what a client saw in it, ports and times left out.
type Seen = Vec<(String, String)>;

#[tokio::test]
async fn a_client_sees_the_same_from_both() -> Result<()> {
    let subject = Subject::under_test();
    let (ours, theirs) = (observe(&subject).await?, observe(&Subject::Reference).await?);
    let deviations = if subject.is_reference() { None } else { Some(Deviations::load()?) };
    let mut wrong = Vec::new();
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let listed = deviations.as_ref().and_then(|list| list.find("proxy", name));
        match (ours == theirs, listed) {
            (true, None) => {}
            (true, Some(_)) => wrong.push(format!("{name}: no longer deviates")),
            (false, Some(deviation)) if one_line(ours) == deviation.what => {}
            (false, Some(deviation)) => wrong.push(format!(
                "{name}: deviates, but not as listed\n  listed    {}\n  is        {}",
                deviation.what,
                one_line(ours)
            )),
            (false, None) => wrong.push(format!(
                "{name}\n  reference {}\n  subject   {}",
                one_line(theirs),
                one_line(ours)
            )),
        }
    }
    for deviation in deviations.iter().flat_map(|list| list.of("proxy")) {
        if !ours.iter().any(|(name, _)| *name == deviation.name) {
            wrong.push(format!("{}: listed as deviation, but no such scenario", deviation.name));
        }
    }
    loud::line(&format!("COMPARED {} scenarios, {} wrong", ours.len(), wrong.len()));
    if std::env::var_os("CONFORMANCE_SHOW").is_some() {
        theirs.iter().for_each(|(name, seen)| loud::line(&format!("  {name}: {}", one_line(seen))));
    }
    if !wrong.is_empty() {
        bail!("a client sees something else:\n{}", wrong.join("\n"));
    }
    Ok(())
}

fn one_line(seen: &str) -> String {
    seen.replace('\n', " / ")
}

async fn observe(subject: &Subject) -> Result<Seen> {
    let stage = Stage::start(subject).await?;
    let mut seen = Seen::new();
    // All at once: most of a scenario is waiting for silence.
    let mut running = JoinSet::new();
    let mut order = Vec::new();
    let mut add = |name: String, work: Work| {
        order.push(name.clone());
        running.spawn(async move { (name, work.await) });
    };
    raw_socks(&stage, &mut add);
    raw_http(&stage, &mut add);
    refusals(&stage, &mut add);
    forwarding(&stage, &mut add);
    by_curl(&stage, &mut add);
    half_close(&stage, &mut add);
    datagrams(&stage, &mut add);
    let mut found = std::collections::HashMap::new();
    while let Some(done) = running.join_next().await {
        let (name, result) = done?;
        let text = result.unwrap_or_else(|e| format!("failed: {e:#}"));
        found.insert(name, mask(&text, &stage));
    }
    for name in order {
        let text = found.remove(&name).unwrap_or_default();
        seen.push((name, text));
    }
    Ok(seen)
}

type Work = std::pin::Pin<Box<dyn Future<Output = Result<String>> + Send>>;

/// Ports differ from run to run; in answers they become words. So does the port behind a bound
/// address of ours, which SOCKS5 answers with.
fn mask(text: &str, stage: &Stage) -> String {
    let p = &stage.ports;
    let mut text = text.to_owned();
    for (port, word) in [
        (stage.web4.addr().port(), "WEB4"),
        (stage.web6.addr().port(), "WEB6"),
        (stage.v4.echo.addr().port(), "ECHO4"),
        (stage.closed, "CLOSED"),
        (p.mixed, "MIXED"),
        (p.http, "HTTP"),
    ] {
        text = text.replace(&format!(":{port}"), &format!(":{word}"));
        let [high, low] = port.to_be_bytes();
        text = text.replace(&format!(" {high:02x} {low:02x} |"), &format!(" {word} |"));
    }
    // Behind these stands the port: SOCKS5 with a bound IPv4 address, SOCKS4.
    for bound in ["05 00 00 01 7f 00 00 01 ", "00 5a "] {
        let mut masked = String::new();
        while let Some(at) = text.find(bound).map(|at| at + bound.len()) {
            masked += &text[..at];
            masked += "PORT";
            text = text.split_off((at + 5).min(text.len()));
        }
        text = masked + &text;
    }
    text
}

/// `5, 1, 0, TYPE, address, port` for a CONNECT.
fn connect5(address: &[u8], port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0];
    request.extend(address);
    request.extend(port.to_be_bytes());
    request
}

fn raw_socks(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let p = &stage.ports;
    let echo = stage.v4.echo.addr().port();
    let (v4, localhost) = ([1, 127, 0, 0, 1], b"\x03\x09localhost");
    let good = connect5(&v4, echo);
    let named = connect5(localhost, echo);
    let closed = connect5(&v4, stage.closed);
    let bind = [&[5, 2], &good[2..]].concat();
    let unknown = [&[5, 9], &good[2..]].concat();
    let odd_type = connect5(&[9, 1, 2, 3, 4], echo);
    let no_name = connect5(&[3, 0], echo);
    let hello: &[u8] = &[5, 1, 0];
    let login = {
        let mut message = vec![1, USER.len() as u8];
        message.extend(USER.bytes());
        message.push(PASSWORD.len() as u8);
        message.extend(PASSWORD.bytes());
        message
    };
    let four = |address: [u8; 4], tail: &[u8]| {
        [&[4, 1], &echo.to_be_bytes()[..], &address, b"id\0", tail].concat()
    };
    let four_closed = [&[4, 1], &stage.closed.to_be_bytes()[..], &[127, 0, 0, 1, 0]].concat();

    let talks: Vec<(&str, u16, Vec<Vec<u8>>)> = vec![
        ("socks5 connect", p.socks, vec![hello.into(), good.clone(), b"hi".into()]),
        ("socks5 pipelined", p.socks, vec![[hello, &good, b"hi"].concat()]),
        ("socks5 name", p.socks, vec![hello.into(), named, b"hi".into()]),
        ("socks5 closed port", p.socks, vec![hello.into(), closed]),
        ("socks5 bind", p.socks, vec![hello.into(), bind]),
        ("socks5 unknown command", p.socks, vec![hello.into(), unknown]),
        ("socks5 unknown address type", p.socks, vec![hello.into(), odd_type]),
        ("socks5 empty name", p.socks, vec![hello.into(), no_name]),
        ("socks5 no methods", p.socks, vec![vec![5, 0]]),
        ("socks5 only GSSAPI", p.socks, vec![vec![5, 1, 1]]),
        ("socks5 both methods, no login wanted", p.socks, vec![vec![5, 2, 0, 2], good.clone()]),
        ("socks5 only password, none wanted", p.socks, vec![vec![5, 1, 2], login.clone()]),
        ("socks5 login", p.socks_login, vec![vec![5, 2, 0, 2], login.clone(), good.clone()]),
        ("socks5 no login, one wanted", p.socks_login, vec![vec![5, 1, 0], good.clone()]),
        ("socks5 wrong password", p.socks_login, vec![vec![5, 1, 2], b"\x01\x01a\x01b".into()]),
        ("socks5 login version 5", p.socks_login, vec![vec![5, 1, 2], b"\x05\x01a\x01b".into()]),
        ("socks4 connect", p.socks, vec![four([127, 0, 0, 1], b""), b"hi".into()]),
        ("socks4a name", p.socks, vec![four([0, 0, 0, 7], b"localhost\0"), b"hi".into()]),
        ("socks4 closed port", p.socks, vec![four_closed]),
        ("socks4 where a login is wanted", p.socks_login, vec![four([127, 0, 0, 1], b"")]),
        ("version 6 to socks", p.socks, vec![vec![6, 1, 0]]),
        ("http to socks", p.socks, vec![b"GET http://127.0.0.1/ HTTP/1.1\r\n\r\n".into()]),
        ("mixed takes socks5", p.mixed, vec![hello.into(), good.clone(), b"hi".into()]),
        ("mixed takes socks4", p.mixed, vec![four([127, 0, 0, 1], b""), b"hi".into()]),
        ("garbage to mixed", p.mixed, vec![vec![0xff; 64]]),
    ];
    for (name, port, parts) in talks {
        talk(name, port, parts, add);
    }
}

fn raw_http(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let p = &stage.ports;
    let (echo, web) = (stage.v4.echo.addr(), stage.web4.addr());
    let closed = stage.closed;
    let pair = base64(format!("{USER}:{PASSWORD}").as_bytes());
    let connect = format!("CONNECT {echo} HTTP/1.1\r\nHost: {echo}\r\n\r\n");
    let old = format!("CONNECT {echo} HTTP/1.0\r\n\r\n");
    let login =
        format!("CONNECT {echo} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {pair}\r\n\r\n");
    let talks = [
        ("http connect", p.http, vec![connect.clone(), "hi".to_owned()]),
        ("http connect pipelined", p.http, vec![format!("{connect}hi")]),
        ("http connect 1.0", p.http, vec![old, "hi".to_owned()]),
        ("http connect name", p.http, vec![connect.replace("127.0.0.1", "localhost")]),
        (
            "http connect closed port",
            p.http,
            vec![format!("CONNECT 127.0.0.1:{closed} HTTP/1.1\r\nHost: x\r\n\r\n")],
        ),
        ("http connect without port", p.http, vec!["CONNECT x HTTP/1.1\r\n\r\n".to_owned()]),
        ("http connect, login wanted", p.http_login, vec![connect.clone()]),
        ("http connect with login", p.http_login, vec![login, "hi".to_owned()]),
        (
            "http basic without colon",
            p.http_login,
            vec![format!(
                "CONNECT {echo} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic eA==\r\n\r\n"
            )],
        ),
        ("http relative path", p.http, vec!["GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()]),
        (
            "http relative path with host",
            p.http,
            vec![format!("GET / HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n")],
        ),
        ("http bad line", p.http, vec!["nonsense\r\n\r\n".to_owned()]),
        ("http https scheme", p.http, vec![format!("GET https://{web}/ HTTP/1.1\r\n\r\n")]),
        (
            "http get closed port",
            p.http,
            vec![format!("GET http://127.0.0.1:{closed}/ HTTP/1.1\r\nHost: x\r\n\r\n")],
        ),
        (
            "http get, login wanted",
            p.http_login,
            vec![format!("GET http://{web}/ HTTP/1.1\r\nHost: {web}\r\n\r\n")],
        ),
        ("mixed takes connect", p.mixed, vec![connect, "hi".to_owned()]),
        ("socks to http", p.http, vec!["\u{5}\u{1}\u{0}".to_owned()]),
    ];
    for (name, port, parts) in talks {
        talk(name, port, parts.into_iter().map(String::into_bytes).collect(), add);
    }
}

fn talk(name: &str, port: u16, parts: Vec<Vec<u8>>, add: &mut impl FnMut(String, Work)) {
    add(
        name.to_owned(),
        Box::pin(async move {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            converse(Ports::v4(port), &parts).await
        }),
    );
}

/// What becomes of a target that cannot be reached, by dialect.
fn refusals(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let socks = Socks::v5(Ports::v4(stage.ports.mixed));
    let closed = stage.closed;
    let targets = [
        ("closed v4", Target::Addr(Ports::v4(closed))),
        ("closed v6", Target::Addr(Ports::v6(closed))),
        ("no such name", Target::Name("no-such-name.invalid".to_owned(), 80)),
        ("port 0", Target::Addr(([127, 0, 0, 1], 0).into())),
    ];
    for (what, target) in targets {
        for version in [Version::V5, Version::V4a] {
            if version == Version::V4a && matches!(&target, Target::Addr(_)) {
                continue;
            }
            let (socks, target) = (socks.clone().version(version), target.clone());
            let work = async move {
                Ok(match socks.connect(&target).await {
                    Ok(_) => "connected".to_owned(),
                    Err(SocksError::Io(e)) => format!("ended: {:?}", e.kind()),
                    Err(e) => e.to_string(),
                })
            };
            add(format!("{version:?} to {what}"), Box::pin(work));
        }
    }
}

/// What an origin and a client see of requests that are forwarded without CONNECT.
fn forwarding(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let proxy = HttpProxy::new(Ports::v4(stage.ports.http));
    let login = HttpProxy::new(Ports::v4(stage.ports.http_login)).login(USER, PASSWORD);
    let web = format!("http://{}", stage.web4.addr());
    let named = format!("http://localhost:{}", stage.web4.addr().port());
    let web6 = format!("http://{}", stage.web6.addr());
    let keep = "Proxy-Connection: keep-alive\r\n";
    let agent = "User-Agent: curl/8\r\nAccept-Encoding: br\r\nCookie: a=b\r\n";
    let hops = "Proxy-Connection: keep-alive\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                Keep-Alive: 5\r\nTE: trailers\r\nUpgrade: none\r\nX-Own: kept\r\n";
    let cases = [
        ("get", proxy.clone(), vec![("GET", format!("{web}/"), "")]),
        ("get name", proxy.clone(), vec![("GET", format!("{named}/headers"), "")]),
        ("head", proxy.clone(), vec![("HEAD", format!("{web}/bytes/9"), "")]),
        ("status 204", proxy.clone(), vec![("GET", format!("{web}/status/204"), "")]),
        ("chunked", proxy.clone(), vec![("GET", format!("{web}/chunked"), "")]),
        ("until the end", proxy.clone(), vec![("GET", format!("{web}/close"), "")]),
        ("login is not passed on", login, vec![("GET", format!("{web}/headers"), "")]),
        ("hop by hop fields", proxy.clone(), vec![("GET", format!("{web}/headers"), hops)]),
        (
            "keep-alive",
            proxy.clone(),
            vec![
                ("GET", format!("{web}/bytes/3"), keep),
                ("POST", format!("{web}/echo"), keep),
                ("GET", format!("{named}/headers"), keep),
                ("GET", format!("{web6}/chunked"), keep),
            ],
        ),
        (
            "two requests, nothing said of keep-alive",
            proxy.clone(),
            vec![("GET", format!("{web}/bytes/3"), ""), ("GET", format!("{web}/bytes/4"), "")],
        ),
        (
            "two requests with Connection: keep-alive",
            proxy.clone(),
            vec![
                ("GET", format!("{web}/bytes/3"), "Connection: keep-alive\r\n"),
                ("GET", format!("{web}/bytes/4"), "Connection: keep-alive\r\n"),
            ],
        ),
        ("post", proxy.clone(), vec![("POST", format!("{web}/echo"), "")]),
        ("own user agent", proxy.clone(), vec![("GET", format!("{web}/headers"), agent)]),
        ("query and fragment", proxy, vec![("GET", format!("{web}/headers?a=b%20c"), "")]),
    ];
    for (name, proxy, requests) in cases {
        let work = async move {
            let mut connection = proxy.open().await?;
            let mut seen = Vec::new();
            for (method, url, headers) in requests {
                let body: &[u8] = if method == "POST" { b"posted" } else { b"" };
                match connection.request(method, &url, headers, body).await {
                    Ok(answer) => seen.push(describe(&answer)),
                    Err(_) => {
                        seen.push("no answer".to_owned());
                        break;
                    }
                }
            }
            Ok(seen.join("\n"))
        };
        add(format!("forward {name}"), Box::pin(work));
    }
}

/// An answer without the order of its fields, which is nobody's promise.
fn describe(answer: &Message) -> String {
    let mut fields: Vec<String> = answer
        .headers
        .iter()
        .map(|(key, value)| format!("{}={value}", key.to_ascii_lowercase()))
        .collect();
    fields.sort();
    // The origin's echo of a head has fields of its own, which are sorted as well.
    let body = String::from_utf8_lossy(&answer.body);
    let mut lines: Vec<&str> = body.lines().collect();
    if let Some(rest) = lines.get_mut(1..) {
        rest.sort_unstable();
    }
    format!("{} [{}] {}", answer.start, fields.join(" "), lines.join(" ; "))
}

/// Whether a client's direction outlives the server's, by inbound.
fn half_close(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let p = &stage.ports;
    for (name, via) in [
        ("socks5", Via::from(Socks::v5(Ports::v4(p.socks)))),
        ("socks4a", Via::from(Socks::v5(Ports::v4(p.socks)).version(Version::V4a))),
        ("http", Via::from(HttpProxy::new(Ports::v4(p.http)))),
    ] {
        let work = async move {
            let source = Origin::tcp_source("127.0.0.1:0").await?;
            let naming = if name == "socks4a" { Naming::Localhost } else { Naming::Address };
            Ok(match suite::server_ends_first(&via, &source, naming).await {
                Ok(()) => "the client's direction lives on".to_owned(),
                Err(e) => format!("{e:#}"),
            })
        };
        add(format!("{name} after the server's end"), Box::pin(work));
    }
}

/// Which sizes of datagram come back whole, and what an answer says of its sender.
fn datagrams(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let socks = Socks::v5(Ports::v4(stage.ports.mixed));
    let echo = stage.v4.udp.addr();
    for (what, target) in [("address", Target::from(echo)), ("name", Target::localhost(echo))] {
        let (via, to) = (Via::from(socks.clone()), target.clone());
        let largest = suite::UDP_MAX - via.datagram_overhead(&to);
        for size in [0, 1, 1500, 9000, 16_000, 20_000, 40_000, largest] {
            let (via, to) = (via.clone(), to.clone());
            let work = async move {
                // All sizes travel at once, and a receive buffer holds only a few of the large
                // ones: what is lost by chance is tried again.
                for _ in 0..3 {
                    if suite::udp_size(&via, &to, size).await.is_ok() {
                        return Ok("whole".to_owned());
                    }
                }
                Ok("lost or cut".to_owned())
            };
            let size = if size == largest { "largest".to_owned() } else { size.to_string() };
            add(format!("UDP {size} to {what}"), Box::pin(work));
        }
        let socks = socks.clone();
        let work = async move {
            let association = socks.associate().await?;
            association.send_to(&target, b"x").await?;
            let answer = within("answer", QUIET, association.recv_from()).await?;
            Ok(format!("from {}", answer.0).replace(&format!(":{}", echo.port()), ":UDP4"))
        };
        add(format!("UDP sender of an answer, {what}"), Box::pin(work));
    }
    let control = async move {
        let mut association = socks.associate().await?;
        let relay = association.relay();
        association.control().shutdown().await?;
        drop(association);
        tokio::time::sleep(QUIET).await;
        // The relay's port is free again once the association is gone.
        Ok(match std::net::UdpSocket::bind(relay) {
            Ok(_) => "closed with its TCP connection".to_owned(),
            Err(e) => format!("still there: {:?}", e.kind()),
        })
    };
    add("UDP association after its TCP connection".to_owned(), Box::pin(control));
}

fn by_curl(stage: &Stage, add: &mut impl FnMut(String, Work)) {
    let closed = format!("http://127.0.0.1:{}/", stage.closed);
    let lost = "http://no-such-name.invalid/".to_owned();
    for scheme in ["socks5h", "socks4a", "http"] {
        for (what, url) in [("closed", &closed), ("no name", &lost)] {
            for tunnel in [false, true] {
                if tunnel && scheme != "http" {
                    continue;
                }
                let proxy = format!("{scheme}://127.0.0.1:{}", stage.ports.mixed);
                let url = url.clone();
                let name = format!("curl {scheme}{} {what}", if tunnel { " tunnel" } else { "" });
                let work = async move {
                    let mut args = vec!["--proxy", &proxy, &url];
                    args.extend(tunnel.then_some("--proxytunnel"));
                    let got = fetch(&args).await?;
                    // Empty reply, failed to send, failed to receive: a matter of microseconds.
                    let exit = if matches!(got.exit, 52 | 55 | 56) { 56 } else { got.exit };
                    Ok(format!("{:?} {:?}", (exit, got.status, got.connect_status), got.body))
                };
                add(name, Box::pin(work));
            }
        }
    }
}
