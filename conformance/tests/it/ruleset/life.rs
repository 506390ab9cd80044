//! Rule-sets of the running daemon: files that change, downloads that fail, and what survives `kill -9`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::{origin::Origin, within},
    ports,
    process::{Ready, Running},
    subject::Subject,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Serves one file with an `ETag`, or 503.
#[derive(Clone, Default)]
struct Lists {
    file: Arc<Mutex<Option<String>>>,
    /// `If-None-Match` of each request.
    asked: Arc<Mutex<Vec<Option<String>>>>,
    /// No answer is given while this is held.
    held: Arc<tokio::sync::Mutex<()>>,
}

impl Lists {
    async fn start(&self) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let lists = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let lists = lists.clone();
                tokio::spawn(async move { lists.serve(stream).await });
            }
        });
        Ok(port)
    }

    async fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let (mut line, mut known) = (String::new(), None);
        while stream.read_line(&mut line).await? > 2 {
            let (key, value) = line.split_once(':').unwrap_or((&line, ""));
            if key.eq_ignore_ascii_case("if-none-match") {
                known = Some(value.trim().to_owned());
            }
            line.clear();
        }
        self.asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.push(known.clone());
        drop(self.held.lock().await);
        let file = self.file.lock().ok().and_then(|file| file.clone());
        let answer = match file {
            None => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Some(file) => {
                let etag = format!("\"{}\"", file.len());
                match known == Some(etag.clone()) {
                    true => format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\n\r\n"),
                    false => format!(
                        "HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {}\r\n\r\n{file}",
                        file.len()
                    ),
                }
            }
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        Ok(())
    }

    fn say(&self, name: Option<&str>) {
        let file = name.map(|name| json!({"version": 2, "rules": [{"domain": name}]}).to_string());
        *self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = file;
    }
}

/// Whether rules let a name through. Every name leads to the same origin.
async fn passes(inbound: u16, name: &str) -> Result<bool> {
    within("a SOCKS reply", Duration::from_secs(5), async {
        let mut stream = TcpStream::connect(("127.0.0.1", inbound)).await?;
        let mut request = vec![5, 1, 0, 5, 1, 0, 3, name.len() as u8];
        request.extend_from_slice(name.as_bytes());
        request.extend_from_slice(&[0, 9]);
        stream.write_all(&request[..3]).await?;
        let mut reply = [0; 2];
        stream.read_exact(&mut reply).await?;
        stream.write_all(&request[3..]).await?;
        stream.read_exact(&mut reply).await?;
        match reply {
            [5, 0] => Ok(true),
            // "Not allowed" says Crosspoint, "refused" the reference.
            [5, 2 | 5] => Ok(false),
            other => Err(anyhow::anyhow!("SOCKS reply {other:?}")),
        }
    })
    .await
}

