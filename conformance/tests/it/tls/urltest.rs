//! A urltest group whose URL is https, against a server of Python.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::ports;
use crosspoint_conformance::subject::Subject;
use serde_json::{Value, json};

use super::{Helper, certs::Certs, inbound};

/// Answers every request with 204; says on standard output what it was asked.
const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        print(self.command, self.path, self.request.server_side, flush=True)
        self.send_response(204)
        self.end_headers()
    do_GET = do_HEAD = answer
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"#;

#[tokio::test]
async fn members_are_tested_by_https() -> Result<()> {
    let certs = Certs::new("the authority")?;
    let files = certs.issue("web", &["localhost"])?;
    let (web, near) = (ports::free(), ports::free());
    let mut server = std::process::Command::new("python3")
        .args(["-c", SERVER, &web.to_string()])
        .args([&files.certificate, &files.key])
        .stdout(Stdio::piped())
        .spawn()
        .context("the program `python3` is missing")?;
    let mut said = BufReader::new(server.stdout.take().context("no output")?).lines();
    let _server = Helper(server);
    // A line comes soon: the thread of a test may wait for it.
    ensure!(said.next().transpose()?.as_deref() == Some("ready"));
    let group = |url: &str| json!({ "type": "urltest", "tag": "fastest", "outbounds": ["one"], "url": url, "interval": "1m" });
    let config = |url: &str, trusted: &str| {
        json!({
            "log": { "level": "debug" },
            "certificate": { "store": "none", "certificate": trusted },
            "inbounds": [inbound("mixed", near, Value::Null)],
            "outbounds": [group(url), { "type": "direct", "tag": "one" }],
        })
    };
    let url = format!("https://localhost:{web}/generate_204");
    let limit = Duration::from_secs(20);
    let mut program = Subject::under_test().start(&config(&url, &certs.pem())).await?;
    program.wait_log(|log| log.contains("outbound one available"), limit).await?;
    ensure!(said.next().transpose()?.as_deref() == Some("HEAD /generate_204 True"));
    program.stop().await?;
    let stranger = Certs::new("another authority")?;
    let mut program = Subject::under_test().start(&config(&url, &stranger.pem())).await?;
    let judged =
        |log: &str| log.contains("outbound one unavailable") && log.contains("unknown authority");
    program.wait_log(judged, limit).await?;
    // The default is https, and must start.
    let mut config = config("", &certs.pem());
    config["outbounds"][0].as_object_mut().context("an object")?.remove("url");
    program.stop().await?;
    Subject::under_test().start(&config).await?;
    Ok(())
}
