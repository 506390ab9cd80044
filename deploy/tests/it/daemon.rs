//! The daemon: start, control, reload, stop.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::program::{PATIENCE, Place, config, exists, free_port, listens};

const STARTED: &str = "crosspoint started (";

#[track_caller]
fn until(what: &str, mut f: impl FnMut() -> bool) {
    let began = Instant::now();
    while !f() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn component<'a>(status: &'a Value, kind: &str, tag: &str) -> &'a Value {
    let found = status["components"].as_array().unwrap().iter();
    found.into_iter().find(|c| c["kind"] == kind && c["tag"] == tag).unwrap()
}

#[test]
fn serves_reloads_and_stops() {
    let (place, port) = (Place::new(), free_port());
    place.write("config.json", &config(port, "info"));
    let mut daemon = place.start(&["run"], &[]);
    daemon.wait_for(STARTED);
    assert!(listens(port));
    let socket = place.path("crosspoint.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let status = daemon.ctl(&["status"]);
    assert_eq!(status["generation"], 1);
    for (kind, type_name, tag) in [
        ("inbound", "mixed", "in"),
        ("outbound", "direct", "out"),
        ("service", "control", "control"),
    ] {
        let c = component(&status, kind, tag);
        assert_eq!((&c["type"], &c["state"]), (&type_name.into(), &"up".into()));
        assert_eq!(
            (&c["epoch"], &c["restarts"], &c["last_error"]),
            (&1.into(), &0.into(), &Value::Null)
        );
    }
    assert!(place.run(&["ctl", "status"]).ok().contains("inbound/in"));

    place.write("config.json", &config(port, "error"));
    let reload = daemon.ctl(&["reload"]);
    assert_eq!((&reload["committed"], &reload["generation"]), (&true.into(), &2.into()));
    assert_eq!(reload["changed"], serde_json::json!(["log"]));
    assert!(reload["components"].as_array().unwrap().iter().all(|c| c["outcome"] == "kept"));

    place.write("config.json", "{\"inbounds\": [{\"type\": \"mixed\", \"listn\": 1}]}");
    let refused = place.run(&["ctl", "reload", "--json"]);
    assert_eq!(refused.code, Some(1));
    let refused: Value = serde_json::from_str(&refused.out).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("listn"), "{refused}");
    assert_eq!((&refused["generation"], &refused["committed"]), (&2.into(), &false.into()));
    assert!(listens(port));

    assert_eq!(daemon.ctl(&["restart", "inbound/in"])["epoch"], 2);
    assert_eq!(place.run(&["ctl", "restart", "inbound/nobody"]).code, Some(1));
    assert_eq!(place.run(&["ctl", "close", "1"]).code, Some(1));
    assert_eq!(daemon.ctl(&["connections"]), serde_json::json!({"connections": []}));

    place.write("config.json", &config(port, "info"));
    daemon.signal(Signal::HUP);
    until("the reload", || daemon.ctl(&["status"])["generation"] == 3);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().code(), Some(0), "{}", place.read("err"));
    assert!(!exists(&socket) && !listens(port));
}

#[test]
fn a_live_control_socket_is_not_taken() {
    let place = Place::new();
    place.write("one.json", &config(free_port(), "info"));
    place.write("two.json", &config(free_port(), "info"));
    let mut first = place.start(&["run", "-c", "one.json", "--control", "c.sock"], &[]);
    first.wait_for(STARTED);
    let second = place.run(&["run", "-c", "two.json", "--control", "c.sock"]);
    second.fatal("control socket c.sock: another daemon listens there");
    assert_eq!(place.run(&["ctl", "status", "--control", "c.sock"]).code, Some(0));
    first.signal(Signal::KILL);
    first.end();
    // What a killed daemon leaves behind is replaced.
    assert!(exists(&place.path("c.sock")));
    let mut third = place.start(&["run", "-c", "one.json", "--control", "c.sock"], &[]);
    third.wait_for(STARTED);
}

