//! What one rule item compares: sets of texts, domains, addresses and ports.

mod adguard;
mod cidr;
mod domain;
mod port;
pub mod regex;
mod regexes;
mod succinct;
mod text;

pub use adguard::AdGuardSet;
pub use cidr::{CidrError, CidrSet, is_private};
pub use domain::{DomainError, DomainSet, Keywords};
pub(crate) use domain::{parents, wanted};
pub use port::{PortError, PortSet};
pub use regexes::Regexes;
pub use text::TextSet;
