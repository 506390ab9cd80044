//! Lines that reach the terminal though the test harness captures `eprintln!`.

use std::io::Write;

/// Writes one line to standard error, past libtest's capture.
pub fn line(text: &str) {
    // A closed stderr must not fail a test: there is nobody left to read the line.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says that a test or a part of it did not run, and why. A test that is skipped in silence
/// counts as passed, which is a lie.
pub fn not_run(what: &str, reason: &str) {
    line(&format!("NOT RUN  {what}: {reason}"));
}
