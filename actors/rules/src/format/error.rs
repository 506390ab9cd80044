//! What can be wrong with a file.

use crosspoint_schema::{ConfigError, json::SyntaxError};

/// Why bytes are not a file of their format, or rules cannot be written in it.
///
/// Texts begin with the reference's words; the place comes behind them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes break the format.
    #[error("{message} (byte {at})")]
    Malformed {
        /// What is wrong.
        message: String,
        /// Offset of the offending byte; behind compression, in the inflated data.
        at: usize,
    },
    /// Nothing that has one place.
    #[error("{0}")]
    Message(String),
    /// A source file is no JSON.
    #[error("{0}")]
    Syntax(#[from] SyntaxError),
    /// A source file is JSON, but no rule-set.
    #[error("{}", place(.0))]
    Source(#[from] Box<ConfigError>),
}

impl FormatError {
    /// An error at an offset.
    pub(super) fn at(at: usize, message: impl Into<String>) -> Self {
        Self::Malformed { message: message.into(), at }
    }

    /// The same error, told to be inside `part`.
    #[must_use]
    pub(super) fn within(self, part: impl std::fmt::Display) -> Self {
        match self {
            Self::Malformed { message, at } => {
                Self::Malformed { message: format!("{part}: {message}"), at }
            }
            Self::Message(message) => Self::Message(format!("{part}: {message}")),
            other => other,
        }
    }
}

impl From<String> for FormatError {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

/// `PATH: cause` with line and column, without the words that belong to configurations.
fn place(error: &ConfigError) -> String {
    let mut text = error.relative();
    if let Some(location) = &error.location {
        text.push_str(&format!("\n  --> {location}"));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}
