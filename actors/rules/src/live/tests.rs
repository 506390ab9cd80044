//! Sets in a kernel of their own, with files in a temporary directory and downloads that a test answers.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture,
    fetch::{Fetch, FetchError, Request, Response},
    supervise::{Assembly, Blueprint, Handle, Loader, Settings, State, Supervision, boot},
};
use crosspoint_schema::{Config, Context, json::Loaded};
use parking_lot::Mutex;

use super::{Draft, Library};
use crate::Facts;

/// Answers downloads as the test says, and remembers what was asked.
#[derive(Clone, Default)]
struct Server(Arc<Served>);

#[derive(Default)]
struct Served {
    body: Mutex<Option<String>>,
    asked: Mutex<Vec<Option<String>>>,
    at_once: AtomicUsize,
    most: AtomicUsize,
    /// Nothing is answered before this.
    held: Mutex<Option<Arc<tokio::sync::Notify>>>,
}

impl Server {
    fn say(&self, body: &str) {
        *self.0.body.lock() = Some(body.to_owned());
    }

    fn asked(&self) -> Vec<Option<String>> {
        self.0.asked.lock().clone()
    }

    fn library(&self) -> Library {
        let server = self.clone();
        Library::new(Arc::new(move |_| Arc::new(server.clone())))
    }
}

impl Fetch for Server {
    fn fetch(&self, request: Request) -> BoxFuture<'static, Result<Response, FetchError>> {
        let served = self.0.clone();
        Box::pin(async move {
            let now = served.at_once.fetch_add(1, Ordering::Relaxed) + 1;
            served.most.fetch_max(now, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(30)).await;
            let held = served.held.lock().clone();
            if let Some(held) = held {
                held.notified().await;
            }
            served.at_once.fetch_sub(1, Ordering::Relaxed);
            let known = request.headers.iter().find(|(key, _)| &**key == "If-None-Match");
            let known = known.map(|(_, value)| value.to_string());
            served.asked.lock().push(known.clone());
            let Some(body) = served.body.lock().clone() else {
                return Err(FetchError::Failed("the server is down".into()));
            };
            let etag = format!("\"{}\"", body.len());
            let same = known.as_ref() == Some(&etag);
            Ok(Response {
                status: if same { 304 } else { 200 },
                headers: vec![("etag".into(), etag.into())],
                body: if same { "".into() } else { body.into() },
            })
        })
    }
}

fn config(text: &str) -> Config {
    let Loaded { sources, root, .. } = Loaded::from_text("test.json", text).unwrap();
    Config::decode(&root, &Context::new(sources)).unwrap()
}

/// A configuration with these sets, all of which a rule refers to.
fn with_sets(tags: &str, sets: &str) -> String {
    format!(
        r#"{{"route": {{"rules": [{{"rule_set": {tags}, "outbound": "x"}}], "rule_set": [{sets}]}}}}"#
    )
}

fn matches(draft: &Draft, tag: &str, name: &str) -> bool {
    slot_matches(draft.sets().get(tag).unwrap(), name)
}

fn slot_matches(slot: &crate::RuleSetSlot, name: &str) -> bool {
    slot.load().is_some_and(|set| set.matching(&Facts::destination(name)).next().is_some())
}

