//! Drivers of real peers, parity tables, chaos and dependency guards.
