//! `rule-set`, `geoip` and `geosite`: files of rules, without a daemon. Flags, outputs and exit codes are the
//! reference's (parity/cli.tsv).

pub mod args;
mod describe;
mod geo;
mod lookup;
mod merge;

use std::{io::Read, path::Path, process::ExitCode};

use crosspoint_rules::format::{self, FormatError, Rules, adguard, source, srs};
use crosspoint_schema::{json::Node, options::RuleSetFile};
use tracing::Level;

pub use args::{Geoip, Geosite, RuleSet};
pub(crate) use geo::{geoip, geosite};

use crate::{
    Fatal,
    cli::Global,
    files,
    logging::{self, Severity},
    print, words,
};
use args::{Compile, Convert, DEFAULT_BINARY, DEFAULT_SOURCE, Decompile, RuleSetCommand, Source};

/// The path that stands for the standard input.
const STDIN: &str = "stdin";

/// Runs a command of `rule-set`.
pub(crate) fn run(global: Global, args: &RuleSet) -> Result<ExitCode, Fatal> {
    match &args.what {
        RuleSetCommand::Compile(args) => compile(args),
        RuleSetCommand::Convert(args) => convert(args),
        RuleSetCommand::Decompile(args) => decompile(args),
        RuleSetCommand::Format(args) => format(args),
        RuleSetCommand::Match(args) => lookup::run(args),
        RuleSetCommand::Merge(args) => merge::run(global, &args.output_path),
        RuleSetCommand::Upgrade(args) => upgrade(args),
    }
}

/// The bytes of a file, or of the standard input.
fn read(path: &str) -> Result<Vec<u8>, String> {
    if path != STDIN {
        return std::fs::read(path).map_err(|error| format!("open {path}: {}", words::os(&error)));
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| format!("read /dev/stdin: {}", words::os(&error)))
}

fn text(error: FormatError) -> Fatal {
    error.to_string().into()
}

fn decode(path: &str, bytes: &[u8]) -> Result<(Node, RuleSetFile), Fatal> {
    source::decode(path, bytes).map_err(text)
}

fn note(level: Level, message: &str) {
    logging::print(Severity::Event(level), message);
}

/// Where the output goes: the flag, or the source's path with another ending.
fn output(flag: &str, default: &str, source: &str, from: &str, to: &str) -> String {
    if flag != default {
        return flag.to_owned();
    }
    format!("{}{to}", source.strip_suffix(from).unwrap_or(source))
}

fn write(path: &str, bytes: &[u8]) -> Result<ExitCode, Fatal> {
    std::fs::write(path, bytes).map_err(|error| format!("open {path}: {}", words::os(&error)))?;
    files::give_to_invoker(path);
    Ok(ExitCode::SUCCESS)
}

fn compile(args: &Compile) -> Result<ExitCode, Fatal> {
    let (_, file) = decode(&args.source_path, &read(&args.source_path)?)?;
    let rules = Rules::from(file);
    let bytes = srs::write(&rules).map_err(text)?;
    write(&output(&args.output, DEFAULT_BINARY, &args.source_path, ".json", ".srs"), &bytes)
}

fn decompile(args: &Decompile) -> Result<ExitCode, Fatal> {
    let rules = srs::read(&read(&args.binary_path)?).map_err(text)?;
    let file = rules.into_source().map_err(text)?;
    let path = output(&args.output, DEFAULT_SOURCE, &args.binary_path, ".srs", ".json");
    write(&path, source::text(&file).as_bytes())
}

fn convert(args: &Convert) -> Result<ExitCode, Fatal> {
    let bytes = read(&args.source_path)?;
    match args.kind.as_str() {
        "adguard" => {}
        "" => return Err("source type is required".into()),
        other => return Err(format!("unsupported source type: {other}").into()),
    }
    let filter = adguard::Filter::parse(&String::from_utf8_lossy(&bytes));
    for line in &filter.skipped {
        note(Level::DEBUG, &format!("{}{} (line {})", line.reason, line.text, line.line));
    }
    let rules = filter.rules().map_err(text)?;
    if !filter.skipped.is_empty() && !filter.is_plain() {
        let (kept, all) = (filter.parsed(), filter.parsed() + filter.skipped.len());
        note(Level::INFO, &format!("parsed rules: {kept}/{all}"));
    }
    let bytes = srs::write(&rules).map_err(text)?;
    write(&output(&args.output, DEFAULT_BINARY, &args.source_path, ".txt", ".srs"), &bytes)
}

/// Prints a canonical text, or puts it in the place of the source.
fn print_or_replace(args: &Source, before: &[u8], text: &str) -> Result<ExitCode, Fatal> {
    if !args.write || args.source_path == STDIN {
        return print(&format!("{text}\n"));
    }
    if before != text.as_bytes() {
        files::replace(Path::new(&args.source_path), text)?;
        eprintln!("{}", files::absolute(&args.source_path));
    }
    Ok(ExitCode::SUCCESS)
}

fn format(args: &Source) -> Result<ExitCode, Fatal> {
    let bytes = read(&args.source_path)?;
    let (_, file) = decode(&args.source_path, &bytes)?;
    print_or_replace(args, &bytes, &source::text(&file))
}

fn upgrade(args: &Source) -> Result<ExitCode, Fatal> {
    let bytes = read(&args.source_path)?;
    let (_, mut file) = decode(&args.source_path, &bytes)?;
    // Between later versions only the binary form differs.
    if file.version != 1 {
        note(Level::INFO, "already up-to-date");
        return Ok(ExitCode::SUCCESS);
    }
    file.version = format::CURRENT_VERSION;
    print_or_replace(args, &bytes, &source::text(&file))
}
