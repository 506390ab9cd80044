//! The two lists that excuse a vector: pending and deviations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Vectors whose types are not built yet, by `suite/name`, with what they wait for.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<String, String>);

impl Pending {
    /// Where the list is.
    pub fn path() -> PathBuf {
        workspace::conformance_dir().join("vectors").join("pending.txt")
    }

    /// Reads the list: a line `suite/name TAB what it waits for`; `#` begins a comment.
    ///
    /// # Errors
    /// When the file is missing or a line has no reason.
    pub fn load() -> Result<Self> {
        let path = Self::path();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut entries = BTreeMap::new();
        for line in lines(&text) {
            let Some((key, reason)) = line.split_once('\t') else {
                bail!("{}: no reason in {line:?}", path.display());
            };
            entries.insert(key.to_owned(), reason.to_owned());
        }
        Ok(Self(entries))
    }

    /// What the vector waits for, if it is listed.
    pub fn reason(&self, suite: &str, name: &str) -> Option<&str> {
        self.0.get(&format!("{suite}/{name}")).map(String::as_str)
    }

    /// The names listed for a suite.
    pub fn names(&self, suite: &str) -> BTreeSet<&str> {
        let prefix = format!("{suite}/");
        self.0.keys().filter_map(|key| key.strip_prefix(prefix.as_str())).collect()
    }

    /// Replaces the entries of one suite and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rewrite(suite: &str, entries: &[(String, String)]) -> Result<()> {
        // A list that is not there yet is an empty one.
        let mut all = Self::load().unwrap_or_default().0;
        all.retain(|key, _| !key.starts_with(&format!("{suite}/")));
        for (name, reason) in entries {
            all.insert(format!("{suite}/{name}"), reason.clone());
        }
        let mut text = String::from(
            "# Golden vectors whose types are not built yet: suite/name TAB what it waits for.\n\
             # An entry leaves this file with the commit that builds its type.\n\
             # CONFORMANCE_WRITE_PENDING=1 cargo test -p crosspoint-conformance golden\n",
        );
        for (key, reason) in all {
            text += &format!("{key}\t{reason}\n");
        }
        std::fs::write(Self::path(), text).context("write pending.txt")
    }
}

/// A difference from the reference that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// `check`, `format` or `proxy`.
    pub suite: String,
    /// The vector or scenario.
    pub name: String,
    /// The difference, word for word as the suite reports it.
    pub what: String,
    /// Why it is better so.
    pub reason: String,
}

/// Every intended difference.
#[derive(Debug, Default)]
pub struct Deviations(Vec<Deviation>);

impl Deviations {
    /// Where the list is.
    pub fn path() -> PathBuf {
        workspace::conformance_dir().join("deviations.tsv")
    }

    /// Reads the list: tab-separated suite, name, what, reason; `#` begins a comment.
    ///
    /// # Errors
    /// When the file is missing, or a line is not four fields that all say something.
    pub fn load() -> Result<Self> {
        let path = Self::path();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [suite, name, what, reason] = fields[..] else {
                bail!("{}: {line:?} is not four fields", path.display());
            };
            if fields.iter().any(|field| field.trim().is_empty()) {
                bail!("{}: an empty field in {line:?}", path.display());
            }
            let [suite, name, what, reason] = [suite, name, what, reason].map(str::to_owned);
            Ok(Deviation { suite, name, what, reason })
        };
        Ok(Self(lines(&text).map(parse).collect::<Result<_>>()?))
    }

    /// The entry for a vector or scenario.
    pub fn find(&self, suite: &str, name: &str) -> Option<&Deviation> {
        self.0.iter().find(|d| d.suite == suite && d.name == name)
    }

    /// The entries of a suite.
    pub fn of<'a>(&'a self, suite: &'a str) -> impl Iterator<Item = &'a Deviation> {
        self.0.iter().filter(move |d| d.suite == suite)
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
}
