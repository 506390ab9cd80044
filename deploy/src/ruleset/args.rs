//! Flags of `rule-set`, `geoip` and `geosite`.

use clap::{Args, Subcommand};

use crate::cli::{Global, Plain};

/// What `compile` and `convert` take for "beside the source".
pub(super) const DEFAULT_BINARY: &str = "<file_name>.srs";
/// What `decompile` takes for "beside the source".
pub(super) const DEFAULT_SOURCE: &str = "<file_name>.json";
/// What `geoip export` takes for "in this directory"; the file that it writes ends in `.json` all the same.
pub(super) const DEFAULT_COUNTRY: &str = "geoip-<country>.srs";
/// What `geosite export` takes for "in this directory".
pub(super) const DEFAULT_CATEGORY: &str = "geosite-<category>.json";

/// What to do with rule-sets.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct RuleSet {
    #[command(subcommand)]
    pub(super) what: RuleSetCommand,
    #[command(flatten)]
    global: Global,
}

/// Commands on rule-set files.
#[derive(Debug, Subcommand)]
pub enum RuleSetCommand {
    /// Compile rule-set json to binary
    Compile(Compile),
    /// Convert adguard DNS filter to rule-set
    Convert(Convert),
    /// Decompile rule-set binary to json
    Decompile(Decompile),
    /// Format rule-set json
    Format(Source),
    /// Check if an IP address or a domain matches the rule-set
    Match(Match),
    /// Merge rule-set source files, those of -c and -C
    Merge(Merge),
    /// Upgrade rule-set json
    Upgrade(Source),
}

/// Flags of `rule-set compile`.
#[derive(Debug, Args)]
pub struct Compile {
    /// The source file, or stdin
    pub(super) source_path: String,
    /// Output file
    #[arg(short, long, default_value = DEFAULT_BINARY, value_name = "PATH")]
    pub(super) output: String,
    #[command(flatten)]
    global: Global,
}

/// Flags of `rule-set convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// The filter, or stdin
    pub(super) source_path: String,
    /// Source type, available: adguard
    #[arg(
        short = 't',
        long = "type",
        default_value = "",
        hide_default_value = true,
        value_name = "TYPE"
    )]
    pub(super) kind: String,
    /// Output file
    #[arg(short, long, default_value = DEFAULT_BINARY, value_name = "PATH")]
    pub(super) output: String,
    #[command(flatten)]
    global: Global,
}

/// Flags of `rule-set decompile`.
#[derive(Debug, Args)]
pub struct Decompile {
    /// The binary file, or stdin
    pub(super) binary_path: String,
    /// Output file
    #[arg(short, long, default_value = DEFAULT_SOURCE, value_name = "PATH")]
    pub(super) output: String,
    #[command(flatten)]
    global: Global,
}

/// Flags of `rule-set format` and `rule-set upgrade`.
#[derive(Debug, Args)]
pub struct Source {
    /// The source file, or stdin
    pub(super) source_path: String,
    /// Write result to (source) file instead of stdout
    #[arg(short, long)]
    pub(super) write: bool,
    #[command(flatten)]
    global: Global,
}

/// Flags of `rule-set match`.
#[derive(Debug, Args)]
pub struct Match {
    /// The rule-set, or stdin
    #[arg(value_name = "RULE-SET PATH")]
    pub(super) path: String,
    /// What to look for
    #[arg(value_name = "IP ADDRESS/DOMAIN")]
    pub(super) what: String,
    /// Rule-set format: source, binary; empty to go by the name of the file
    #[arg(short, long, default_value = "source")]
    pub(super) format: String,
    #[command(flatten)]
    global: Global,
}

/// Arguments of `rule-set merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Where the merged rule-set goes
    pub(super) output_path: String,
    #[command(flatten)]
    global: Global,
}

