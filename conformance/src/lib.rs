//! The conformance harness: drives Crosspoint and real peers from outside, over loopback only.
//!
//! The library holds what tests are made of and imports no crate of the product; the tests are
//! one binary, `tests/it`. Where things are:
//!
//! - [`peers`]: the reference and other pinned programs, fetched by the tests themselves.
//! - [`subject`]: which program is under test, and how to start it with a configuration.
//! - [`process`]: a child process with a directory, a log and an end that is certain.
//! - [`net`]: origins, clients and traffic suites.
//! - [`curl`]: the machine's own `curl`.
//! - [`netns`]: network namespaces without a route out, for root; [`star`]: hosts that reach a hub and not each other.
//! - [`tailnet`]: a control server for Tailscale's nodes, clients of DERP and STUN.
//! - [`golden`]: the table of recorded verdicts of the reference.
//! - [`workspace`]: what the guards read of the repository.
//! - [`loud`]: lines that reach the terminal though the test harness captures output.

pub mod curl;
pub mod golden;
pub mod loud;
pub mod net;
pub mod netns;
pub mod peers;
pub mod ports;
pub mod process;
pub mod star;
pub mod subject;
pub mod tailnet;
pub mod workspace;
