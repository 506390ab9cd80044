//! The command line. Flags and commands are those of the reference (parity/cli.tsv), and ours beside them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use crosspoint_api::socket::CONTROL_ENV;

use crate::ruleset::{Geoip, Geosite, RuleSet};

const EXITS: &str = "\
Without a command:
  `run` with config.json if there is one (or with -c and -C), else a SOCKS and HTTP proxy on 127.0.0.1:2080.

Exit codes:
  0   done
  1   the configuration is wrong, or something else that was asked for cannot be done
  2   ctl: the daemon cannot be reached
  70  the daemon's kernel failed, or this build is broken; a service manager should start it again

Environment:
  CROSSPOINT_CONTROL         path of the control socket
  ENABLE_DEPRECATED_<NAME>   true: go on with a feature that is refused as deprecated
  NO_COLOR                   as --disable-color
  TZ                         time zone of log lines";

const RUN: &str = "\
Files:
  All files of -c and -C are read, sorted by path and merged: lists are appended, objects merged, of two
  different values the first one stays. Comments and trailing commas are fine.

Signals:
  HUP        read the configuration anew and apply the difference; what is wrong changes nothing
  INT, TERM  stop accepting, cut connections, exit 0; for a slow end use `crosspoint ctl drain`

Under systemd (Type=notify-reload, WatchdogSec=): readiness, reloads, state and proof of life are reported.";

const CTL: &str = "\
Exit codes:
  0  done
  1  refused or failed
  2  the daemon cannot be reached

