//! The program as its users see it: each test runs the binary.

mod commands;
mod daemon;
mod program;
