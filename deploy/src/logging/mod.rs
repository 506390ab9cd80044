//! The log: lines in the format of the reference, written by a `tracing` subscriber of our own that holds nothing but a
//! level, a style and an output, all three exchangeable while the daemon runs.
//!
//! A disabled level costs one atomic load (the macros of `tracing` look at it before they touch any argument). A line is
//! put together in buffers that its thread keeps, and written at once if that cannot block; see [`output`].

mod format;
pub mod output;
mod subscriber;

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crosspoint_schema::{
    Deprecation,
    options::{LogLevel, LogOptions},
};
use tracing::level_filters::LevelFilter;

pub use format::Severity;
use format::{Stamp, Style};
use output::{Output, Target};
use subscriber::Lines;

static LINES: OnceLock<Lines> = OnceLock::new();
static COLOR: AtomicBool = AtomicBool::new(true);

fn lines() -> &'static Lines {
    LINES.get_or_init(|| Lines::new(Output::new(Target::Stderr)))
}

/// Starts the clock of `LEVEL[0000]`.
pub fn print_times_from_here() {
    format::started();
}

/// Seconds since [`print_times_from_here`].
#[must_use]
pub fn uptime() -> std::time::Duration {
    format::started().elapsed()
}

/// Sends events of level info and up to standard error, until a configuration says otherwise. Called once.
pub fn init(color: bool) {
    COLOR.store(color, Ordering::Relaxed);
    let lines = lines();
    lines.set_style(style(&Target::Stderr, false));
    lines.set_level(LevelFilter::INFO);
    // In a test process another one may have been set before.
    let _ = tracing::subscriber::set_global_default(subscriber::Global);
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!("{panic} (thread {thread})");
    }));
}

/// Log options whose level is known to be one.
#[derive(Clone, Debug)]
pub struct Settings {
    level: LevelFilter,
    timestamp: bool,
    /// Empty while logging is disabled: then no file is made either.
    output: String,
}

impl Settings {
    /// Checks log options; touches nothing.
    ///
    /// # Errors
    /// An unknown level, in the reference's words.
    pub fn new(options: Option<&LogOptions>) -> Result<Self, String> {
        let options = options.cloned().unwrap_or_default();
        let level = level(&options)?;
        let output = if options.disabled { String::new() } else { options.output };
        Ok(Self { level, timestamp: options.timestamp, output })
    }

    /// Switches to these settings. A log file is opened anew each time, so that a reload follows a rotation; if that
    /// fails, the error is logged and lines go where they went before.
    pub fn apply(&self) {
        let lines = lines();
        match open(&self.output) {
            Ok(target) => {
                lines.set_style(style(&target, self.timestamp));
                lines.output().retarget(target);
            }
            Err(why) => tracing::error!("{why}; the log stays where it was"),
        }
        lines.set_level(self.level);
    }
}

/// The target that `log.output` names.
///
/// # Errors
/// The file cannot be opened, in the reference's words.
pub fn open(output: &str) -> Result<Target, String> {
    match output {
        "" | "stderr" => Ok(Target::Stderr),
        "stdout" => Ok(Target::Stdout),
        path => Target::open(path)
            .map_err(|error| format!("start logger: open {path}: {}", crate::words::os(&error))),
    }
}

/// Applies log options at once.
///
/// # Errors
/// As [`Settings::new`].
pub fn apply(options: &LogOptions) -> Result<(), String> {
    Settings::new(Some(options)).map(|settings| settings.apply())
}

/// Logs the use of a deprecated feature, once per process: as an error where it is refused.
pub fn deprecated(notice: &'static Deprecation, refused: bool) {
    static LOGGED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.contains(&notice.name) {
        return;
    }
    logged.push(notice.name);
    if refused {
        tracing::error!("{}", notice.message());
    } else {
        tracing::warn!("{}", notice.message());
    }
}

/// Prints `LEVEL[0000] message` on standard error, whatever the log options are.
pub fn print(severity: Severity, message: &str) {
    let style = style(&Target::Stderr, false);
    let mut line = Vec::new();
    let since = format::Now::take();
    format::line(&mut line, style, &since, severity, None, "", message, "");
    Target::Stderr.write_blocking(&line);
}

/// Waits a moment for lines that could not be written at once.
pub fn flush() {
    lines().output().flush(std::time::Duration::from_secs(1));
}

fn level(options: &LogOptions) -> Result<LevelFilter, String> {
    if options.disabled {
        return Ok(LevelFilter::OFF);
    }
    Ok(match options.level().map_err(|why| format!("parse log level: {why}"))? {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        // What is fatal is printed by the one who ends the process.
        LogLevel::Fatal | LogLevel::Panic => LevelFilter::OFF,
    })
}

fn style(target: &Target, timestamp: bool) -> Style {
    let stamp = match (timestamp, target) {
        (true, _) => Stamp::Date,
        (false, Target::File(_)) => Stamp::None,
        (false, _) => Stamp::Seconds,
    };
    let color = COLOR.load(Ordering::Relaxed) && target.is_terminal();
    Style { stamp, color }
}
