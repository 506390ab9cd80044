//! Tells the program which compiler made it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by packaging; a commit must not recompile the program of a developer.
    println!("cargo::rerun-if-env-changed=CROSSPOINT_REVISION");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = text.unwrap_or_default();
    let version = version.split(' ').nth(1).unwrap_or("unknown");
    println!("cargo::rustc-env=CROSSPOINT_RUSTC=rust{version}");
}
