//! Tells the program which compiler made it, and has its relocations packed.

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
    // A position-independent program of this size has a megabyte of relocations, read once at start and resident from
    // then on; packed (DT_RELR) they are a twentieth. The C library must know them: glibc from 2.36 on.
    if glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The C library that a program for the machine we build on will use; `None` where it is another one, or another
/// machine.
fn glibc() -> Option<(u32, u32)> {
    let (host, target) = (std::env::var("HOST").ok()?, std::env::var("TARGET").ok()?);
    if host != target || !target.ends_with("-linux-gnu") {
        return None;
    }
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
