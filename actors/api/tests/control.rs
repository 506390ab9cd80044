//! The control socket on a kernel of its own, with outbounds that do as they are told.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use crosspoint_api::{
    Call, Client, Control, Response, WatchSpec,
    protocol::{GroupsReply, ReloadReply, RestartReply, StatusReply},
};
use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, DialError, Kind, Spec, Tag,
    component::{Dial, Group, Outbound},
    flow::{BoxPacketIo, BoxStream},
    supervise::{self, Assembly, Blueprint, ComponentId, Handle, LoadError, Planned, Settings},
};
use serde_json::{Value, json};

/// An outbound that reaches nothing and chooses between `a` and `b`.
#[derive(Debug)]
struct Choice(u32);

struct ChoiceOutbound(Mutex<Tag>);

impl Spec for Choice {
    fn canonical(&self) -> serde_json::Map<String, Value> {
        [("value".to_owned(), self.0.into())].into_iter().collect()
    }
    fn build(self: Arc<Self>, _: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async {
            let outbound = ChoiceOutbound(Mutex::new("a".into()));
            Ok(Component { outbound: Some(Arc::new(outbound)), ..Component::default() })
        })
    }
}

impl Outbound for ChoiceOutbound {
    fn connect<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(async { Err(DialError::unsupported("a test")) })
    }
    fn associate<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("a test")) })
    }
    fn group(&self) -> Option<&dyn Group> {
        Some(self)
    }
}

impl Group for ChoiceOutbound {
    fn members(&self) -> Vec<Tag> {
        vec!["a".into(), "b".into()]
    }
    fn selected(&self) -> Option<Tag> {
        Some(self.0.lock().unwrap().clone())
    }
    fn select(&self, tag: &str) -> bool {
        *self.0.lock().unwrap() = tag.into();
        true
    }
}

/// What the next load gives: the value of the outbound, or an error.
type Next = Arc<Mutex<Result<u32, String>>>;

struct Daemon {
    _dir: tempfile::TempDir,
    path: PathBuf,
    next: Next,
    control: Arc<Control>,
    handle: Handle,
    watched: PathBuf,
}

impl Daemon {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, watched) = (dir.path().join("ctl.sock"), dir.path().join("config.json"));
        let next: Next = Arc::new(Mutex::new(Ok(1)));
        let control = Control::bind(&path, "1.2.3").unwrap();
        let cell = Arc::new(OnceLock::new());
        let watch = WatchSpec {
            files: vec![watched.clone()],
            directories: Vec::new(),
            handle: cell.clone(),
        };
        let loader = {
            let (next, control) = (next.clone(), control.clone());
            Arc::new(move || {
                let value = next.lock().unwrap().clone().map_err(LoadError)?;
                Ok(blueprint(vec![control.planned(), watch.clone().planned(), choice(value)]))
            })
        };
        let (handle, report) = supervise::boot(loader, Arc::new(|_| {})).await.unwrap();
        assert!(report.committed, "{report:?}");
        cell.set(handle.clone()).ok().unwrap();
        control.attach(handle.clone());
        Self { _dir: dir, path, next, control, handle, watched }
    }

    async fn ask(&self, call: Call) -> Response {
        ask(&self.path, call).await
    }
}

fn choice(value: u32) -> Planned {
    let id = ComponentId::new(Kind::Outbound, "choice");
    Planned { id, type_name: "test", spec: Arc::new(Choice(value)), path: String::new() }
}

fn blueprint(components: Vec<Planned>) -> Blueprint {
    Blueprint {
        components,
        references: Vec::new(),
        default_outbound: Some("choice".into()),
        state: None,
        assemble: Box::new(|_| Ok(Assembly::empty())),
        settings: Settings::default(),
        shared: BTreeMap::new(),
        on_commit: Box::new(|| {}),
        before_inbounds: None,
    }
}

async fn ask(path: &Path, call: Call) -> Response {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(&[path]).unwrap();
        client.call(call, Duration::from_secs(20)).unwrap()
    })
    .await
    .unwrap()
}

fn read<T: for<'de> serde::Deserialize<'de>>(response: Response) -> T {
    assert!(response.ok, "{response:?}");
    serde_json::from_value(response.result.unwrap()).unwrap()
}

