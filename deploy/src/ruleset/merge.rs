//! `rule-set merge`: one source file of several.

use std::{path::Path, process::ExitCode};

use crosspoint_rules::format::source;
use crosspoint_schema::{
    Context,
    decode::Cursor,
    json::{Node, Value, merge},
    options::RuleSetFile,
};

use super::read;
use crate::{Fatal, cli::Global, files, words};

struct Entry {
    path: String,
    node: Node,
    file: RuleSetFile,
}

/// Appends the rules of all files, sorted by path. The highest version is that of the result.
pub(super) fn run(global: Global, output: &str) -> Result<ExitCode, Fatal> {
    let mut entries = Vec::new();
    for path in global.config {
        entries.push(entry(path)?);
    }
    for directory in &global.config_directory {
        for path in list(directory)? {
            entries.push(entry(path)?);
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let text = source::text(&join(entries)?);
    files::write_with_parents(Path::new(output), &text)?;
    eprintln!("{}", files::absolute(output));
    Ok(ExitCode::SUCCESS)
}

fn entry(path: String) -> Result<Entry, Fatal> {
    let bytes = read(&path).map_err(|error| format!("read config at {path}: {error}"))?;
    let (node, file) = source::decode(&path, &bytes)
        .map_err(|error| format!("decode config at {path}: {error}"))?;
    Ok(Entry { path, node, file })
}

/// The `*.json` files directly inside a directory.
fn list(directory: &str) -> Result<Vec<String>, Fatal> {
    let fail = |error: std::io::Error| {
        format!("read rule-set directory at {directory}: open {directory}: {}", words::os(&error))
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let json = entry.file_name().to_string_lossy().ends_with(".json");
        if json && !entry.file_type().map_err(fail)?.is_dir() {
            paths.push(entry.path().to_string_lossy().into_owned());
        }
    }
    paths.sort();
    Ok(paths)
}

fn join(entries: Vec<Entry>) -> Result<RuleSetFile, Fatal> {
    let mut entries = entries.into_iter();
    let first = entries.next().ok_or("unmarshal merged config: EOF")?;
    let Entry { mut node, file, .. } = first;
    let mut version = file.version;
    let rest: Vec<Entry> = entries.collect();
    if rest.is_empty() {
        return Ok(file);
    }
    last_only(&mut node);
    for mut entry in rest {
        version = version.max(entry.file.version);
        last_only(&mut entry.node);
        merge(&mut node, entry.node)
            .map_err(|error| format!("merge config at {}: {error}", entry.path))?;
    }
    // Each file decoded by itself; of the whole, an error has no one place.
    let cx = Context::default();
    let mut file = RuleSetFile::decode(&Cursor::new(&node, "", &cx))
        .map_err(|error| format!("unmarshal merged config: {}", error.relative()))?;
    file.version = version;
    Ok(file)
}

/// Keeps the last value of repeated keys, as the reference does before it merges.
fn last_only(node: &mut Node) {
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(last_only),
        Value::Object(object) => {
            for member in &mut object.members {
                member.earlier.clear();
                last_only(&mut member.value);
            }
        }
        _ => {}
    }
}
