//! HTTP/1.1 heads of the transports that begin with an upgrade: what both sides write and read, as the reference does.

mod ask;
mod fields;
pub mod parse;
mod serve;
pub mod uri;

pub(crate) use ask::{AskError, ask};
pub(crate) use fields::{Headers, emit_field, forwarded, is_own_field, name, source};
pub(crate) use serve::{Decision, date, serve, status_text};

use crosspoint_kernel::BuildError;

use self::uri::Path;

/// The path of an option, as clients ask for it.
pub(crate) fn path(text: &str) -> Result<Path, BuildError> {
    let path = Path::parse(text);
    Ok(path.map_err(|error| BuildError::options(format_args!("parse path: {error}")))?.absolute())
}

/// The path of an option, as servers expect it: not decoded.
pub(crate) fn server_path(text: &str) -> String {
    if text.starts_with('/') { text.to_owned() } else { format!("/{text}") }
}

/// A value that goes into a request as it is.
pub(crate) fn check_host(host: &str) -> Result<(), BuildError> {
    if host.is_empty() || host.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Err(BuildError::options(format_args!("no name of a host: {host:?}")));
    }
    Ok(())
}