/// What to do with a geoip file.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Geoip {
    /// geoip file
    #[arg(short, long, default_value = "geoip.db", global = true, value_name = "PATH")]
    pub(super) file: String,
    #[command(subcommand)]
    pub(super) what: GeoipCommand,
    #[command(flatten)]
    global: Global,
}

/// Commands on a geoip file.
#[derive(Debug, Subcommand)]
pub enum GeoipCommand {
    /// Export geoip country as rule-set
    Export(Country),
    /// List geoip country codes
    List(Plain),
    /// Lookup if an IP address is contained in the GeoIP database
    Lookup(Address),
}

/// Flags of `geoip export`.
#[derive(Debug, Args)]
pub struct Country {
    /// Code of the country
    pub(super) country: String,
    /// Output path; stdout to print
    #[arg(short, long, default_value = DEFAULT_COUNTRY, value_name = "PATH")]
    pub(super) output: String,
    #[command(flatten)]
    global: Global,
}

/// Argument of `geoip lookup`.
#[derive(Debug, Args)]
pub struct Address {
    /// The address
    pub(super) address: String,
    #[command(flatten)]
    global: Global,
}

/// What to do with a geosite file.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Geosite {
    /// geosite file
    #[arg(short, long, default_value = "geosite.db", global = true, value_name = "PATH")]
    pub(super) file: String,
    #[command(subcommand)]
    pub(super) what: GeositeCommand,
    #[command(flatten)]
    global: Global,
}

/// Commands on a geosite file.
#[derive(Debug, Subcommand)]
pub enum GeositeCommand {
    /// Export geosite category as rule-set
    Export(Category),
    /// List geosite categories
    List(Plain),
    /// Check if a domain is in the geosite
    Lookup(Name),
}

/// Flags of `geosite export`.
#[derive(Debug, Args)]
pub struct Category {
    /// Name of the category
    pub(super) category: String,
    /// Output path; stdout to print
    #[arg(short, long, default_value = DEFAULT_CATEGORY, value_name = "PATH")]
    pub(super) output: String,
    #[command(flatten)]
    global: Global,
}

/// Arguments of `geosite lookup`.
#[derive(Debug, Args)]
pub struct Name {
    /// The category, if only one is to be looked at, and the domain
    #[arg(num_args = 1..=2, required = true, value_names = ["CATEGORY", "DOMAIN"])]
    pub(super) words: Vec<String>,
    #[command(flatten)]
    global: Global,
}

impl RuleSet {
    /// Takes the flags that stood after the command's name.
    pub(crate) fn take_global(&mut self) -> Global {
        let inner = match &mut self.what {
            RuleSetCommand::Compile(args) => &mut args.global,
            RuleSetCommand::Convert(args) => &mut args.global,
            RuleSetCommand::Decompile(args) => &mut args.global,
            RuleSetCommand::Format(args) | RuleSetCommand::Upgrade(args) => &mut args.global,
            RuleSetCommand::Match(args) => &mut args.global,
            RuleSetCommand::Merge(args) => &mut args.global,
        };
        std::mem::take(&mut self.global).and(std::mem::take(inner))
    }
}

impl Geoip {
    /// Takes the flags that stood after the command's name.
    pub(crate) fn take_global(&mut self) -> Global {
        let inner = match &mut self.what {
            GeoipCommand::Export(args) => &mut args.global,
            GeoipCommand::List(args) => &mut args.global,
            GeoipCommand::Lookup(args) => &mut args.global,
        };
        std::mem::take(&mut self.global).and(std::mem::take(inner))
    }
}

impl Geosite {
    /// Takes the flags that stood after the command's name.
    pub(crate) fn take_global(&mut self) -> Global {
        let inner = match &mut self.what {
            GeositeCommand::Export(args) => &mut args.global,
            GeositeCommand::List(args) => &mut args.global,
            GeositeCommand::Lookup(args) => &mut args.global,
        };
        std::mem::take(&mut self.global).and(std::mem::take(inner))
    }
}
