//! Names every plugin crate so that the linker keeps its registrations.
