//! Crosspoint with a component type `fault` in every kind, and an endpoint `fault-wireguard`, which fail when a test tells
//! them to.
//! Never shipped: it exists so that the tests can break the daemon from inside.

mod fault;
mod tunnel;

fn main() -> std::process::ExitCode {
    crosspoint::main_with_args(std::env::args_os())
}
