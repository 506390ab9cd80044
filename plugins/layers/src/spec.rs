//! What the specs of plugins share.

use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::Spec;
use crosspoint_kernel::error::Side;
use crosspoint_kernel::{BuildError, DialError};
use crosspoint_schema::options::ServerOptions;
use crosspoint_schema::{ConfigError, RawOptions};

/// Reports what is wrong with decoded options at the component that has them.
///
/// # Errors
/// `result`, with its place.
pub fn check(
    raw: &RawOptions<'_>,
    key: &str,
    result: Result<(), BuildError>,
) -> Result<(), ConfigError> {
    result.map_err(|error| raw.invalid_at(key, error.to_string()))
}

/// Like [`check`], for what the reference finds only at start.
///
/// # Errors
/// `result`, with its place.
pub fn at_start(
    raw: &RawOptions<'_>,
    key: &str,
    result: Result<(), BuildError>,
) -> Result<(), ConfigError> {
    result.map_err(|error| {
        let kind = raw.component().kind.name();
        let message = format!("start {kind}/{}[{}]: {error}", raw.type_name(), raw.label());
        let at = raw.location(Some(key)).or_else(|| raw.location(None));
        ConfigError::start(message).in_path(format!("{}.{key}", raw.component().path)).at(at)
    })
}

/// A parsed spec as the kernel takes it.
///
/// # Errors
/// Never.
pub fn done(spec: impl Spec) -> Result<Arc<dyn Spec>, ConfigError> {
    Ok(Arc::new(spec))
}

/// What a user is called in logs, rules and the ledger: by index without a name.
#[must_use]
pub fn user_name(index: usize, name: &str) -> Arc<str> {
    match name {
        "" => index.to_string().into(),
        name => name.into(),
    }
}

/// The server that an outbound connects to.
#[must_use]
pub fn server(options: &ServerOptions) -> Target {
    Target::new(options.server.as_str(), options.server_port)
}

/// An error of the dial to the proxy itself and not to what lies behind it.
#[must_use]
pub fn to_proxy(mut error: DialError) -> DialError {
    if error.side == Side::Target {
        error.side = Side::Proxy;
    }
    error
}
