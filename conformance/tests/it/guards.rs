//! What the architecture promises of the workspace itself: import directions, licences, sizes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::loud;
use crosspoint_conformance::workspace::{files, root};
use serde_json::Value;

/// A crate may import crates of a lower rank only. Ranks that may import their own kind, such as
/// one engine another, are listed in [`SIDEWAYS`].
fn rank(folder: &str) -> Option<u8> {
    Some(match folder {
        "schema" => 0,
        "kernel" => 1,
        "plugins/layers" | "plugins/netstack" | "plugins/tls" | "plugins/tundev" => 2,
        "plugins/all" => 4,
        "deploy" => 5,
        "conformance" => 6,
        "benches" => 7,
        _ if folder.starts_with("actors/") => 2,
        _ if folder.starts_with("plugins/") => 3,
        _ => return None,
    })
}

/// Ranks inside which crates may import each other: engines, and TLS with the layers under it.
const SIDEWAYS: [u8; 1] = [2];

/// Licences of dependencies; the same list as in `.deny.toml`.
const LICENCES: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// What may stand at the top besides files that begin with a dot.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "actors",
    "benches",
    "conformance",
    "deploy",
    "kernel",
    "plugins",
    "schema",
];

/// Where `unsafe` may stand: the byte path, TUN, and helpers that set socket options.
const UNSAFE: [&str; 4] =
    ["kernel/src/relay/", "kernel/src/net/sockopt", "kernel/src/net/udp/sys.rs", "plugins/tun/"];

/// Files longer than this are cut up; `SOFT` only a few may pass.
const HARD_LINES: usize = 1000;
const SOFT_LINES: usize = 600;

fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .context("start cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The crates that need a crate in what is built; none if it is not built. The metadata also lists crates that are only named
/// behind an optional dependency (`ring?/std`).
fn needed_by(name: &str) -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--workspace", "--quiet", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--prefix", "none", "--depth", "1", "--invert", name])
        .current_dir(root())
        .output()
        .context("start cargo")?;
    let unknown = String::from_utf8_lossy(&output.stderr).contains("did not match any packages");
    ensure!(output.status.success() || unknown, "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.skip(1).map(str::to_owned).collect())
}

/// Name → (folder under the root, names of direct dependencies) of every crate of the workspace.
fn members(metadata: &Value) -> BTreeMap<String, (String, Vec<String>)> {
    let mut members = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !package["source"].is_null() {
            continue;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let manifest = text(&package["manifest_path"]);
        let folder = Path::new(&manifest).parent().and_then(|dir| dir.strip_prefix(root()).ok());
        let folder = folder.map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let names = dependencies.map(|dependency| text(&dependency["name"])).collect();
        members.insert(text(&package["name"]), (folder, names));
    }
    members
}