#[test]
fn a_busy_port_degrades_or_ends_the_start() {
    let (place, busy) = (Place::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = busy.local_addr().unwrap().port();
    place.write("config.json", &config(port, "info"));
    let strict = place.run(&["run", "--strict"]);
    assert_eq!(strict.code, Some(1));
    assert!(strict.err.contains("FATAL[0000] start service: "), "{}", strict.err);
    let mut daemon = place.start(&["run"], &[]);
    daemon.wait_for(STARTED);
    let status = daemon.ctl(&["status"]);
    let inbound = component(&status, "inbound", "in");
    assert_eq!(inbound["state"], "backoff");
    assert!(inbound["last_error"].as_str().unwrap().contains("in use"), "{inbound}");
    assert_eq!(component(&status, "outbound", "out")["state"], "up");
    drop(busy);
    until("the port is taken", || {
        component(&daemon.ctl(&["status"]), "inbound", "in")["state"] == "up"
    });
}

#[test]
fn reports_to_systemd() {
    let place = Place::new();
    place.write("config.json", &config(free_port(), "info"));
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut buffer = [0; 1024];
        let n = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    // Proof of life comes in between.
    let expect = |key: &str| {
        let text =
            std::iter::repeat_with(next).find(|text| !text.starts_with("WATCHDOG=1")).unwrap();
        assert!(text.starts_with(key), "{key} expected, not {text}");
        text
    };
    let notify = place.path("notify");
    let env = [("NOTIFY_SOCKET", notify.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut daemon = place.start(&["run"], &env);
    assert!(expect("READY=1").contains("STATUS=generation 1"));
    assert_eq!(next(), "WATCHDOG=1\n");
    daemon.signal(Signal::HUP);
    assert!(expect("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(expect("READY=1").contains("STATUS=generation 2"));
    daemon.signal(Signal::INT);
    expect("STOPPING=1");
    assert_eq!(daemon.end().code(), Some(0));
}

#[test]
fn the_log_follows_its_options() {
    let (place, port) = (Place::new(), free_port());
    let config = |log: &str| {
        format!(
            r#"{{"log": {{{log}}}, "inbounds":
                [{{"type": "mixed", "tag": "in", "listen": "127.0.0.1", "listen_port": {port}}}]}}"#
        )
    };
    place.write("config.json", &config(r#""output": "daemon.log", "level": "info""#));
    let daemon = place.start(&["run"], &[]);
    until("the log file", || place.read("daemon.log").contains(STARTED));
    assert!(place.read("daemon.log").contains("tcp server started"));
    assert_eq!(place.read("err"), "");
    assert!(place.read("daemon.log").lines().all(|line| line.starts_with("INFO ")));
    std::fs::rename(place.path("daemon.log"), place.path("daemon.log.1")).unwrap();
    daemon.ctl(&["reload"]);
    until("the rotation", || place.read("daemon.log").contains("reloaded"));
    place.write("config.json", &config(r#""timestamp": true, "level": "debug""#));
    daemon.ctl(&["reload"]);
    until("standard error", || place.read("err").contains("reloaded"));
    let text = place.read("err");
    let line = text.lines().find(|line| line.contains("reloaded")).unwrap();
    assert!(line.starts_with("+0000 20") && line.contains(" INFO "), "{line}");
    place.write("config.json", &config(r#""disabled": true"#));
    daemon.ctl(&["reload"]);
    let before = place.read("err").len();
    daemon.ctl(&["reload"]);
    assert_eq!(place.read("err").len(), before);
    // A file that cannot be opened refuses the reload.
    place.write("config.json", &config(r#""output": "/nonexistent/log""#));
    let refused = place.run(&["ctl", "reload"]);
    let why = "start logger: open /nonexistent/log: no such file or directory";
    assert!(refused.code == Some(1) && refused.out.contains(why), "{refused:?}");
}

#[test]
fn watches_its_files_when_asked() {
    let (place, port) = (Place::new(), free_port());
    place.write("config.json", &config(port, "info"));
    let mut daemon = place.start(&["run", "--watch"], &[]);
    daemon.wait_for(STARTED);
    assert_eq!(component(&daemon.ctl(&["status"]), "service", "watch")["state"], "up");
    let next = free_port();
    place.write("config.json", &config(next, "info"));
    until("the new port", || listens(next));
    until("the end of the old port", || !listens(port));
}

#[test]
fn drains_and_ends() {
    let place = Place::new();
    place.write("config.json", &config(free_port(), "info"));
    let mut daemon = place.start(&["run"], &[]);
    daemon.wait_for(STARTED);
    let text = place.run(&["ctl", "drain", "--timeout", "1s"]).ok();
    assert!(text.starts_with("drained, 0 connections cut"), "{text}");
    assert_eq!(daemon.end().code(), Some(0));
}

#[test]
fn without_a_configuration_says_how_to_go_on() {
    let place = Place::new();
    let mut daemon = place.start(&[], &[]);
    // Another daemon may have the port: the text says so then.
    until("the text", || place.read("out").contains("curl -x socks5h://127.0.0.1:2080"));
    assert_eq!(daemon.ctl(&["status"])["generation"], 1);
    let port = free_port();
    place.write("config.json", &config(port, "info"));
    assert_eq!(daemon.ctl(&["reload"])["committed"], true);
    assert!(listens(port));
    daemon.signal(Signal::INT);
    assert_eq!(daemon.end().code(), Some(0));
}
