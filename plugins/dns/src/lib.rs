//! DNS servers, one folder per type: `local` (the system's resolver) and `hosts`.

mod answer;
#[cfg(feature = "hosts")]
pub mod hosts;
#[cfg(feature = "local")]
pub mod local;
