//! What `version` prints.

use std::fmt::Write;

use crosspoint_kernel::plugin::registry;

/// Version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The text of `version`, in the shape of the reference's; as tags, the component types of this build.
pub(crate) fn text(name_only: bool) -> String {
    if name_only {
        return format!("{VERSION}\n");
    }
    let mut types: Vec<_> = registry().keys().map(|(_, type_name)| *type_name).collect();
    types.sort_unstable();
    types.dedup();
    let mut text = format!("crosspoint version {VERSION}\n\n");
    // Writing into memory cannot fail.
    let _ = writeln!(text, "Environment: {} {}/{}", env!("CROSSPOINT_RUSTC"), os(), arch());
    if !types.is_empty() {
        let _ = writeln!(text, "Tags: {}", types.join(","));
    }
    if let Some(revision) = option_env!("CROSSPOINT_REVISION").filter(|text| !text.is_empty()) {
        let _ = writeln!(text, "Revision: {revision}");
    }
    text.push_str("CGO: disabled\n");
    text
}

/// Names as Go has them.
fn os() -> &'static str {
    std::env::consts::OS
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        other => other,
    }
}