fn write(path: &Path, domain: &str) {
    std::fs::write(path, format!(r#"{{"version": 3, "rules": [{{"domain": "{domain}"}}]}}"#))
        .unwrap();
}

#[test]
fn equal_options_keep_the_slot() {
    let library = Library::default();
    let inline = |domain: &str| {
        let set = format!(r#"{{"tag": "a", "rules": [{{"domain": "{domain}"}}]}}"#);
        library.plan(&config(&with_sets(r#""a""#, &set)), false)
    };
    let first = inline("one");
    first.load(false).unwrap();
    assert!(matches(&first, "a", "one"));
    let slot = first.sets().get("a").unwrap().clone();
    // Not in force yet: another plan knows nothing of it.
    assert!(!Arc::ptr_eq(inline("one").sets().get("a").unwrap(), &slot));
    first.commit();
    let same = inline("one");
    same.load(false).unwrap();
    assert!(Arc::ptr_eq(same.sets().get("a").unwrap(), &slot) && slot.generation() == 1);
    let other = inline("two");
    other.load(false).unwrap();
    assert!(matches(&other, "a", "two") && slot_matches(&slot, "one"));
}

#[test]
fn what_no_rule_refers_to_is_read_and_forgotten() {
    let sets = r#"{"tag": "a", "rules": [{"domain": "a"}]}, {"tag": "b", "rules": [{"domain_regex": "("}]}"#;
    let draft = Library::default().plan(&config(&with_sets(r#""a""#, sets)), false);
    assert!(draft.sets().get("b").is_none());
    let error = draft.load(true).unwrap_err();
    assert!(
        error
            .summary()
            .starts_with("initialize router: parse rule-set[1]: parse rule_set.rules.[0]: "),
        "{error}"
    );
    assert_eq!(draft.components().count(), 0);
}

#[test]
fn mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.json").display().to_string();
    let local = format!(r#"{{"type": "local", "tag": "a", "path": "{path}"}}"#);
    let remote = r#"{"type": "remote", "tag": "a", "format": "binary", "url": "http://x", "download_detour": "no"}"#;
    let load = |sets: &str, lenient| {
        let draft = Library::default().plan(&config(&with_sets(r#""a""#, sets)), false);
        let loaded = draft.load(lenient).map_err(|error| error.summary());
        (loaded, draft)
    };
    let missing =
        format!("initialize router: parse rule-set[0]: open {path}: no such file or directory");
    assert_eq!(load(&local, false).0, Err(missing));
    assert_eq!(load(&local, true).0, Ok(()));
    assert_eq!(
        load(&format!("{local}, {local}"), true).0.unwrap_err(),
        "initialize router: duplicate rule-set tag: a"
    );
    assert_eq!(
        load(r#"{"tag": "a"}"#, true).0.unwrap_err(),
        "initialize router: parse rule-set[0]: empty inline rule-set"
    );
    let missing = load(remote, false).1.missing_detour(|_| false).map(|error| error.summary());
    assert_eq!(
        missing.as_deref(),
        Some("start service: initialize rule-set[0]: download detour not found: no")
    );
    assert!(load(remote, false).1.missing_detour(|tag| tag == "no").is_none());
}

/// Starts a kernel whose components are the sets of the configuration in `text`, which a reload reads anew.
async fn start(library: &Library, text: Arc<Mutex<String>>) -> Handle {
    start_with(library, text, false).await
}

async fn start_with(library: &Library, text: Arc<Mutex<String>>, strict: bool) -> Handle {
    let library = library.clone();
    let loader: Loader = Arc::new(move || {
        let draft = library.plan(&config(&text.lock()), strict);
        let loaded = draft.load(true);
        loaded.map_err(|error| crosspoint_kernel::supervise::LoadError(error.to_string()))?;
        let supervision = Supervision {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(100),
            ..Supervision::default()
        };
        Ok(Blueprint {
            components: draft.components().collect(),
            references: Vec::new(),
            default_outbound: None,
            state: None,
            assemble: Box::new(|_| Ok(Assembly::empty())),
            settings: Settings { supervision, ..Settings::default() },
            shared: Default::default(),
            on_commit: Box::new(move || draft.commit()),
            before_inbounds: None,
        })
    });
    boot(loader, Arc::new(|_| ())).await.unwrap().0
}

async fn eventually(mut test: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..250 {
        if test().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test]
async fn a_file_is_watched_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.json");
    let set = format!(r#"{{"type": "local", "tag": "a", "path": "{}"}}"#, path.display());
    let text = with_sets(r#""a""#, &set);
    let library = Library::default();
    // The file is missing: the component says so and goes on looking for it.
    let handle = start(&library, Arc::new(Mutex::new(text.clone()))).await;
    let failed = async || {
        let status = handle.status().await.unwrap();
        let row = &status.components[0];
        let why = row.last_error.as_deref().unwrap_or_default();
        row.id.to_string() == "service/rule-set[a]"
            && row.state != State::Up
            && why.contains("no such file")
    };
    assert!(eventually(failed).await);
    write(&path, "one");
    let slot = library.plan(&config(&text), false).sets().get("a").unwrap().clone();
    assert!(eventually(async || slot_matches(&slot, "one")).await);
    std::fs::write(&path, "{").unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(slot_matches(&slot, "one"));
    write(&path, "second");
    assert!(eventually(async || slot_matches(&slot, "second")).await);
    handle.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn a_download_is_waited_for_by_nobody_and_repeated() {
    let server = Server::default();
    let library = server.library();
    let set = |interval: &str| {
        let set = format!(
            r#"{{"type": "remote", "tag": "a", "format": "source", "url": "http://x", "update_interval": "{interval}"}}"#
        );
        with_sets(r#""a""#, &set)
    };
    let text = Arc::new(Mutex::new(set("1s")));
    let handle = start(&library, text.clone()).await;
    let why = library.settled().await.unwrap_err();
    assert_eq!(
        why,
        r#"initialize rule-set[0]: initial rule-set: a: Get "http://x": the server is down"#
    );
    let slot = library.plan(&config(&text.lock()), false).sets().get("a").unwrap().clone();
    assert_eq!(slot.generation(), 0);
    server.say(r#"{"version": 1, "rules": [{"domain": "one"}]}"#);
    assert!(eventually(async || slot_matches(&slot, "one")).await);
    assert_eq!(library.settled().await, Ok(()));
    // Nothing has changed there: the rules are not put in force again.
    let asked = server.asked().len();
    assert!(eventually(async || server.asked().len() > asked).await);
    assert!(server.asked().last().unwrap().is_some() && slot.generation() == 1);
    server.say("broken");
    let asked = server.asked().len();
    assert!(eventually(async || server.asked().len() > asked).await);
    assert!(slot_matches(&slot, "one"));
    // Other options, same address: the rules are there from the first moment.
    *text.lock() = set("1h");
    let report = handle.reload().await.unwrap();
    assert_eq!(report.error, None);
    let next = library.plan(&config(&text.lock()), false).sets().get("a").unwrap().clone();
    assert!(!Arc::ptr_eq(&next, &slot) && slot_matches(&next, "one"));
    handle.drain(Duration::ZERO).await;
}

/// At a strict start, the sets that no rule refers to come as well. Their rules are not kept.
#[tokio::test]
async fn strict_downloads_all_sets() {
    let server = Server::default();
    let library = server.library();
    let sets = r#"{"type": "remote", "tag": "a", "format": "source", "url": "http://x"},
        {"type": "remote", "tag": "b", "format": "source", "url": "http://y"}"#;
    let named = |tags: &str| config(&with_sets(tags, sets));
    let draft = library.plan(&named(r#""a""#), true);
    assert_eq!((draft.components().count(), draft.is_waiting()), (2, true));
    assert_eq!(library.plan(&named(r#""a""#), false).components().count(), 1);
    let text = Arc::new(Mutex::new(with_sets(r#""a""#, sets)));
    let handle = start_with(&library, text.clone(), true).await;
    let why = library.settled().await.unwrap_err();
    assert!(why.starts_with("initialize rule-set["), "{why}");
    server.say(r#"{"version": 1, "rules": [{"domain": "one"}]}"#);
    assert!(eventually(async || library.settled().await.is_ok()).await);
    let slot =
        |tags: &str, tag: &str| library.plan(&named(tags), true).sets().get(tag).unwrap().clone();
    assert!(slot_matches(&slot(r#""a""#, "a"), "one"));
    let spare = slot(r#""a""#, "b");
    assert!(spare.generation() == 1 && !slot_matches(&spare, "one"));
    // A rule refers to it now: its rules are needed.
    assert_eq!(slot(r#"["a", "b"]"#, "b").generation(), 0);
    *text.lock() = with_sets(r#"["a", "b"]"#, sets);
    assert_eq!(handle.reload().await.unwrap().error, None);
    let needed = slot(r#"["a", "b"]"#, "b");
    assert!(eventually(async || slot_matches(&needed, "one")).await);
    handle.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn five_downloads_at_once() {
    let server = Server::default();
    server.say(r#"{"version": 1, "rules": [{"domain": "one"}]}"#);
    let library = server.library();
    let set = |n| {
        format!(r#"{{"type": "remote", "tag": "{n}", "format": "source", "url": "http://x/{n}"}}"#)
    };
    let sets: Vec<String> = (0..12).map(set).collect();
    let tags: Vec<String> = (0..12).map(|n| format!("\"{n}\"")).collect();
    let text = with_sets(&format!("[{}]", tags.join(", ")), &sets.join(", "));
    let handle = start(&library, Arc::new(Mutex::new(text))).await;
    assert_eq!(library.settled().await, Ok(()));
    assert_eq!((server.asked().len(), server.0.most.load(Ordering::Relaxed)), (12, 5));
    handle.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn a_set_is_degraded_until_it_arrives() {
    let (server, held) = (Server::default(), Arc::new(tokio::sync::Notify::new()));
    *server.0.held.lock() = Some(held.clone());
    let library = server.library();
    let set = r#"{"type": "remote", "tag": "a", "format": "source", "url": "http://x"}"#;
    let text = with_sets(r#""a""#, set);
    assert!(library.plan(&config(&text), false).is_waiting());
    let handle = start(&library, Arc::new(Mutex::new(text.clone()))).await;
    let row = async || handle.status().await.unwrap().components[0].clone();
    let waits = async |why: &str| {
        let row = row().await;
        row.state == State::Degraded && row.last_error.as_deref() == Some(why)
    };
    assert!(waits("waiting for the first download").await);
    // It fails, is started anew, and says both.
    held.notify_one();
    let why = r#"waiting for the first download; the last try: Get "http://x": the server is down"#;
    assert!(eventually(async || waits(why).await).await, "{:?}", row().await);
    server.say(r#"{"version": 1, "rules": [{"domain": "one"}]}"#);
    held.notify_one();
    assert!(eventually(async || row().await.state == State::Up).await, "{:?}", row().await);
    assert!(!library.plan(&config(&text), false).is_waiting());
    handle.drain(Duration::ZERO).await;
}
