//! The kernel with components that do as they are told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::{
    BoxFuture, BuildCx, BuildError, Component, DialError, Kind,
    addr::Target,
    component::{Change, Claim, Claims, Control, Dep, Deps, Dial, Fault, Outbound, Spec},
    flow::{BoxPacketIo, BoxStream},
    snapshot::Plane,
};

/// What a test component does.
#[derive(Clone, Debug, Default, PartialEq)]
struct Options {
    value: u32,
    deps: Vec<&'static str>,
    exclusive: Option<&'static str>,
    reconfigurable: bool,
    inbound: bool,
    build: Build,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Build {
    #[default]
    Fine,
    Fails,
    Panics,
    Hangs,
}

/// How a test talks to the components that it made.
#[derive(Debug, Default)]
struct Strings {
    built: AtomicUsize,
    live: AtomicUsize,
    /// What the running work is told to do.
    order: Mutex<Option<Order>>,
    wake: tokio::sync::Notify,
    seen: Mutex<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Panic,
    Fail,
    Hang,
    Lack,
    Recover,
}

#[derive(Clone, Debug)]
struct TestSpec {
    options: Options,
    strings: Arc<Strings>,
}

struct TestOutbound;

impl Outbound for TestOutbound {
    fn connect<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async { Ok(Box::new(tokio::io::duplex(64).0) as BoxStream) })
    }
    fn associate<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("no packets")) })
    }
}

struct TestControl(Arc<Strings>);

impl Control for TestControl {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let value = next.downcast_ref::<TestSpec>().map_or(0, |spec| spec.options.value);
        self.0.seen.lock().unwrap().push(value);
    }
}

