//! What the specs of this crate share.

use std::sync::Arc;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::{BuildCx, Spec};
use crosspoint_kernel::error::Side;
use crosspoint_kernel::ledger::Cut;
use crosspoint_kernel::{BuildError, DialError};
use crosspoint_schema::options::ServerOptions;
use crosspoint_schema::{ConfigError, RawOptions};

/// Reports what is wrong with decoded options at the component that has them.
pub(crate) fn check(
    raw: &RawOptions<'_>,
    key: &str,
    result: Result<(), BuildError>,
) -> Result<(), ConfigError> {
    result.map_err(|error| raw.invalid_at(key, error.to_string()))
}

/// Like [`check`], for what the reference finds only at start.
pub(crate) fn at_start(
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
#[expect(clippy::unnecessary_wraps, reason = "ends every `parse`")]
pub(crate) fn done(spec: impl Spec) -> Result<Arc<dyn Spec>, ConfigError> {
    Ok(Arc::new(spec))
}

/// The server that an outbound connects to.
pub(crate) fn server(options: &ServerOptions) -> Target {
    Target::new(options.server.as_str(), options.server_port)
}

/// An error of the dial to the proxy itself and not to what lies behind it.
pub(crate) fn to_proxy(mut error: DialError) -> DialError {
    if error.side == Side::Target {
        error.side = Side::Proxy;
    }
    error
}

/// Ends the flows of an inbound's users whom `stays` does not know. Flows of nobody in particular end as well: they were
/// let in when nobody had to say who they are.
pub(crate) fn cut_strangers(cx: &BuildCx, stays: impl Fn(&str) -> bool) {
    let me = &cx.me;
    cx.plane.ledger.cut_where(Cut::Revoked, |entry| {
        let mine = entry.inbound.kind == me.kind && entry.inbound.tag == me.tag;
        mine && !entry.user.as_deref().is_some_and(&stays)
    });
}
