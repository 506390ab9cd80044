//! Commands that end at once.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use crate::program::{Place, config};

#[test]
fn version() {
    let place = Place::new();
    let name = place.run(&["version", "-n"]).ok();
    let text = place.run(&["version"]).ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("crosspoint version {}", name.trim()));
    assert!(lines[1].is_empty() && lines[2].starts_with("Environment: rust"), "{text}");
    assert!(lines[3].starts_with("Tags: ") && lines[3].contains("mixed"), "{text}");
    assert_eq!(lines.last(), Some(&"CGO: disabled"));
}

#[test]
fn generate_has_the_shapes_of_the_reference() {
    let place = Place::new();
    let uuid = place.run(&["generate", "uuid"]).ok();
    assert!(uuid.len() == 37 && uuid.as_bytes()[14] == b'4', "{uuid}");
    assert_eq!(place.run(&["generate", "rand", "5", "--hex"]).ok().len(), 11);
    // --base64 wins over --hex.
    let text = place.run(&["generate", "rand", "6", "--hex", "--base64"]).ok();
    assert_eq!(STANDARD.decode(text.trim()).unwrap().len(), 6);
    assert_eq!(place.run(&["generate", "rand", "0"]).ok(), "");
    place.run(&["generate", "rand", "x"]).fatal("strconv.Atoi: parsing \"x\": invalid syntax");
    for (what, url, sizes) in [
        ("wg-keypair", false, [32, 32]),
        ("reality-keypair", true, [32, 32]),
        ("vapid-keypair", true, [32, 65]),
    ] {
        let text = place.run(&["generate", what]).ok();
        let values: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["PrivateKey", "PublicKey"]);
        for ((_, value), size) in values.iter().zip(sizes) {
            let bytes = if url { URL_SAFE_NO_PAD.decode(value) } else { STANDARD.decode(value) };
            assert_eq!(bytes.unwrap().len(), size, "{what}");
        }
    }
    let pem = place.run(&["generate", "tls-keypair", "example.org", "-m", "12"]).ok();
    let marks: Vec<_> =
        pem.lines().filter(|line| line.starts_with("---") || line.is_empty()).collect();
    assert_eq!(
        marks,
        [
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "",
            "-----BEGIN CERTIFICATE-----",
            "-----END CERTIFICATE-----",
            "",
        ]
    );
}

