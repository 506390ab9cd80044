//! What a browser, a probe and a node without UDP find at a DERP server, compared with the reference.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{curl, loud, peers::full_reference, ports, subject::Subject};
use serde_json::{Value, json};

use super::stage::{NAME, Server, World, is_ours};

/// Header fields that a client may look at.
const LOOKED_AT: [&str; 8] = [
    "content-type",
    "access-control-allow-origin",
    "cache-control",
    "content-security-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-frame-options",
    "x-tailscale-response",
];

/// An answer, as far as it is compared.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

async fn page(server: &Server, world: &World, path: &str, args: &[&str]) -> Result<Page> {
    let url = format!("https://{NAME}:{}{path}", server.port);
    let resolve = format!("{NAME}:{}:127.0.0.1", server.port);
    let ca = world.certs.file().to_string_lossy().into_owned();
    let mut all = vec!["--resolve", &resolve, "--cacert", &ca, "--include", "--http1.1"];
    all.extend(args);
    all.push(&url);
    let got = curl::fetch(&all).await?;
    ensure!(got.exit == 0, "{path}: {got:?}");
    let (head, body) = got.body.split_once("\r\n\r\n").context("no head")?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(key, value)| (key.to_lowercase(), value.to_owned()));
    let headers =
        fields.filter(|(key, _)| LOOKED_AT.contains(&&**key) || key == "location").collect();
    Ok(Page { status: got.status, headers, body: body.trim().to_owned() })
}

/// A path, the arguments for curl, and whether the words of the body are the server's own affair.
const PATHS: [(&str, &[&str], bool); 14] = [
    ("/", &[], true),
    ("/", &["--head"], true),
    ("/robots.txt", &[], false),
    ("/derp", &[], true),
    ("/derp", &["-H", "Upgrade: h2c", "-H", "Connection: Upgrade"], true),
    ("/derp/probe", &[], false),
    ("/derp/probe", &["-X", "POST"], true),
    ("/derp/latency-check", &[], false),
    ("/derp/latency-check", &["--head"], false),
    ("/generate_204", &[], false),
    ("/generate_204", &["-H", "X-Tailscale-Challenge: ts_derp.test:1"], false),
    ("/generate_204", &["-H", "X-Tailscale-Challenge: <script>"], false),
    ("/bootstrap-dns", &[], false),
    ("/bootstrap-dns?q=here.test", &[], false),
];

fn with_names(mut config: Value) -> Value {
    config["dns"] = json!({
        "servers": [{ "type": "hosts", "tag": "names", "predefined": { "here.test": ["192.0.2.7"] } }],
    });
    config
}

#[tokio::test]
async fn pages_are_those_of_the_reference() -> Result<()> {
    let world = World::new()?;
    let [near, far] = ports::many();
    let ours = world.start_with(&with_names(world.config(near, &json!({}))), near).await?;
    let config = with_names(world.config(far, &json!({})));
    let theirs = match full_reference(&config) {
        Ok(launch) => launch.start().await?,
        Err(error) => {
            loud::not_run("pages of the reference", &format!("{error:#}"));
            return Ok(());
        }
    };
    let theirs = world.beside(theirs, far)?;
    let mut wrong = Vec::new();
    for (path, args, own_words) in PATHS {
        for version in ["--http1.1", "--http2"] {
            let args: Vec<&str> = args.iter().copied().chain([version]).collect();
            let (mut ours, mut theirs) = (
                page(&ours, &world, path, &args).await?,
                page(&theirs, &world, path, &args).await?,
            );
            if own_words {
                for page in [&mut ours, &mut theirs] {
                    page.body = if page.body.is_empty() { "" } else { "some words" }.to_owned();
                }
            }
            if ours != theirs {
                wrong.push(format!("{path} {args:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn the_home_page_is_what_was_asked_for() -> Result<()> {
    let world = World::new()?;
    for (home, status, location, empty) in [
        ("blank", 200, None, true),
        ("https://example.test/a", 302, Some("https://example.test/a"), false),
    ] {
        let server = world.start(&json!({ "home": home })).await?;
        let page = page(&server, &world, "/", &[]).await?;
        ensure!(page.status == status, "{page:?}");
        ensure!(page.headers.get("location").map(String::as_str) == location, "{page:?}");
        ensure!(!empty || page.body.is_empty(), "{page:?}");
    }
    if is_ours("what check says of wrong options") {
        for (options, word) in [
            (json!({ "home": "nonsense" }), "home"),
            (json!({ "tls": null }), "TLS"),
            (json!({ "config_path": "" }), "config_path"),
            (json!({ "mesh_psk": "short" }), "mesh_psk"),
            (json!({ "mesh_with": [{ "server": "127.0.0.1", "server_port": 1 }] }), "mesh"),
        ] {
            let dir = tempfile::tempdir()?;
            let config = world.config(ports::free(), &options);
            crosspoint_conformance::subject::write_config(dir.path(), &config)?;
            let checked =
                Subject::under_test().run_cli(dir.path(), ["check", "-c", "config.json"], &[])?;
            let said = String::from_utf8_lossy(&checked.stderr);
            ensure!(!checked.status.success() && said.contains(word), "{options}: {said}");
        }
    }
    Ok(())
}