async fn blocked(inbound: u16, name: &str) -> Result<()> {
    let mut last = None;
    for _ in 0..100 {
        last = Some(passes(inbound, name).await?);
        if last == Some(false) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{name} still passes: {last:?}")
}

fn config(inbound: u16, origin: u16, sets: &[Value], cache: &std::path::Path) -> Value {
    let tags: Vec<&Value> = sets.iter().map(|set| &set["tag"]).collect();
    json!({
        "log": {"level": "debug"},
        "inbounds": [{"type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": inbound}],
        "outbounds": [{"type": "direct", "tag": "direct"}],
        "route": {
            "rules": [
                {"rule_set": tags, "action": "reject"},
                {"domain_suffix": "test", "outbound": "direct", "override_address": "127.0.0.1", "override_port": origin}
            ],
            "rule_set": sets
        },
        "experimental": {"cache_file": {"enabled": true, "path": cache}},
        "crosspoint": {"supervision": {"backoff_max": "500ms", "max_restarts": 1000}}
    })
}

async fn start(config: &Value, inbound: u16) -> Result<Running> {
    Subject::under_test().launch(config)?.ready([Ready::Tcp(inbound)]).start().await
}

#[tokio::test]
async fn sets_come_change_and_stay() -> Result<()> {
    if Subject::under_test().is_reference() {
        // It does not start without the file and the server.
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (file, cache) = (dir.path().join("set.json"), dir.path().join("cache.db"));
    let write = |text: &str| std::fs::write(&file, text).context("write the set");
    let lists = Lists::default();
    let url = format!("http://127.0.0.1:{}/set.json", lists.start().await?);
    let (inbound, origin) = (ports::free(), Origin::tcp_echo("127.0.0.1:0").await?);
    let sets = [
        json!({"tag": "inline", "rules": [{"domain": "inline.test"}]}),
        json!({"tag": "local", "type": "local", "path": file}),
        json!({"tag": "remote", "type": "remote", "url": url, "update_interval": "1s"}),
    ];
    let config = config(inbound, origin.addr().port(), &sets, &cache);
    let daemon = start(&config, inbound).await?;
    // Neither the file nor the server is there: nobody waits for them.
    ensure!(!passes(inbound, "inline.test").await?);
    ensure!(passes(inbound, "local.test").await? && passes(inbound, "remote.test").await?);
    write(r#"{"version": 1, "rules": [{"domain": "local.test"}]}"#)?;
    lists.say(Some("remote.test"));
    blocked(inbound, "local.test").await?;
    blocked(inbound, "remote.test").await?;
    write("{broken")?;
    lists.say(None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(!passes(inbound, "local.test").await? && !passes(inbound, "remote.test").await?);
    let log = daemon.log();
    ensure!(
        log.contains("reload rule-set local: ")
            && log.contains("fetch rule-set remote: unexpected status: 503"),
        "{log}"
    );
    write(r#"{"version": 1, "rules": [{"domain": "second.test"}]}"#)?;
    lists.say(Some("other.remote.test"));
    blocked(inbound, "second.test").await?;
    blocked(inbound, "other.remote.test").await?;
    let asked = lists.asked.lock().map(|asked| asked.clone()).unwrap_or_default();
    ensure!(
        asked.iter().any(Option::is_some),
        "no request named the file that is known: {asked:?}"
    );
    // What was downloaded is there at the first moment of the next life.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut daemon = daemon;
    daemon.signal(Signal::KILL)?;
    daemon.wait_exit(Duration::from_secs(5)).await?;
    lists.say(None);
    let _daemon = start(&config, inbound).await?;
    ensure!(!passes(inbound, "other.remote.test").await? && !passes(inbound, "second.test").await?);
    Ok(())
}

/// While the first download goes on, everybody else serves, and the status says what is missing.
#[tokio::test]
async fn the_first_download_delays_nobody() -> Result<()> {
    if Subject::under_test().is_reference() {
        return Ok(());
    }
    let (dir, lists) = (tempfile::tempdir()?, Lists::default());
    lists.say(Some("remote.test"));
    let held = lists.held.clone().lock_owned().await;
    let url = format!("http://127.0.0.1:{}/set.json", lists.start().await?);
    let (inbound, origin) = (ports::free(), Origin::tcp_echo("127.0.0.1:0").await?);
    let sets = [json!({"tag": "remote", "type": "remote", "url": url})];
    let config = config(inbound, origin.addr().port(), &sets, &dir.path().join("cache.db"));
    let daemon = start(&config, inbound).await?;
    let row = || -> Result<Value> {
        let status = daemon.ctl(&["status"])?;
        let mut rows = status["components"].as_array().into_iter().flatten();
        let row = rows.find(|row| row["tag"] == "rule-set[remote]");
        row.cloned().with_context(|| status.to_string())
    };
    ensure!(passes(inbound, "remote.test").await?);
    let waiting = row()?;
    ensure!(
        waiting["state"] == "degraded" && waiting["last_error"] == "waiting for the first download",
        "{waiting}"
    );
    drop(held);
    blocked(inbound, "remote.test").await?;
    let there = row()?;
    ensure!(
        there["state"] == "up" && there["last_error"].is_null() && there["epoch"] == 1,
        "{there}"
    );
    Ok(())
}

/// With `--strict`, as in the reference, no client is served before all rules are there.
#[tokio::test]
async fn strict_listens_when_all_rules_are_there() -> Result<()> {
    for subject in [Subject::under_test(), Subject::Reference] {
        let (dir, lists) = (tempfile::tempdir()?, Lists::default());
        lists.say(Some("remote.test"));
        let held = lists.held.clone().lock_owned().await;
        let url = format!("http://127.0.0.1:{}/set.json", lists.start().await?);
        let (inbound, origin) = (ports::free(), Origin::tcp_echo("127.0.0.1:0").await?);
        let sets = [json!({"tag": "remote", "type": "remote", "url": url})];
        let cache = dir.path().join("cache.db");
        let mut config = config(inbound, origin.addr().port(), &sets, &cache);
        if subject.is_reference() {
            config.as_object_mut().map(|config| config.remove("crosspoint"));
        } else {
            config["crosspoint"]["strict"] = true.into();
        }
        let mut daemon = subject.launch(&config)?.ready([Ready::Tcp(inbound)]).spawn()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let early = TcpStream::connect(("127.0.0.1", inbound)).await;
        ensure!(early.is_err(), "{} listens already", subject.name());
        drop(held);
        daemon.wait_ready(Duration::from_secs(10)).await?;
        ensure!(!passes(inbound, "remote.test").await?, "{}", daemon.log());
        ensure!(passes(inbound, "other.test").await?, "{}", daemon.log());
    }
    Ok(())
}

/// With `--strict`, as in the reference, which says the same up to the words of its HTTP client.
#[tokio::test]
async fn strict_waits_for_the_first_download() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let lists = Lists::default();
    let port = lists.start().await?;
    let url = format!("http://127.0.0.1:{port}/set.json");
    let sets = [json!({"tag": "remote", "type": "remote", "url": url})];
    let subject = Subject::under_test();
    for subject in [subject, Subject::Reference] {
        let inbound = ports::free();
        let mut config = config(inbound, 9, &sets, &dir.path().join("cache.db"));
        if subject.is_reference() {
            config.as_object_mut().map(|config| config.remove("crosspoint"));
        } else {
            config["crosspoint"]["strict"] = true.into();
        }
        let mut daemon = subject.launch(&config)?.spawn()?;
        let end = daemon.wait_exit(Duration::from_secs(10)).await?;
        let words = "FATAL[0000] start service: initialize rule-set[0]: initial rule-set: remote: unexpected status: 503";
        let log = daemon.log();
        // Colours may stand between the words and the rest.
        ensure!(
            end.code() == Some(1) && log.contains(&words[12..]),
            "{}: {end:?} {log}",
            subject.name()
        );
    }
    Ok(())
}

/// With `--strict`, as in the reference, sets that no rule names are downloaded, too, before anything listens, services
/// included, and a start fails with them.
#[tokio::test]
async fn strict_downloads_what_no_rule_names() -> Result<()> {
    for subject in [Subject::under_test(), Subject::Reference] {
        let (dir, lists) = (tempfile::tempdir()?, Lists::default());
        lists.say(Some("remote.test"));
        let held = lists.held.clone().lock_owned().await;
        let url = format!("http://127.0.0.1:{}/set.json", lists.start().await?);
        let [inbound, managed, service] = [(); 3].map(|()| ports::free());
        let sets = [
            json!({"tag": "inline", "rules": [{"domain": "inline.test"}]}),
            json!({"tag": "spare", "type": "remote", "url": url}),
        ];
        let mut config = config(inbound, 9, &sets, &dir.path().join("cache.db"));
        config["route"]["rules"][0]["rule_set"] = json!("inline");
        config["inbounds"].as_array_mut().context("inbounds")?.push(json!({
            "type": "shadowsocks", "tag": "ss", "listen": "127.0.0.1", "listen_port": managed,
            "method": "2022-blake3-aes-128-gcm", "password": "AAAAAAAAAAAAAAAAAAAAAA==", "managed": true
        }));
        config["services"] = json!([{
            "type": "ssm-api", "listen": "127.0.0.1", "listen_port": service, "servers": {"/": "ss"}
        }]);
        if subject.is_reference() {
            config.as_object_mut().map(|config| config.remove("crosspoint"));
        } else {
            config["crosspoint"]["strict"] = true.into();
        }
        let launch = || {
            Ok::<_, anyhow::Error>(
                subject.launch(&config)?.ready([Ready::Tcp(inbound), Ready::Tcp(service)]),
            )
        };
        let mut daemon = launch()?.spawn()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        for port in [inbound, managed, service] {
            let early = TcpStream::connect(("127.0.0.1", port)).await;
            ensure!(
                early.is_err(),
                "{} listens on {port} already: {}",
                subject.name(),
                daemon.log()
            );
        }
        drop(held);
        daemon.wait_ready(Duration::from_secs(10)).await?;
        ensure!(!passes(inbound, "inline.test").await?, "{}", daemon.log());
        drop(daemon);
        // It comes out of the cache file from now on; without that, the start fails.
        lists.say(None);
        launch()?.start().await?;
        std::fs::remove_file(dir.path().join("cache.db"))?;
        let mut daemon = launch()?.spawn()?;
        let end = daemon.wait_exit(Duration::from_secs(10)).await?;
        let words = "start service: initialize rule-set[1]: initial rule-set: spare: unexpected status: 503";
        let log = daemon.log();
        ensure!(end.code() == Some(1) && log.contains(words), "{}: {end:?} {log}", subject.name());
    }
    Ok(())
}

/// A set whose server only the detour knows.
#[tokio::test]
async fn a_download_takes_its_detour() -> Result<()> {
    if Subject::under_test().is_reference() {
        // Its inbounds, through which the detour leads, begin after the download.
        return Ok(());
    }
    let (dir, lists) = (tempfile::tempdir()?, Lists::default());
    lists.say(Some("remote.test"));
    let served = lists.start().await?;
    let ([inbound, back], origin) = (ports::many(), Origin::tcp_echo("127.0.0.1:0").await?);
    let sets = [json!({
        "tag": "remote", "type": "remote", "url": "http://lists.invalid/set.json", "download_detour": "way"
    })];
    let cache = dir.path().join("cache.db");
    let mut config = config(inbound, origin.addr().port(), &sets, &cache);
    let list = |config: &mut Value, path: &str, item: Value| {
        let list = config.pointer_mut(path).and_then(Value::as_array_mut);
        list.context("a list").map(|list| list.push(item))
    };
    let way = json!({"type": "socks", "tag": "way", "server": "127.0.0.1", "server_port": back});
    list(&mut config, "/outbounds", way)?;
    let there = json!({"type": "mixed", "tag": "back", "listen": "127.0.0.1", "listen_port": back});
    list(&mut config, "/inbounds", there)?;
    let known = json!({
        "inbound": "back", "domain": "lists.invalid", "outbound": "direct",
        "override_address": "127.0.0.1", "override_port": served
    });
    list(&mut config, "/route/rules", known)?;
    let _daemon = start(&config, inbound).await?;
    blocked(inbound, "remote.test").await
}
