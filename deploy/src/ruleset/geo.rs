//! `geoip` and `geosite`: the databases that came before rule-sets.

use std::process::ExitCode;

use crosspoint_rules::{
    format::{
        geoip::Geoip,
        geosite::{Geosite, exported, matchers},
        source,
    },
    item::regex,
};
use crosspoint_schema::{decode::Addr, options::HeadlessMatchers};

use super::{
    args::{self, DEFAULT_CATEGORY, DEFAULT_COUNTRY, GeoipCommand, GeositeCommand},
    read, text, write,
};
use crate::{Fatal, print};

/// Runs a command of `geoip`.
pub(crate) fn geoip(args: &args::Geoip) -> Result<ExitCode, Fatal> {
    let bytes = read_file(&args.file)?;
    let file = Geoip::new(&bytes).map_err(text)?;
    match &args.what {
        GeoipCommand::List(_) => {
            print(&file.codes().iter().map(|code| format!("{code}\n")).collect::<String>())
        }
        GeoipCommand::Lookup(args) => {
            let addr =
                Addr::parse(&args.address).map_err(|error| format!("parse address: {error}"))?;
            print(&format!("{}\n", file.lookup(addr.ip)))
        }
        GeoipCommand::Export(args) => {
            let matchers = file.export(&args.country).map_err(text)?;
            let default = format!("geoip-{}.json", args.country);
            export(matchers, &args.output, DEFAULT_COUNTRY, &default)
        }
    }
}

/// Runs a command of `geosite`.
pub(crate) fn geosite(args: &args::Geosite) -> Result<ExitCode, Fatal> {
    let failed = |error: String| format!("open geosite file: {error}");
    let bytes = read_file(&args.file).map_err(failed)?;
    let file = Geosite::new(&bytes).map_err(|error| failed(error.to_string()))?;
    match &args.what {
        GeositeCommand::List(_) => {
            let mut sizes = Vec::new();
            for category in file.categories() {
                sizes.push((category, file.read(category).map_err(text)?.len()));
            }
            sizes.sort_by_key(|(_, size)| *size);
            let line = |(category, size): (&str, usize)| format!("{category} ({size})\n");
            print(&sizes.into_iter().map(line).collect::<String>())
        }
        GeositeCommand::Lookup(args) => lookup(&file, &args.words),
        GeositeCommand::Export(args) => {
            let items = file.read(&args.category).map_err(text)?;
            let default = format!("geosite-{}.json", args.category);
            export(matchers(items), &args.output, DEFAULT_CATEGORY, &default)
        }
    }
}

/// Unlike rule-sets, these are never read from the standard input.
fn read_file(path: &str) -> Result<Vec<u8>, String> {
    read(if path == super::STDIN { "./stdin" } else { path })
}

fn export(
    matchers: HeadlessMatchers,
    output: &str,
    flag: &str,
    default: &str,
) -> Result<ExitCode, Fatal> {
    let text = source::text(&exported(matchers));
    match output {
        "stdout" => print(&text),
        path => write(if path == flag { default } else { path }, text.as_bytes()),
    }
}

/// Prints the categories that hold a name. A suffix is the plain end of a name here, whatever stands before it.
fn lookup(file: &Geosite<'_>, words: &[String]) -> Result<ExitCode, Fatal> {
    let (categories, name) = match words {
        [name] => (file.categories().collect(), name),
        [category, name] => (vec![category.as_str()], name),
        _ => return Err(format!("accepts between 1 and 2 arg(s), received {}", words.len()).into()),
    };
    let mut out = String::new();
    for category in categories {
        let rule = matchers(file.read(category).map_err(text)?);
        if let Some(why) = reason(&rule, name) {
            out.push_str(&format!("Match code ({category}) {why}\n"));
        }
    }
    print(&out)
}

fn reason(rule: &HeadlessMatchers, name: &str) -> Option<String> {
    if rule.domain.iter().any(|domain| domain == name) {
        return Some(format!("domain={name}"));
    }
    if let Some(suffix) = rule.domain_suffix.iter().find(|suffix| name.ends_with(suffix.as_str())) {
        return Some(format!("domain_suffix={suffix}"));
    }
    if let Some(keyword) = rule.domain_keyword.iter().find(|word| name.contains(word.as_str())) {
        return Some(format!("domain_keyword={keyword}"));
    }
    // An expression that is wrong matches nothing.
    let matches =
        |expression: &&String| regex::compile(expression).is_ok_and(|regex| regex.is_match(name));
    rule.domain_regex.iter().find(matches).map(|expression| format!("domain_regex={expression}"))
}
