//! The `crosspoint` daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    crosspoint::main_with_args(std::env::args_os())
}