#[test]
fn imports_run_one_way() -> Result<()> {
    let members = members(&metadata()?);
    ensure!(members.len() > 5, "only {} crates were read", members.len());
    let mut wrong = Vec::new();
    for (name, (folder, dependencies)) in &members {
        let Some(own) = rank(folder) else {
            wrong.push(format!("{name} stands in {folder}, which has no rank"));
            continue;
        };
        for dependency in dependencies {
            let Some((other, _)) = members.get(dependency) else { continue };
            let theirs = rank(other).unwrap_or(u8::MAX);
            let sideways = theirs == own && SIDEWAYS.contains(&own);
            if theirs >= own && !sideways {
                wrong.push(format!("{folder} imports {other}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "imports against the direction:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn frameworks_stay_where_they_belong() -> Result<()> {
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    for (name, (folder, dependencies)) in members(&metadata) {
        for dependency in dependencies {
            let allowed = match dependency.as_str() {
                "ractor" => folder == "kernel" || folder.starts_with("actors/"),
                "rustls" | "tokio-rustls" => {
                    folder == "plugins/tls" || folder.starts_with("plugins/quic")
                }
                // Errors of a library have types; these are for programs and tests.
                "anyhow" => ["deploy", "conformance", "benches"].contains(&folder.as_str()),
                _ => true,
            };
            if !allowed {
                wrong.push(format!("{name} imports {dependency}"));
            }
        }
    }
    for file in files(&root().join("kernel/src"), "rs") {
        let path = relative(&file);
        let text = std::fs::read_to_string(&file)?;
        let uses = text.lines().any(|line| line.contains("ractor::") && !is_comment(line));
        if uses && !path.starts_with("kernel/src/supervise") {
            wrong.push(format!("{path} uses ractor outside kernel::supervise"));
        }
    }
    for name in ["ring", "openssl", "openssl-sys", "native-tls"] {
        for user in needed_by(name)? {
            // boringtun brings it along for the data of WireGuard and knows no other.
            if (name, user.as_str()) != ("ring", "boringtun") {
                wrong.push(format!("{name} is in the tree for {user}; cryptography is aws-lc-rs"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn licences_are_permissive() -> Result<()> {
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(expression) if permitted(expression) => {}
            Some(expression) => wrong.push(format!("{name}: {expression}")),
            None => wrong.push(format!("{name}: no licence expression")),
        }
    }
    ensure!(wrong.is_empty(), "licences to look at:\n{}", wrong.join("\n"));
    Ok(())
}

/// Whether an SPDX expression leaves a choice from [`LICENCES`]. `OR` is enough with one good
/// side, `AND` needs both; `/` is the old way to write `OR`.
fn permitted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let joined = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    // WITH binds tighter than anything: make it part of the name.
    let joined = joined.replace(" WITH ", "+WITH+");
    let tokens: Vec<&str> = joined.split(' ').collect();
    let mut rest = tokens.as_slice();
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(tokens: &mut &[&str]) -> bool {
    let mut good = all_of(tokens);
    while let [first, rest @ ..] = tokens
        && *first == "OR"
    {
        *tokens = rest;
        good |= all_of(tokens);
    }
    good
}

fn all_of(tokens: &mut &[&str]) -> bool {
    let mut good = single(tokens);
    while let [first, rest @ ..] = tokens
        && *first == "AND"
    {
        *tokens = rest;
        good &= single(tokens);
    }
    good
}

fn single(tokens: &mut &[&str]) -> bool {
    let Some((first, rest)) = tokens.split_first() else { return false };
    *tokens = rest;
    if *first != "(" {
        return LICENCES.contains(&first.replace("+WITH+", " WITH ").as_str());
    }
    let good = any_of(tokens);
    let Some((&")", rest)) = tokens.split_first() else { return false };
    *tokens = rest;
    good
}

#[test]
fn licence_expressions_are_understood() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0 OR (MIT AND ISC)",
        "MIT/Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "ISC AND (Apache-2.0 OR ISC) AND MIT",
    ] {
        assert!(permitted(good), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "", "(MIT"] {
        assert!(!permitted(bad), "{bad}");
    }
}

#[test]
fn files_are_short_and_finished() -> Result<()> {
    let unfinished = [concat!("to", "do!("), concat!("unimpl", "emented!("), concat!("db", "g!(")];
    let mut wrong = Vec::new();
    let (mut lengths, mut long) = (Vec::new(), Vec::new());
    for file in files(root(), "rs") {
        let path = relative(&file);
        let text = std::fs::read_to_string(&file)?;
        let lines = text.lines().count();
        lengths.push(lines);
        if lines > HARD_LINES {
            wrong.push(format!("{path} has {lines} lines"));
        } else if lines > SOFT_LINES {
            long.push(format!("{path} ({lines})"));
        }
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
            let number = number + 1;
            if unfinished.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{path}:{number} is unfinished: {}", line.trim()));
            }
            let unsafe_code = ["unsafe {", "unsafe fn", "unsafe impl"];
            if unsafe_code.iter().any(|word| line.contains(word))
                && !line.contains('"')
                && !UNSAFE.iter().any(|allowed| path.starts_with(allowed))
            {
                wrong.push(format!("{path}:{number} is unsafe outside its places"));
            }
        }
    }
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
    loud::line(&format!(
        "FILES    {} .rs files, median {median} lines, {} over {SOFT_LINES}: {}",
        lengths.len(),
        long.len(),
        long.join(" ")
    ));
    ensure!(median <= 200, "the median file has {median} lines");
    ensure!(long.len() * 20 <= lengths.len(), "more than one in twenty files is over {SOFT_LINES}");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_top_level_is_fixed() -> Result<()> {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && name != "target" && !TOP_LEVEL.contains(&name.as_str()) {
            wrong.push(name);
        }
    }
    ensure!(wrong.is_empty(), "not in the architecture: {}", wrong.join(", "));
    Ok(())
}

#[test]
fn no_registry_is_named() -> Result<()> {
    // The ordinary clients know where they go; a mirror is set in their own configuration.
    let hosts = [
        ["pypi", "org"],
        ["pythonhosted", "org"],
        ["npmjs", "org"],
        ["proxy.golang", "org"],
        ["static.crates", "io"],
        ["index.crates", "io"],
    ]
    .map(|parts| parts.join("."));
    for extension in ["rs", "toml", "md", "sh", "json", "yml"] {
        for file in files(root(), extension) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(host) = hosts.iter().find(|host| text.contains(host.as_str())) {
                bail!("{} names {host}", relative(&file));
            }
        }
    }
    Ok(())
}

#[test]
fn cargo_deny_agrees() -> Result<()> {
    let config = std::fs::read_to_string(root().join(".deny.toml")).context("read .deny.toml")?;
    for licence in LICENCES {
        ensure!(config.contains(&format!("\"{licence}\"")), ".deny.toml does not allow {licence}");
    }
    for (name, (_, dependencies)) in members(&metadata()?) {
        let actor = dependencies.iter().any(|dependency| dependency == "ractor");
        let named = config.contains(&format!("\"{name}\""));
        ensure!(!actor || named, ".deny.toml does not list {name} as a wrapper of ractor");
    }
    let installed = Command::new("cargo").args(["deny", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        loud::not_run("cargo_deny_agrees", "cargo-deny is not installed");
        return Ok(());
    }
    let output = Command::new("cargo")
        .args(["deny", "--config", ".deny.toml", "check", "bans", "licenses", "sources"])
        .current_dir(root())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).to_string_lossy().into_owned()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}
