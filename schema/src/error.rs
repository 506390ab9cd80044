//! The one error of this crate's decoding.

use std::fmt;

use crate::json::Location;

/// At which step of reading a configuration an error belongs; the reference reports an earlier step first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The text does not decode: `decode config at FILE: PATH: cause`.
    Decode,
    /// Decoded, but a part cannot be made from it: `initialize inbound[0]: cause`. The string is `inbound[0]`, without
    /// the word before.
    Initialize(String),
    /// Like [`Stage::Initialize`] with a prefix that stands as it is, e.g. `create clash-server`.
    Create(String),
    /// Found by our `check`, and by the reference only at start: `start service: cause`.
    Start,
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The step it belongs to.
    pub stage: Stage,
    /// The JSON path, `inbounds[0].listen_port`; empty for an error of the whole.
    pub path: String,
    /// The cause in the reference's words where it has any.
    pub message: String,
    /// File, line and column, if the value came from a file.
    pub location: Option<Box<Location>>,
    /// Help, e.g. ``did you mean `listen_port`?``.
    pub hint: Option<String>,
}

impl ConfigError {
    /// A decode error without a place; the caller adds what it knows.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            stage: Stage::Decode,
            path: path.into(),
            message: message.into(),
            location: None,
            hint: None,
        }
    }

    /// An error in making the part that `prefix` names, e.g. `inbound[0]` or `router: parse rule[0]`.
    pub fn initialize(prefix: impl Into<String>, message: impl Into<String>) -> Self {
        Self { stage: Stage::Initialize(prefix.into()), ..Self::new("", message) }
    }

    /// An error with a prefix of its own, e.g. `create clash-server`.
    pub fn create(prefix: impl Into<String>, message: impl Into<String>) -> Self {
        Self { stage: Stage::Create(prefix.into()), ..Self::new("", message) }
    }

    /// An error that the reference finds only at start.
    pub fn start(message: impl Into<String>) -> Self {
        Self { stage: Stage::Start, ..Self::new("", message) }
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, location: Option<Location>) -> Self {
        self.location = location.map(Box::new);
        self
    }

    /// Adds the JSON path.
    #[must_use]
    pub fn in_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Adds help.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this error is one of decoding, which comes before all others.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.stage == Stage::Decode
    }

    /// `PATH: cause`, or only the cause where there is no path: the form inside a list of alternatives.
    #[must_use]
    pub fn relative(&self) -> String {
        if self.path.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.path, self.message)
        }
    }

    /// The first line alone: what the reference prints after `FATAL[0000] `.
    #[must_use]
    pub fn summary(&self) -> String {
        match &self.stage {
            Stage::Decode => match &self.location {
                Some(location) => {
                    format!("decode config at {}: {}", location.file, self.relative())
                }
                None => format!("decode config: {}", self.relative()),
            },
            Stage::Initialize(part) => format!("initialize {part}: {}", self.message),
            Stage::Create(prefix) => format!("{prefix}: {}", self.message),
            Stage::Start => format!("start service: {}", self.message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        if let Some(location) = &self.location {
            write!(f, "\n  --> {location}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