#[test]
fn format_prints_canonical_json() {
    let place = Place::new();
    place.write("a.json", "{ // comment\n \"log\": {\"level\": \"info\",},\n \"inbounds\": []}");
    place.write("b.json", r#"{"log": {"timestamp": true}}"#);
    let formatted = "{\n  \"log\": {\n    \"level\": \"info\"\n  }\n}\n";
    assert_eq!(place.run(&["format", "-c", "a.json"]).ok(), format!("{formatted}\n"));
    let both = place.run(&["format", "-c", "b.json", "-c", "a.json"]).ok();
    let title = |name| format!("{}\n", place.path(name).canonicalize().unwrap().display());
    assert!(both.starts_with(&(title("a.json") + formatted)), "{both}");
    assert!(both.contains(&title("b.json")), "{both}");
    let written = place.run(&["format", "-w", "-c", "a.json"]);
    assert_eq!((written.err.as_str(), written.out.as_str()), (title("a.json").as_str(), ""));
    assert_eq!(place.read("a.json"), formatted);
    let again = place.run(&["format", "-w", "-c", "a.json"]);
    assert_eq!((again.code, again.err.as_str()), (Some(0), ""));
}

#[test]
fn merge_writes_one_file() {
    let place = Place::new();
    place.write(
        "a.json",
        r#"{"log": {"level": "info"}, "outbounds": [{"type": "direct", "tag": "a"}]}"#,
    );
    place.write(
        "b.json",
        r#"{"log": {"level": "warn"}, "outbounds": [{"type": "block", "tag": "b"}]}"#,
    );
    let done = place.run(&["merge", "new/dir/out.json", "-c", "b.json", "-c", "a.json"]);
    let path = place.path("new/dir/out.json").canonicalize().unwrap();
    assert_eq!(done.err, format!("{}\n", path.display()));
    let merged: Value = serde_json::from_str(&place.read("new/dir/out.json")).unwrap();
    // In the order of paths; of two values the first stays.
    assert_eq!(merged["log"]["level"], "info");
    assert_eq!(merged["outbounds"][1]["tag"], "b");
    assert_eq!(place.run(&["merge", "-c", "a.json"]).code, Some(1));
}

#[test]
fn check_is_silent_or_tells_where() {
    let place = Place::new();
    place.write("config.json", &config(1, "info"));
    let done = place.run(&["check"]);
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (Some(0), "", ""));
    place.run_with(&["check", "-c", "stdin"], &config(1, "info")).ok();

    let done = place.run(&["check", "-c", "nowhere.json"]);
    done.fatal("read config at nowhere.json: open nowhere.json: no such file or directory");
    place.write("wrong.json", "{\"inbounds\": [\n  {\"type\": \"mixed\", \"listn_port\": 1}]}");
    let done = place.run(&["check", "-c", "wrong.json"]);
    done.fatal(
        "decode config at wrong.json: inbounds[0].listn_port: json: unknown field \"listn_port\"",
    );
    assert!(done.err.contains("wrong.json:2:") && done.err.contains("listen_port"), "{}", done.err);
    place.write("tag.json", r#"{"route": {"final": "nobody"}}"#);
    assert!(place.run(&["check", "-c", "tag.json"]).err.contains("nobody"));
    place.write("level.json", r#"{"log": {"level": "loud"}}"#);
    let message = "create log factory: parse log level: unknown log level: loud";
    place.run(&["check", "-c", "level.json"]).fatal(message);
    place.run(&["run", "-c", "level.json"]).fatal(&format!("create service: {message}"));
}

#[test]
fn flags_stand_before_and_after_the_command() {
    let place = Place::new();
    place.write("a.json", r#"{"log": {"level": "info"}}"#);
    place.write("b.json", r#"{"log": {"timestamp": true}}"#);
    let both = place.run(&["-c", "a.json", "format", "-c", "b.json"]).ok();
    assert!(both.contains("a.json") && both.contains("b.json"), "{both}");
    assert!(place.run(&["-D", "new/dir", "version", "-n"]).code == Some(0));
    assert!(place.path("new/dir").is_dir());
    place
        .run(&["-D", "/proc/nowhere", "check"])
        .fatal("chdir /proc/nowhere: no such file or directory");
    std::fs::create_dir(place.path("parts")).unwrap();
    place.write("parts/x.json", &config(1, "info"));
    place.run(&["check", "-C", "parts"]).ok();
}

#[test]
fn usage() {
    let place = Place::new();
    for args in
        [&["fly"][..], &["run", "--fly"], &["merge"], &["version", "extra"], &["check", "-c"]]
    {
        let done = place.run(args);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.err.lines().last().unwrap().starts_with("FATAL[0000] "), "{done:?}");
        assert!(done.out.is_empty());
    }
    for args in [&["--help"][..], &["run", "-h"], &["help"], &["generate"], &["ctl", "--help"]] {
        let done = place.run(args);
        assert!(done.code == Some(0) && done.out.contains("crosspoint"), "{done:?}");
    }
}

#[test]
fn completion_and_schema() {
    let place = Place::new();
    for shell in ["bash", "fish", "powershell", "zsh"] {
        let with = place.run(&["completion", shell]).ok();
        let without = place.run(&["completion", shell, "--no-descriptions"]).ok();
        assert!(with.contains("reality-keypair") && with.len() >= without.len(), "{shell}");
        assert!(!without.contains("Merge configurations"), "{shell}");
    }
    let schema: Value = serde_json::from_str(&place.run(&["schema"]).ok()).unwrap();
    assert!(schema["$schema"].is_string() && schema["properties"]["inbounds"].is_object());
    assert!(schema["$defs"]["inbound-mixed"].is_object());
}

#[test]
fn ctl_without_a_daemon() {
    let place = Place::new();
    let done = place.run(&["ctl", "--control", "nowhere.sock", "status"]);
    assert_eq!((done.code, done.out.as_str()), (Some(2), ""));
    assert!(done.err.contains("cannot reach the daemon: nowhere.sock: "), "{done:?}");
}
