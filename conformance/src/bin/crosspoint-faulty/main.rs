//! Crosspoint with a component type `fault` in every kind, which fails when a test tells it to.
//! Never shipped: it exists so that the tests can break the daemon from inside.

mod fault;

fn main() -> std::process::ExitCode {
    crosspoint::main_with_args(std::env::args_os())
}
