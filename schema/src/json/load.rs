//! Reading the files that `-c` and `-C` name.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Config, ConfigError, Context};

use super::merge::forget_repeated;
use super::{MergeError, Node, Sources, SyntaxError, merge, parse_source};

/// Why a configuration could not be read. The wording is the reference's.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("read config at {path}: {}", open_error(path, error))]
    Read {
        /// The path as given.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A directory cannot be listed.
    #[error("read config directory at {path}: {}", open_error(path, error))]
    Directory {
        /// The path as given.
        path: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A file is not JSON.
    #[error("decode config at {path}: {error}")]
    Syntax {
        /// The path as given.
        path: String,
        /// What is wrong where.
        error: SyntaxError,
    },
    /// One of several files does not decode by itself.
    #[error("{0}")]
    Config(#[from] Box<ConfigError>),
    /// Two files do not fit together.
    #[error("merge config at {path}: {error}")]
    Merge {
        /// The later file.
        path: String,
        /// What does not fit.
        error: MergeError,
    },
    /// No file was given or found.
    #[error("unmarshal merged config: EOF")]
    Nothing,
}

/// A system error as Go prints it.
fn open_error(path: &str, error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let lower: String =
        chars.next().into_iter().flat_map(char::to_lowercase).chain(chars).collect();
    if path == "stdin" { lower } else { format!("open {path}: {lower}") }
}

/// What to read, and how.
pub struct Loader<'a> {
    /// Files of `-c`; `stdin` reads the standard input.
    pub files: Vec<String>,
    /// Directories of `-C`, of which every `*.json` directly inside is read.
    pub directories: Vec<String>,
    /// Gives the standard input when a file is called `stdin`.
    pub stdin: &'a mut dyn FnMut() -> io::Result<Vec<u8>>,
}

/// A configuration that was read but not decoded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// All files, for locations.
    pub sources: Sources,
    /// Each file by itself, in the order of merging.
    pub files: Vec<(String, Node)>,
    /// All files merged.
    pub root: Node,
}

impl Loaded {
    /// A configuration from one text in memory.
    ///
    /// # Errors
    /// A violation of the syntax.
    pub fn from_text(name: &str, text: &str) -> Result<Self, LoadError> {
        let mut sources = Sources::new();
        let root = parse_source(&mut sources, name, text)
            .map_err(|error| LoadError::Syntax { path: name.to_owned(), error })?;
        Ok(Self { sources, files: vec![(name.to_owned(), root.clone())], root })
    }
}

impl Loader<'_> {
    /// Reads all files, then merges them sorted by path. Several files are decoded one by one before, except for the
    /// options that only plugins know.
    ///
    /// # Errors
    /// A file that cannot be read, parsed or decoded, or files that contradict each other in kind.
    pub fn load(self) -> Result<Loaded, LoadError> {
        let mut sources = Sources::new();
        let mut files = Vec::new();
        for path in &self.files {
            let bytes = if path == "stdin" { (self.stdin)() } else { std::fs::read(path) };
            files.push(parse_bytes(&mut sources, path, bytes)?);
        }
        for directory in &self.directories {
            for path in list(directory)? {
                let name = path.to_string_lossy().into_owned();
                files.push(parse_bytes(&mut sources, &name, std::fs::read(&path))?);
            }
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        if files.len() > 1 {
            // Each file must stand by itself, so that a mistake is told with its place and not as a conflict of files.
            let cx = Context::new(sources.clone());
            for (_, node) in &files {
                Config::decode(node, &cx).map_err(Box::new)?;
            }
        }
        let mut rest = files.iter();
        let mut root = rest.next().ok_or(LoadError::Nothing)?.1.clone();
        if files.len() > 1 {
            forget_repeated(&mut root);
        }
        for (path, node) in rest {
            let mut node = node.clone();
            forget_repeated(&mut node);
            merge(&mut root, node)
                .map_err(|error| LoadError::Merge { path: path.clone(), error })?;
        }
        Ok(Loaded { sources, files, root })
    }
}

fn parse_bytes(
    sources: &mut Sources,
    path: &str,
    bytes: io::Result<Vec<u8>>,
) -> Result<(String, Node), LoadError> {
    let bytes = bytes.map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    // Go replaces what is not UTF-8, inside strings at least; elsewhere it is a syntax error all the same.
    let text = String::from_utf8_lossy(&bytes);
    let node = parse_source(sources, path, &text)
        .map_err(|error| LoadError::Syntax { path: path.to_owned(), error })?;
    Ok((path.to_owned(), node))
}

fn list(directory: &str) -> Result<Vec<PathBuf>, LoadError> {
    let fail = |error| LoadError::Directory { path: directory.to_owned(), error };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(Path::new(directory)).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let is_json = entry.file_name().to_string_lossy().ends_with(".json");
        if is_json && !entry.file_type().map_err(fail)?.is_dir() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}
