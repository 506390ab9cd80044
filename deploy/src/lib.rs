//! The Crosspoint daemon and its command line, as a library: [`main_with_args`] is the whole program, so that a test
//! binary can link plugins of its own into it.

pub mod assemble;
pub mod cli;
mod commands;
mod ctl;
mod daemon;
mod files;
mod generate;
pub mod logging;
pub mod ruleset;
mod version;
mod words;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};

use cli::{Cli, Command, Global};
use logging::Severity;

/// What ends the program before its time: what is printed after `FATAL[0000] `, and the exit code.
#[derive(Debug)]
pub(crate) struct Fatal {
    message: String,
    code: u8,
}

impl Fatal {
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), code }
    }
}

impl<T: Into<String>> From<T> for Fatal {
    fn from(message: T) -> Self {
        Self::with_code(1, message)
    }
}

/// Runs the program.
pub fn main_with_args(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    logging::print_times_from_here();
    let parsed = Cli::command()
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { global, mut command } = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let later = command.as_mut().map(Command::take_global).unwrap_or_default();
    let global = global.and(later);
    logging::init(!global.disable_color && std::env::var_os("NO_COLOR").is_none());
    // As in the reference, the databases are looked for where the program was started, whatever -D says.
    let stays = matches!(command, Some(Command::Geoip(_) | Command::Geosite(_)));
    let moved = if stays { Ok(()) } else { change_directory(&global) };
    let result = moved.and_then(|()| dispatch(global, command));
    logging::flush();
    result.unwrap_or_else(|fatal| {
        logging::print(Severity::Fatal, &fatal.message);
        ExitCode::from(fatal.code)
    })
}

fn change_directory(global: &Global) -> Result<(), Fatal> {
    match global.directory.as_deref() {
        None | Some("") => Ok(()),
        Some(dir) => Ok(files::change_directory(dir)?),
    }
}

fn dispatch(global: Global, command: Option<Command>) -> Result<ExitCode, Fatal> {
    match command {
        None => daemon::run(daemon::Options::bare(global)),
        Some(Command::Run(run)) => daemon::run(daemon::Options::new(global, run)),
        Some(Command::Check(_)) => commands::check(global),
        Some(Command::Format(format)) => commands::format(global, format.write),
        Some(Command::Merge(merge)) => commands::merge(global, &merge.output_path),
        Some(Command::Schema(_)) => commands::schema(),
        Some(Command::Ctl(args)) => Ok(ctl::run(args)),
        Some(Command::Generate(generate)) => generate::run(generate.what),
        Some(Command::RuleSet(args)) => ruleset::run(global, &args),
        Some(Command::Geoip(args)) => ruleset::geoip(&args),
        Some(Command::Geosite(args)) => ruleset::geosite(&args),
        Some(Command::Completion(args)) => commands::completion(&args),
        Some(Command::Version(version)) => print(&version::text(version.name)),
    }
}

/// Prints on standard output. A reader that has gone away is no failure, as usual for a filter.
pub(crate) fn print(text: &str) -> Result<ExitCode, Fatal> {
    write(text.as_bytes())
}

/// As [`print`], for bytes.
pub(crate) fn write(bytes: &[u8]) -> Result<ExitCode, Fatal> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("write /dev/stdout: {}", words::os(&error)).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// What clap has to say. Help goes to standard output; an error to standard error, with a last line as the reference
/// has it.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print(&error.render().to_string()).unwrap_or(ExitCode::FAILURE)
        }
        _ => {
            let text = error.render().to_string();
            eprint!("{text}");
            // The first paragraph says what is wrong.
            let lines: Vec<_> =
                text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let what = lines.join(" ");
            logging::print(Severity::Fatal, what.strip_prefix("error: ").unwrap_or(&what));
            ExitCode::FAILURE
        }
    }
}
