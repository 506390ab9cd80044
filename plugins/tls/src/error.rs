//! Options that no TLS can be made of.

use std::{fmt, io, path::Path};

use crosspoint_kernel::BuildError;

/// Options that no TLS can be made of, in the words of the reference where it has some.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// They are wrong.
    #[error("{0}")]
    Options(String),
    /// They ask for what this build lacks; the message names it.
    #[error("{0} is not in this build")]
    NotInBuild(String),
    /// A file that they name cannot be read.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
}

impl TlsError {
    /// Wrong options.
    pub(crate) fn options(message: impl fmt::Display) -> Self {
        Self::Options(message.to_string())
    }

    /// Something that this build lacks.
    pub(crate) fn lacks(what: &str) -> Self {
        Self::NotInBuild(what.to_owned())
    }

    /// A file that cannot be read: `read key: open PATH: no such file or directory`.
    pub(crate) fn file(what: &str, path: &Path, source: io::Error) -> Self {
        let what = if what.is_empty() { String::new() } else { format!("{what}: ") };
        let text = source.to_string();
        let bare = text.split(" (os error ").next().unwrap_or(&text);
        let bare = if source.raw_os_error().is_some() { bare.to_lowercase() } else { bare.into() };
        let source = io::Error::new(source.kind(), bare);
        Self::Io { what: format!("{what}open {}", path.display()), source }
    }
}

impl From<TlsError> for BuildError {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Options(message) => Self::Options(message),
            TlsError::NotInBuild(what) => Self::NotInBuild(what),
            TlsError::Io { what, source } => Self::Io { what, source },
        }
    }
}
