//! Name resolution for dialers and rules.
