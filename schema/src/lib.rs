//! The configuration of Crosspoint: the reference's JSON dialect with the place of every value, the option blocks that
//! components share, errors with path, file, line and column, and a JSON Schema made from the same declarations.
//!
//! A plugin declares its options with [`options!`] and reads them with [`RawOptions::parse`].

pub mod component;
mod config;
pub mod decode;
mod error;
pub mod json;
pub mod json_schema;
pub mod notice;
pub mod options;

pub use component::{Kind, RawComponent, RawOptions};
pub use config::Config;
pub use decode::{Context, Field, Options, Secret};
pub use error::{ConfigError, Stage};
pub use json_schema::SchemaBuilder;
pub use notice::{Deprecation, Notices};

#[doc(hidden)]
pub use serde_json;
