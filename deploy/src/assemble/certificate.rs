//! The `certificate` section: whom every client trusts whose options name nobody.

use std::sync::Arc;

use crosspoint_schema::{ConfigError, options::CertificateOptions};
use crosspoint_tls::{Plan, Store};

/// Reads the section.
///
/// # Errors
/// The store has an unknown name, or a file or text holds no certificate.
pub(super) fn plan(options: Option<&CertificateOptions>) -> Result<Arc<Plan>, ConfigError> {
    let plan = Plan::new(options.unwrap_or(&CertificateOptions::default()));
    plan.map(Arc::new).map_err(|error| {
        let text = error.to_string();
        let (prefix, message) = text.split_once(": ").unwrap_or(("certificate", &text));
        ConfigError::create(prefix, message).in_path("certificate")
    })
}

/// Puts the first plan of this process in force at once, because components that are being built may ask servers;
/// all others at commit.
pub(super) fn first(plan: &Arc<Plan>) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| Store::process().install(plan.clone()));
}

/// Puts a plan in force.
pub(super) fn install(plan: Arc<Plan>) {
    Store::process().install(plan);
}