/// Sends bytes as they are, and reads all answers until the daemon closes or `lines` have come.
async fn raw(path: &Path, bytes: Vec<u8>, lines: usize) -> Vec<Value> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The daemon may close in the middle of what is too long.
        let _ = stream.write_all(&bytes);
        let answers = BufReader::new(stream.take(1 << 20)).lines().take(lines);
        answers.map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap()).collect()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tells_and_does_what_is_asked() {
    let daemon = Daemon::start().await;
    let status: StatusReply = read(daemon.ask(Call::Status).await);
    assert_eq!((status.version.as_str(), status.generation), ("1.2.3", 1));
    let names: Vec<_> = status.components.iter().map(|c| (&*c.kind, &*c.tag, &*c.state)).collect();
    let expected =
        [("outbound", "choice", "up"), ("service", "control", "up"), ("service", "watch", "up")];
    assert_eq!(names, expected);

    *daemon.next.lock().unwrap() = Ok(2);
    let reload: ReloadReply = read(daemon.ask(Call::Reload).await);
    assert_eq!((reload.committed, reload.generation), (true, 2));
    let outcome = |tag: &str| {
        reload.components.iter().find(|c| c.tag == tag).map(|c| c.outcome.clone()).unwrap()
    };
    assert_eq!((&*outcome("choice"), &*outcome("control")), ("replaced", "kept"));

    *daemon.next.lock().unwrap() = Err("line 3 is wrong".to_owned());
    let refused = daemon.ask(Call::Reload).await;
    assert!(!refused.ok && refused.error.as_deref() == Some("line 3 is wrong"), "{refused:?}");
    assert_eq!(refused.result.unwrap()["generation"], 2);

    let groups: GroupsReply = read(daemon.ask(Call::Groups).await);
    assert_eq!(groups.groups[0].selected.as_deref(), Some("a"));
    let select = |group: &str, member: &str| Call::Select {
        group: group.to_owned(),
        member: member.to_owned(),
    };
    assert!(daemon.ask(select("choice", "b")).await.ok);
    assert!(!daemon.ask(select("choice", "c")).await.ok);
    assert!(!daemon.ask(select("nobody", "a")).await.ok);
    let groups: GroupsReply = read(daemon.ask(Call::Groups).await);
    assert_eq!(groups.groups[0].selected.as_deref(), Some("b"));

    assert_eq!(daemon.ask(Call::Connections).await.result.unwrap(), json!({"connections": []}));
    assert!(!daemon.ask(Call::Close { id: 7 }).await.ok);
    for wrong in ["outbound/nobody", "nonsense"] {
        let answer = daemon.ask(Call::Restart { component: wrong.to_owned() }).await;
        assert!(!answer.ok && answer.error.is_some(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_components_and_itself_without_closing_the_socket() {
    let daemon = Daemon::start().await;
    for (name, epoch) in [("outbound/choice", 2), ("service/control", 2), ("service/control", 3)] {
        let answer = daemon.ask(Call::Restart { component: name.to_owned() }).await;
        assert_eq!(read::<RestartReply>(answer).epoch, epoch, "{name}");
    }
    // Any number of requests on one connection, across a restart of what serves it.
    let text =
        "{\"method\":\"restart\",\"component\":\"service/control\"}\n\n{\"method\":\"status\"}\n";
    let answers = raw(&daemon.path, text.into(), 2).await;
    assert_eq!(answers[0]["result"]["epoch"], 4);
    assert_eq!(answers[1]["result"]["components"][1]["epoch"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_answered_and_bounded() {
    let daemon = Daemon::start().await;
    let answers =
        raw(&daemon.path, b"nonsense\n{\"v\":9,\"method\":\"status\"}\n".to_vec(), 2).await;
    assert!(answers.iter().all(|a| a["ok"] == false && a["error"].is_string()), "{answers:?}");
    let answers = raw(&daemon.path, vec![b'x'; 1 << 20], 2).await;
    assert!(answers.iter().all(|a| a["ok"] == false), "{answers:?}");
    // Clients that say nothing do not keep others out for good: 32 are served, the next is told.
    let idle: Vec<_> = (0..32).map(|_| UnixStream::connect(&daemon.path).unwrap()).collect();
    let full = Instant::now();
    loop {
        let answers = raw(&daemon.path, b"{\"method\":\"status\"}\n".to_vec(), 1).await;
        if answers[0]["ok"] == false {
            break;
        }
        assert!(full.elapsed() < Duration::from_secs(10), "never full");
    }
    drop(idle);
    let freed = Instant::now();
    while !daemon.ask(Call::Status).await.ok {
        assert!(freed.elapsed() < Duration::from_secs(10), "never free again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_reloads_once_it_has_settled() {
    let daemon = Daemon::start().await;
    let generation = || daemon.handle.plane().snapshot.load().generation;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(generation(), 1);
    std::fs::write(&daemon.watched, "{").unwrap();
    std::fs::write(&daemon.watched, "{}").unwrap();
    let began = Instant::now();
    while generation() == 1 {
        assert!(began.elapsed() < Duration::from_secs(20), "not reloaded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(generation(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_answers_and_then_lets_the_process_end() {
    let daemon = Daemon::start().await;
    let answer = daemon.ask(Call::Drain { timeout_ms: 100 }).await;
    assert_eq!(answer.result.unwrap(), json!({"closed": 0}));
    tokio::time::timeout(Duration::from_secs(5), daemon.control.drained()).await.unwrap();
    daemon.control.close();
    assert!(!daemon.path.exists());
}
