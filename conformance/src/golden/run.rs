//! Runs vectors against a subject, a process each, as many at a time as there are processors.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use super::locus::locus;
use super::{Command, Vector, dir};
use crate::subject::Subject;

/// What a program made of a configuration.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exit code; -1 when a signal ended it.
    pub exit: i32,
    /// Place of the error, see [`locus`]; empty on success.
    pub locus: String,
    /// The canonical form, where it was asked for and printed.
    pub canonical: Option<Value>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Outcome {
    pub(super) fn new(exit: i32, stderr: String, canonical: Option<Value>) -> Self {
        // A warning of a run that succeeds has no place.
        let locus = if exit == 0 { String::new() } else { locus(&stderr) };
        Self { exit, locus, canonical, stderr }
    }

    /// How `self` differs from the recorded verdict, in one line; `None` when it does not.
    pub fn difference(&self, recorded: &Outcome) -> Option<String> {
        if self.exit != recorded.exit {
            return Some(format!("exit {} -> {}", recorded.exit, self.exit));
        }
        if self.locus != recorded.locus {
            return Some(format!("locus '{}' -> '{}'", recorded.locus, self.locus));
        }
        let (Some(ours), Some(theirs)) = (&self.canonical, &recorded.canonical) else {
            return (self.canonical != recorded.canonical).then(|| "no canonical form".to_owned());
        };
        first_difference("", theirs, ours).map(|what| format!("canonical {what}"))
    }
}

/// The first place, in document order, where two JSON values differ. The order of members is no
/// difference.
fn first_difference(at: &str, theirs: &Value, ours: &Value) -> Option<String> {
    match (theirs, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let at = format!("{at}/{key}");
                match b.get(key) {
                    Some(other) => {
                        if let Some(found) = first_difference(&at, value, other) {
                            return Some(found);
                        }
                    }
                    None => return Some(format!("{at}: {value} -> nothing")),
                }
            }
            let extra = b.iter().find(|(key, _)| !a.contains_key(*key));
            extra.map(|(key, value)| format!("{at}/{key}: nothing -> {value}"))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(i, (x, y))| first_difference(&format!("{at}/{i}"), x, y)),
        _ => (theirs != ours).then(|| format!("{at}: {theirs} -> {ours}")),
    }
}

/// The outcome of every vector, in order.
///
/// # Errors
/// When the subject cannot be executed or its directory not be prepared.
pub fn run_all(subject: &Subject, vectors: &[Vector]) -> Result<Vec<Outcome>> {
    subject.binary()?;
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(vectors.len()));
    let work = || -> Result<()> {
        let home = tempfile::Builder::new().prefix("cp-golden-").tempdir()?;
        for file in ["c.pem", "k.pem"] {
            std::fs::copy(dir().join(file), home.path().join(file))
                .with_context(|| format!("copy {file} of the vectors"))?;
        }
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(vector) = vectors.get(index) else { return Ok(()) };
            let outcome = run_one(subject, vector, home.path())
                .with_context(|| format!("vector {}", vector.name))?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

fn run_one(subject: &Subject, vector: &Vector, home: &Path) -> Result<Outcome> {
    std::fs::write(home.join("config.json"), &vector.config)?;
    let args = [vector.command.name(), "-c", "config.json", "--disable-color"];
    let output = subject.run_cli(home, args, &vector.env)?;
    let exit = output.status.code().unwrap_or(-1);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let canonical = match vector.command {
        Command::Format if exit == 0 => {
            let text = String::from_utf8_lossy(&output.stdout);
            Some(serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned())))
        }
        _ => None,
    };
    Ok(Outcome::new(exit, stderr, canonical))
}