struct Alive(Arc<Strings>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Spec for TestSpec {
    fn canonical(&self) -> serde_json::Map<String, serde_json::Value> {
        let text = format!("{:?}", self.options);
        serde_json::Map::from_iter([("options".to_owned(), text.into())])
    }
    fn deps(&self, out: &mut Deps) {
        out.0.extend(self.options.deps.iter().map(|tag| Dep::Outbound((*tag).into())));
    }
    fn claims(&self, out: &mut Claims) {
        out.0.extend(self.options.exclusive.map(|what| Claim::Other(what.into())));
    }
    fn change(&self, next: &dyn Spec) -> Change {
        let both = next.downcast_ref::<Self>().is_some_and(|n| n.options.reconfigurable)
            && self.options.reconfigurable;
        if both { Change::Reconfigure } else { Change::Replace }
    }
    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            match self.options.build {
                Build::Fine => {}
                Build::Fails => return Err(BuildError::options("told to fail")),
                Build::Panics => panic!("told to panic"),
                Build::Hangs => std::future::pending().await,
            }
            let strings = self.strings.clone();
            strings.built.fetch_add(1, Ordering::SeqCst);
            strings.live.fetch_add(1, Ordering::SeqCst);
            let alive = Alive(strings.clone());
            let run = async move {
                let _alive = alive;
                loop {
                    let order = strings.order.lock().unwrap().take();
                    match order {
                        Some(Order::Panic) => panic!("ordered"),
                        Some(Order::Fail) => return Err(Fault("ordered".to_owned())),
                        Some(Order::Hang) => std::future::pending().await,
                        Some(Order::Lack) => cx.condition.degraded("no rules"),
                        Some(Order::Recover) => cx.condition.well(),
                        None => {}
                    }
                    tokio::select! {
                        () = cx.pulse.beat() => {}
                        () = strings.wake.notified() => {}
                        () = cx.cancel.cancelled() => return Ok(()),
                    }
                }
            };
            Ok(Component {
                outbound: Some(Arc::new(TestOutbound)),
                control: Some(Box::new(TestControl(self.strings.clone()))),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

/// A configuration that a test writes and the loader reads.
#[derive(Clone, Default)]
struct File(Arc<Mutex<Contents>>);

#[derive(Clone, Default)]
struct Contents {
    components: BTreeMap<&'static str, Options>,
    strings: BTreeMap<&'static str, Arc<Strings>>,
    settings: Settings,
    broken: bool,
    gate: Option<Gate>,
}

/// What inbounds wait for.
type Gate = tokio::sync::watch::Receiver<Option<Result<(), String>>>;

fn gate(mut gate: Gate) -> BoxFuture<'static, Result<(), String>> {
    Box::pin(async move {
        let open = gate.wait_for(Option::is_some).await.expect("a gate");
        open.clone().expect("open")
    })
}

impl File {
    fn new() -> Self {
        let file = Self::default();
        file.0.lock().unwrap().settings = Settings {
            supervision: Supervision {
                backoff_min: Duration::from_millis(10),
                reset_after: Duration::from_millis(50),
                pulse: Duration::from_millis(30),
                start_deadline: Duration::from_millis(200),
                ..Supervision::default()
            },
            drain: Duration::from_millis(100),
            strict: false,
        };
        file
    }

    fn set(&self, tag: &'static str, options: Options) -> Arc<Strings> {
        let mut contents = self.0.lock().unwrap();
        contents.components.insert(tag, options);
        contents.strings.entry(tag).or_default().clone()
    }

    fn remove(&self, tag: &'static str) {
        self.0.lock().unwrap().components.remove(tag);
    }

    fn loader(&self) -> Loader {
        let file = self.clone();
        Arc::new(move || {
            let contents = file.0.lock().unwrap().clone();
            if contents.broken {
                return Err(LoadError("config.json:1:1: broken".to_owned()));
            }
            let components = contents
                .components
                .into_iter()
                .map(|(tag, options)| Planned {
                    id: ComponentId::new(
                        if options.inbound { Kind::Inbound } else { Kind::Outbound },
                        tag,
                    ),
                    type_name: "test",
                    spec: Arc::new(TestSpec { options, strings: contents.strings[tag].clone() }),
                    path: String::new(),
                })
                .collect();
            Ok(Blueprint {
                components,
                references: Vec::new(),
                default_outbound: None,
                state: None,
                assemble: Box::new(|_| Ok(Assembly::empty())),
                settings: contents.settings,
                shared: BTreeMap::new(),
                on_commit: Box::new(|| {}),
                before_inbounds: contents.gate.map(gate),
            })
        })
    }

    async fn boot(&self) -> Handle {
        boot(self.loader(), Arc::new(|_| {})).await.expect("boot").0
    }
}

fn value(value: u32) -> Options {
    Options { value, ..Options::default() }
}

fn outcome(report: &ReloadReport, tag: &str) -> Outcome {
    let row = report.components.iter().find(|(id, ..)| &*id.tag == tag);
    row.unwrap_or_else(|| panic!("{tag} is missing in {report:?}")).1
}

async fn component(handle: &Handle, tag: &str) -> ComponentStatus {
    let status = handle.status().await.expect("status");
    status
        .components
        .into_iter()
        .find(|c| &*c.id.tag == tag && c.state != State::Draining)
        .unwrap_or_else(|| panic!("no component {tag}"))
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < Duration::from_secs(5), "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reload_touches_only_what_differs() {
    let file = File::new();
    let kept = file.set("kept", value(1));
    let replaced = file.set("replaced", value(1));
    let flexible = Options { reconfigurable: true, ..value(1) };
    let reconfigured = file.set("reconfigured", flexible.clone());
    let removed = file.set("removed", value(1));
    let handle = file.boot().await;

    file.set("replaced", value(2));
    file.set("reconfigured", Options { value: 7, ..flexible });
    file.remove("removed");
    let added = file.set("added", value(1));
    let report = handle.reload().await.expect("reload");
    assert_eq!(report.error, None);
    assert_eq!(report.generation, 2);
    assert_eq!(outcome(&report, "kept"), Outcome::Kept);
    assert_eq!(outcome(&report, "replaced"), Outcome::Replaced);
    assert_eq!(outcome(&report, "reconfigured"), Outcome::Reconfigured);
    assert_eq!(outcome(&report, "added"), Outcome::Added);
    assert_eq!(outcome(&report, "removed"), Outcome::Removed);

    assert_eq!(component(&handle, "kept").await.epoch, 1);
    assert_eq!(component(&handle, "reconfigured").await.epoch, 1);
    assert_eq!(component(&handle, "replaced").await.epoch, 2);
    assert_eq!(*reconfigured.seen.lock().unwrap(), [7]);
    assert_eq!(kept.built.load(Ordering::SeqCst), 1);
    assert_eq!(replaced.built.load(Ordering::SeqCst), 2);
    until("old instances are gone", async || {
        removed.live.load(Ordering::SeqCst) == 0 && replaced.live.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(added.live.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let file = File::new();
    let strings = file.set("a", value(1));
    let handle = file.boot().await;
    for build in [Build::Fails, Build::Panics, Build::Hangs] {
        file.set("a", value(2));
        file.set("b", Options { build, ..value(1) });
        let report = handle.reload().await.expect("reload");
        let why = report.error.expect("refused");
        assert!(why.contains("outbound/test[b]"), "{why}");
        assert!(!report.committed);
        assert_eq!(handle.status().await.expect("status").generation, 1);
        assert_eq!(component(&handle, "a").await.epoch, 1);
        until("the warm instance is gone", async || strings.live.load(Ordering::SeqCst) == 1).await;
    }
    file.0.lock().unwrap().broken = true;
    let report = handle.reload().await.expect("reload");
    assert_eq!(report.error.as_deref(), Some("config.json:1:1: broken"));
    file.0.lock().unwrap().broken = false;
    file.set("b", Options { deps: vec!["nope"], ..value(1) });
    let report = handle.reload().await.expect("reload");
    assert_eq!(report.error.as_deref(), Some("dependency[nope] not found for outbound[b]"));
}

#[tokio::test]
async fn a_failed_component_is_restarted_in_place() {
    let file = File::new();
    let strings = file.set("a", value(1));
    let other = file.set("b", value(1));
    let handle = file.boot().await;
    let mut epoch = 1;
    for order in [Order::Panic, Order::Fail, Order::Hang].into_iter().cycle().take(12) {
        tokio::time::sleep(Duration::from_millis(60)).await;
        *strings.order.lock().unwrap() = Some(order);
        strings.wake.notify_one();
        epoch += 1;
        until("it is up again", async || {
            let a = component(&handle, "a").await;
            a.epoch == epoch && a.state == State::Up
        })
        .await;
        let a = component(&handle, "a").await;
        assert_eq!(a.restarts, epoch - 1);
        assert!(a.last_error.is_some());
    }
    assert_eq!(component(&handle, "b").await.epoch, 1);
    assert_eq!(other.built.load(Ordering::SeqCst), 1);
    assert_eq!(strings.live.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_keeps_failing_is_degraded_and_fails_fast() {
    let file = File::new();
    file.set("a", Options { build: Build::Fails, ..value(1) });
    file.0.lock().unwrap().settings.supervision.max_restarts = 3;
    let handle = file.boot().await;
    until("it is degraded", async || component(&handle, "a").await.state == State::Degraded).await;
    assert_eq!(component(&handle, "a").await.last_error.as_deref(), Some("told to fail"));
    let slot = handle.plane().snapshot.load().names.outbounds["a"].clone();
    let started = Instant::now();
    let target = Target::new("192.0.2.1", 1);
    let error = slot.connect(Dial::internal(&target)).await.err().expect("down");
    assert!(error.to_string().contains("degraded: told to fail"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(200));
    file.set("a", value(2));
    handle.reload().await.expect("reload");
    assert_eq!(component(&handle, "a").await.state, State::Up);
}

#[tokio::test]
async fn a_component_that_is_down_takes_new_options_at_once() {
    let file = File::new();
    let flexible = Options { reconfigurable: true, ..value(1) };
    file.set("a", Options { build: Build::Fails, ..flexible.clone() });
    file.0.lock().unwrap().settings.supervision.backoff_min = Duration::from_secs(60);
    file.0.lock().unwrap().settings.supervision.backoff_max = Duration::from_secs(60);
    let handle = file.boot().await;
    assert_eq!(component(&handle, "a").await.state, State::Backoff);
    file.set("a", flexible);
    let report = handle.reload().await.expect("reload");
    assert_eq!(outcome(&report, "a"), Outcome::Reconfigured);
    until("it is up", async || component(&handle, "a").await.state == State::Up).await;
}

#[tokio::test]
async fn strict_start_fails_like_the_reference() {
    let file = File::new();
    file.set("a", Options { build: Build::Fails, ..value(1) });
    file.0.lock().unwrap().settings.strict = true;
    let error = boot(file.loader(), Arc::new(|_| {})).await.err().expect("refused");
    assert_eq!(error.to_string(), "start outbound/test[a]: told to fail");
}

#[tokio::test]
async fn exclusive_claims_are_exchanged_and_fall_back() {
    let file = File::new();
    let exclusive = |n| Options { exclusive: Some("key"), ..value(n) };
    let strings = file.set("a", exclusive(1));
    let handle = file.boot().await;
    file.set("a", exclusive(2));
    let report = handle.reload().await.expect("reload");
    assert_eq!(outcome(&report, "a"), Outcome::Replaced);
    assert_eq!(strings.live.load(Ordering::SeqCst), 1);
    file.set("a", Options { build: Build::Fails, ..exclusive(3) });
    let report = handle.reload().await.expect("reload");
    assert_eq!(outcome(&report, "a"), Outcome::Failed);
    let a = component(&handle, "a").await;
    assert_eq!(a.state, State::Up);
    assert_eq!(strings.live.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_operator_restarts_one_component() {
    let file = File::new();
    let strings = file.set("a", value(1));
    let handle = file.boot().await;
    assert_eq!(handle.restart(ComponentId::new(Kind::Outbound, "a")).await, Ok(2));
    until("the old one is gone", async || strings.live.load(Ordering::SeqCst) == 1).await;
    assert!(handle.restart(ComponentId::new(Kind::Outbound, "b")).await.is_err());
}

/// 1,000 random reloads: what did not change keeps its epoch, and nothing is left behind.
#[tokio::test]
async fn random_reloads_keep_what_did_not_change() {
    const TAGS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let file = File::new();
    let all: Vec<_> = TAGS.iter().map(|tag| file.set(tag, value(0))).collect();
    let handle = file.boot().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let mut wanted: BTreeMap<&str, u32> = TAGS.iter().map(|tag| (*tag, 0)).collect();
    let mut running: BTreeMap<&str, (u32, u64)> = TAGS.iter().map(|tag| (*tag, (0, 1))).collect();
    let mut last: BTreeMap<&str, u64> = TAGS.iter().map(|tag| (*tag, 1)).collect();
    for _ in 0..1000 {
        for _ in 0..random(4) {
            let tag = TAGS[random(12) as usize];
            if random(3) == 0 {
                file.remove(tag);
                wanted.remove(tag);
            } else {
                let next = random(3) as u32;
                file.set(tag, value(next));
                wanted.insert(tag, next);
            }
        }
        let report = handle.reload().await.expect("reload");
        assert_eq!(report.error, None);
        let status = handle.status().await.expect("status");
        let mut now = BTreeMap::new();
        for c in status.components.iter().filter(|c| c.state != State::Draining) {
            let tag = *TAGS.iter().find(|t| **t == &*c.id.tag).expect("known");
            now.insert(tag, (wanted[tag], c.epoch));
            match running.get(tag) {
                Some((value, epoch)) if *value == wanted[tag] => {
                    assert_eq!(c.epoch, *epoch, "{tag}: an unchanged component keeps its epoch");
                }
                _ => assert!(c.epoch > last[tag], "{tag}: a changed one has a new epoch"),
            }
            last.insert(tag, c.epoch);
        }
        assert_eq!(now.len(), wanted.len());
        running = now;
    }
    until("old instances are gone", async || {
        let live: usize = all.iter().map(|s| s.live.load(Ordering::SeqCst)).sum();
        live == wanted.len()
    })
    .await;
    let plane: &Arc<Plane> = handle.plane();
    assert!(plane.ledger.is_empty() && plane.vault.is_empty());
}

#[tokio::test]
async fn an_instance_says_what_it_lacks_and_goes_on() {
    let file = File::new();
    let strings = file.set("a", value(1));
    let handle = file.boot().await;
    let order = |order| {
        *strings.order.lock().unwrap() = Some(order);
        strings.wake.notify_one();
    };
    order(Order::Lack);
    until("it says so", async || component(&handle, "a").await.state == State::Degraded).await;
    let status = component(&handle, "a").await;
    assert_eq!((status.epoch, status.last_error.as_deref()), (1, Some("no rules")));
    let slot = handle.plane().snapshot.load().names.outbounds["a"].clone();
    assert!(slot.now().is_some() && slot.health() == crate::slot::Health::Up);
    order(Order::Recover);
    until("it is well", async || component(&handle, "a").await.state == State::Up).await;
    let status = component(&handle, "a").await;
    assert_eq!((status.epoch, status.restarts, status.last_error), (1, 0, None));
}

#[tokio::test]
async fn inbounds_wait_at_boot_for_what_must_come_first() {
    let file = File::new();
    let (open, gate) = tokio::sync::watch::channel(None);
    file.0.lock().unwrap().gate = Some(gate);
    let outbound = file.set("out", value(1));
    let inbound = file.set("in", Options { inbound: true, ..value(1) });
    let built = |strings: &Strings| strings.built.load(Ordering::SeqCst);
    let booting = tokio::spawn({
        let file = file.clone();
        async move { boot(file.loader(), Arc::new(|_| {})).await }
    });
    until("the outbound is there", async || built(&outbound) == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(built(&inbound) == 0 && !booting.is_finished());
    open.send_replace(Some(Ok(())));
    let (handle, report) = booting.await.expect("no panic").expect("boot");
    assert_eq!((report.generation, report.error), (1, None));
    assert_eq!((built(&outbound), built(&inbound)), (1, 1));
    assert_eq!(component(&handle, "in").await.state, State::Up);
    // A reload waits for nothing.
    let (_open, gate) = tokio::sync::watch::channel(None);
    file.0.lock().unwrap().gate = Some(gate);
    file.set("in", Options { inbound: true, ..value(2) });
    assert!(handle.reload().await.expect("reload").committed);
    // What does not come ends the start.
    open.send_replace(Some(Err("no rules".to_owned())));
    file.0.lock().unwrap().gate = Some(open.subscribe());
    let failed = boot(file.loader(), Arc::new(|_| {})).await.map(drop);
    assert!(matches!(failed, Err(BootError::Start(why)) if why == "no rules"));
}
