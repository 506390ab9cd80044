//! Sections that decode but that this build cannot do yet: a clear error, never silence.

use crosspoint_schema::ConfigError;

use super::Decoded;

/// The switches of `crosspoint.compat` that this build knows.
const COMPAT: &[&str] = &[
    crosspoint_router::DNS_ENDS_SNIFFING,
    crosspoint_rules::RULE_SET_FLAG_LEAK,
    crosspoint_rules::HEADLESS_QUERY_TYPE,
];

/// Refuses the first section that would be ignored.
pub(super) fn refuse(decoded: &Decoded) -> Result<(), ConfigError> {
    let config = &decoded.config;
    let not_built = |path: &str, what: &str| {
        Err(ConfigError::create(path, format!("{what} is not in this build")))
    };
    if config.ntp.as_ref().is_some_and(|ntp| ntp.enabled) {
        return not_built("ntp", "the NTP client");
    }
    let compat = config.crosspoint.iter().flat_map(|own| own.compat.iter());
    if let Some(unknown) = compat.into_iter().find(|name| !COMPAT.contains(&name.as_str())) {
        let message = format!("unknown compatibility switch: {unknown}");
        return Err(ConfigError::new("crosspoint.compat", message)
            .hint(format!("this build knows {}", COMPAT.join(", "))));
    }
    let Some(experimental) = &config.experimental else { return Ok(()) };
    if experimental.clash_api.is_some() {
        return not_built("create clash-server", "the Clash API");
    }
    if experimental.v2ray_api.as_ref().is_some_and(|api| !api.listen.is_empty()) {
        return not_built("create v2ray-server", "the V2Ray API");
    }
    // Settings of the Go runtime have no meaning here; the debug server and the memory limit would.
    if let Some(debug) = &experimental.debug {
        if !debug.listen.is_empty() {
            return not_built("experimental.debug.listen", "the debug server");
        }
        if debug.memory_limit.is_some() || debug.oom_killer == Some(true) {
            return not_built("experimental.debug.memory_limit", "the memory limit");
        }
    }
    Ok(())
}