Protocol:
  One JSON object a line each way, on a Unix socket that only the daemon's user and root may use:
    {\"v\":1,\"method\":\"restart\",\"component\":\"inbound/in\"}
    {\"v\":1,\"ok\":true,\"result\":{\"epoch\":2}}
  Methods: status, reload, restart {component}, connections, close {id}, drain {timeout_ms}, groups,
  select {group, member}.";

/// A gateway that takes sing-box configuration, reloads and heals without losing a flow.
#[derive(Debug, Parser)]
#[command(
    name = "crosspoint",
    bin_name = "crosspoint",
    disable_help_subcommand = false,
    after_long_help = EXITS,
    after_help = "Without a command: `run` with config.json if there is one (or with -c and -C), else a proxy on 127.0.0.1:2080."
)]
pub struct Cli {
    /// Flags before the command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that every command takes, before and after its name.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global flags")]
pub struct Global {
    /// Set configuration file path; repeatable, "stdin" reads standard input
    #[arg(short = 'c', long = "config", value_name = "PATH")]
    pub config: Vec<String>,
    /// Set configuration directory path; repeatable, every *.json directly inside counts
    #[arg(short = 'C', long = "config-directory", value_name = "PATH")]
    pub config_directory: Vec<String>,
    /// Set working directory, created if it is missing
    #[arg(short = 'D', long, value_name = "PATH")]
    pub directory: Option<String>,
    /// Disable color output
    #[arg(long)]
    pub disable_color: bool,
}

impl Global {
    /// These flags and those that stood elsewhere on the line.
    #[must_use]
    pub fn and(mut self, later: Self) -> Self {
        self.config.extend(later.config);
        self.config_directory.extend(later.config_directory);
        self.directory = later.directory.or(self.directory);
        self.disable_color |= later.disable_color;
        self
    }
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run service
    Run(Run),
    /// Check configuration
    Check(Plain),
    /// Format configuration
    Format(Format),
    /// Merge configurations
    Merge(Merge),
    /// Print the JSON Schema of the configuration, for editors
    Schema(Plain),
    /// Ask and steer a running daemon
    Ctl(Ctl),
    /// Generate things
    Generate(Generate),
    /// Manage rule-sets
    RuleSet(RuleSet),
    /// GeoIP tools
    #[command(name = "geoip")]
    Geoip(Geoip),
    /// Geosite tools
    #[command(name = "geosite")]
    Geosite(Geosite),
    /// Generate the autocompletion script for the specified shell
    Completion(Completion),
    /// Print current version
    Version(Version),
}

/// A command without flags of its own.
#[derive(Debug, Args)]
pub struct Plain {
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of `run`.
#[derive(Debug, Default, Args)]
#[command(after_long_help = RUN)]
pub struct Run {
    /// Path of the control socket [default: $XDG_RUNTIME_DIR/crosspoint.sock, else /run/crosspoint.sock]
    #[arg(long, value_name = "PATH", env = CONTROL_ENV, hide_env_values = true)]
    pub(crate) control: Option<PathBuf>,
    /// Exit when a component cannot start, as the reference does, instead of serving with the rest
    #[arg(long)]
    pub(crate) strict: bool,
    /// Reload when a configuration file changes
    #[arg(long)]
    pub(crate) watch: bool,
    /// The reference ignores what stands behind `run`
    #[arg(hide = true)]
    pub(crate) ignored: Vec<String>,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of `format`.
#[derive(Debug, Args)]
pub struct Format {
    /// Write result to (source) file instead of stdout
    #[arg(short, long)]
    pub(crate) write: bool,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Arguments of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Where the merged configuration goes
    pub(crate) output_path: PathBuf,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of `version`.
#[derive(Debug, Args)]
pub struct Version {
    /// Print version name only
    #[arg(short, long)]
    pub(crate) name: bool,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// What to generate.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Generate {
    #[command(subcommand)]
    pub(crate) what: Thing,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Things to generate.
#[derive(Debug, Subcommand)]
pub enum Thing {
    /// Generate UUID string
    Uuid(Plain),
    /// Generate random bytes
    Rand {
        /// Number of bytes
        length: String,
        /// Generate base64 string
        #[arg(long)]
        base64: bool,
        /// Generate hex string
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        #[allow(missing_docs, reason = "its own help")]
        global: Global,
    },
    /// Generate WireGuard key pair
    WgKeypair(Plain),
    /// Generate reality key pair
    RealityKeypair(Plain),
    /// Generate VAPID key pair
    VapidKeypair(Plain),
    /// Generate TLS self sign key pair
    TlsKeypair {
        /// Name that the certificate is for
        server_name: String,
        /// Valid months
        #[arg(short, long, default_value_t = 1)]
        months: i32,
        #[command(flatten)]
        #[allow(missing_docs, reason = "its own help")]
        global: Global,
    },
}

impl Thing {
    fn global(&mut self) -> &mut Global {
        match self {
            Self::Uuid(plain)
            | Self::WgKeypair(plain)
            | Self::RealityKeypair(plain)
            | Self::VapidKeypair(plain) => &mut plain.global,
            Self::Rand { global, .. } | Self::TlsKeypair { global, .. } => global,
        }
    }
}

/// Which shell.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
    /// Disable completion descriptions
    #[arg(long)]
    pub(crate) no_descriptions: bool,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Shells that have completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Shell {
    Bash,
    Fish,
    Powershell,
    Zsh,
}

/// Flags of `ctl`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 the daemon cannot be reached.",
    after_long_help = CTL
)]
pub struct Ctl {
    /// Path of the control socket [default: $XDG_RUNTIME_DIR/crosspoint.sock, then /run/crosspoint.sock]
    #[arg(long, value_name = "PATH", env = CONTROL_ENV, hide_env_values = true, global = true)]
    pub(crate) control: Option<PathBuf>,
    /// Print the daemon's answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) request: Request,
    #[command(flatten)]
    pub(crate) global: Global,
}

/// What to ask the daemon.
#[derive(Debug, Subcommand)]
pub enum Request {
    /// Show where every component stands
    Status,
    /// Read the configuration anew and apply the difference
    Reload,
    /// Put a fresh instance of one component in force; connections of the old one go on
    Restart {
        /// KIND/TAG as `status` shows them, e.g. inbound/in
        component: String,
    },
    /// List live connections
    Connections,
    /// End one connection
    Close {
        /// Its number, from `connections` or the log
        id: u64,
    },
    /// Stop accepting, let connections end, then end the daemon
    Drain {
        /// Longest time that connections may go on, e.g. 30s, 5m; then they are cut
        #[arg(long, default_value = "30s", value_parser = timeout)]
        timeout: u64,
    },
    /// List groups (selector, urltest) and their members
    Groups,
    /// Choose a member of a selector
    Select {
        /// Tag of the group
        group: String,
        /// Tag of the member
        member: String,
    },
}

/// Reads a Go duration, or a number of seconds, as milliseconds.
fn timeout(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds.saturating_mul(1000));
    }
    let duration = crosspoint_schema::decode::Duration::parse(text)?;
    Ok(u64::try_from(duration.get().as_millis()).unwrap_or(u64::MAX))
}

impl Command {
    /// Takes the flags that stood after the command's name.
    pub fn take_global(&mut self) -> Global {
        let slot = match self {
            Self::Run(run) => &mut run.global,
            Self::Check(plain) | Self::Schema(plain) => &mut plain.global,
            Self::Format(format) => &mut format.global,
            Self::Merge(merge) => &mut merge.global,
            Self::Ctl(ctl) => &mut ctl.global,
            Self::Generate(generate) => {
                let before = std::mem::take(&mut generate.global);
                return before.and(std::mem::take(generate.what.global()));
            }
            Self::RuleSet(args) => return args.take_global(),
            Self::Geoip(args) => return args.take_global(),
            Self::Geosite(args) => return args.take_global(),
            Self::Completion(completion) => &mut completion.global,
            Self::Version(version) => &mut version.global,
        };
        std::mem::take(slot)
    }
}
