//! The golden vectors of the reference, for everything that needs no real plugin: the sections of the root, and the shared
//! blocks through a few option sets that stand here for plugins.

mod plugins;

use std::path::Path;

use crosspoint_schema::json::{Loaded, pretty};
use crosspoint_schema::notice::Severity;
use crosspoint_schema::{Config, ConfigError, Context};
use serde_json::Value;

/// Vectors whose outcome differs on purpose, with the reason.
const DEVIATIONS: &[(&str, &str)] = &[(
    "N87 hosts predefined wrong type",
    "the reference panics; here it is an error with a place",
)];

fn vectors(name: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/vectors/config");
    read(&folder.join(name))
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
    text.lines().map(|line| serde_json::from_str(line).expect("a vector is JSON")).collect()
}

/// Decodes a configuration with the stand-in plugins. `None` where it holds a type that none of them has.
fn decode(text: &str, cx: &mut Context) -> Option<Result<Value, ConfigError>> {
    let loaded = match Loaded::from_text("config.json", text) {
        Ok(loaded) => loaded,
        Err(error) => return Some(Err(ConfigError::new("", error.to_string()))),
    };
    *cx = Context { sources: loaded.sources.into(), notices: cx.notices.clone() };
    let config = match Config::decode(&loaded.root, cx) {
        Ok(config) => config,
        Err(error) => return Some(Err(error)),
    };
    let mut printed = Vec::new();
    for raw in config.all_components() {
        match plugins::canonical(raw.raw(cx))? {
            Ok(value) => printed.push(((raw.kind, raw.index), value)),
            Err(error) => return Some(Err(error)),
        }
    }
    let find = |kind, index| {
        printed.iter().find(|(key, _)| *key == (kind, index)).map(|(_, value)| value.clone())
    };
    Some(Ok(config.canonical(|raw| find(raw.kind, raw.index).unwrap_or_default())))
}

/// The text, because the order of members counts.
fn text(value: &Value) -> String {
    value.to_string()
}

fn fatal(stderr: &str) -> Option<&str> {
    stderr.lines().find_map(|line| line.strip_prefix("FATAL[0000] "))
}

#[test]
fn canonical_output_and_errors_are_the_references() {
    let (mut done, mut skipped, mut failures) = (0, 0, Vec::new());
    for vector in vectors("format.jsonl") {
        let name = format!(
            "{} {}",
            vector["option"].as_str().unwrap_or(""),
            vector["kind"].as_str().unwrap_or("")
        );
        let mut cx = Context::default();
        let Some(outcome) = decode(&vector["config"].to_string(), &mut cx) else {
            skipped += 1;
            continue;
        };
        done += 1;
        let stderr = vector["stderr"].as_str().unwrap_or("");
        let expected = text(&vector["canonical"]);
        match outcome {
            Ok(value) if vector["accepted"] == true => {
                if text(&value) != expected {
                    failures.push(format!("{name}: printed {value}, wanted {expected}"));
                }
            }
            Ok(value) => failures.push(format!("{name}: accepted as {value}, wanted {stderr}")),
            Err(error) => {
                if Some(error.summary().as_str()) != fatal(stderr) {
                    failures
                        .push(format!("{name}: refused with {}, wanted {stderr}", error.summary()));
                }
                if error.location.is_none() {
                    failures.push(format!("{name}: no location in {error}"));
                }
            }
        }
        let warned: Vec<String> = cx
            .notices
            .list()
            .iter()
            .map(|notice| format!("WARN[0000] {}", notice.message()))
            .collect();
        let wanted: Vec<&str> = stderr.lines().filter(|line| line.starts_with("WARN")).collect();
        if warned != wanted {
            failures.push(format!("{name}: warned {warned:?}, wanted {wanted:?}"));
        }
    }
    println!("{done} vectors, {skipped} of types that only plugins know");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(done > 700, "only {done} vectors were tried");
}

#[test]
fn check_vectors_agree_on_what_decodes() {
    let (mut done, mut skipped, mut failures) = (0, 0, Vec::new());
    for vector in vectors("check.jsonl") {
        let name = vector["name"].as_str().unwrap_or("");
        if DEVIATIONS.iter().any(|(deviation, _)| *deviation == name) {
            continue;
        }
        let mut cx = Context::default();
        let Some(outcome) = decode(vector["config"].as_str().unwrap_or(""), &mut cx) else {
            skipped += 1;
            continue;
        };
        done += 1;
        let stderr = vector["stderr"].as_str().unwrap_or("");
        let wanted = fatal(stderr).filter(|line| line.starts_with("decode config at "));
        match (outcome, wanted) {
            (Ok(_), None) => {}
            (Err(error), Some(wanted)) => {
                if error.summary().trim_end() != wanted {
                    failures.push(format!("{name}: {} instead of {wanted}", error.summary()));
                }
            }
            (Ok(_), Some(wanted)) => failures.push(format!("{name}: accepted, wanted {wanted}")),
            (Err(error), None) => {
                failures.push(format!("{name}: {} but the reference decodes it", error.summary()))
            }
        }
        for notice in cx.notices.list().iter().filter(|notice| notice.severity == Severity::Refuse)
        {
            let env = vector["env"].get(notice.env_name()).and_then(Value::as_str);
            let expected = if notice.refused(env) { notice.refusal() } else { notice.message() };
            if !stderr.contains(&expected) {
                failures.push(format!("{name}: {expected} is not in {stderr}"));
            }
        }
    }
    println!("{done} vectors, {skipped} of types that only plugins know");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(done > 50, "only {done} vectors were tried");
}

/// Corners that the vectors leave out, recorded with the reference's `format`: syntax, repeated keys, passes of decoding,
/// addresses, durations, marks, old DNS servers, records. `data/decode.jsonl` holds one case a line.
#[test]
fn corners_are_the_references() {
    let mut failures = Vec::new();
    for case in read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decode.jsonl")) {
        let config = case["config"].as_str().unwrap_or("");
        let mut cx = Context::default();
        let got = match decode(config, &mut cx).expect("no case needs a real plugin") {
            Ok(value) => pretty(&value),
            Err(error) => error.message.strip_prefix("decode config at ").map_or_else(
                || error.summary().replacen("config.json", "g.json", 1),
                // A syntax error, which carries its file in the message.
                |rest| format!("decode config at {}", rest.replacen("config.json", "g.json", 1)),
            ),
        };
        let warnings: Vec<Value> =
            cx.notices.list().iter().map(|notice| notice.message().into()).collect();
        match (case["output"].as_str(), case["error"].as_str()) {
            (Some(output), _) if output.trim_end() != got.trim_end() => {
                failures.push(format!("{config}: {got} instead of {output}"));
            }
            (_, Some(error)) if error != got.trim_end() => {
                failures.push(format!("{config}: {got} instead of {error}"));
            }
            (Some(_), _)
                if warnings != case["warnings"].as_array().cloned().unwrap_or_default() =>
            {
                failures.push(format!("{config}: warned {warnings:?}"));
            }
            _ => {}
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
