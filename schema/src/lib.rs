//! The configuration dialect, shared option blocks, diagnostics and JSON Schema of Crosspoint.
