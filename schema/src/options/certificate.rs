//! The certificates that are trusted.

use crate::decode::Listable;
use crate::{options, string_enum};

options! {
    /// Trusted certificate authorities; unknown members pass.
    pub struct CertificateOptions ("option._CertificateOptions") loose {
        /// Where to start from: `system` (default), `mozilla` or `none`.
        pub store: CertificateStore = "store",
        /// Certificates in PEM, line by line.
        pub certificate: Listable<String> = "certificate",
        /// Files of certificates in PEM; watched.
        pub certificate_path: Listable<String> = "certificate_path",
        /// Directories of certificate files in PEM; watched.
        pub certificate_directory_path: Listable<String> = "certificate_directory_path",
    }
}

/// `certificate.store`: any word decodes, an unknown one is refused when the store is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CertificateStore {
    /// The system's.
    #[default]
    System,
    /// Mozilla's list.
    Mozilla,
    /// Nothing.
    None,
    /// A word that is none of these.
    Unknown(String),
}

string_enum! {
    /// The words of `certificate.store`.
    enum StoreWord: "unknown certificate store: " {
        /// The system's.
        System = "" | "system",
        /// Mozilla's list.
        Mozilla = "mozilla",
        /// Nothing.
        None = "none",
    }
}

impl crate::Field for CertificateStore {
    fn absent() -> Self {
        Self::System
    }

    fn decode(cursor: &crate::decode::Cursor<'_>) -> Result<Self, crate::ConfigError> {
        let word = cursor.string()?;
        Ok(match StoreWord::from_word(word) {
            Some(StoreWord::System) => Self::System,
            Some(StoreWord::Mozilla) => Self::Mozilla,
            Some(StoreWord::None) => Self::None,
            None => Self::Unknown(word.to_owned()),
        })
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::System => "system".into(),
            Self::Mozilla => "mozilla".into(),
            Self::None => "none".into(),
            Self::Unknown(word) => word.as_str().into(),
        }
    }

    fn go_type() -> std::borrow::Cow<'static, str> {
        "string".into()
    }

    fn schema(builder: &mut crate::SchemaBuilder) -> serde_json::Value {
        StoreWord::schema(builder)
    }
}
