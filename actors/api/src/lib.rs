//! The control socket of Crosspoint.
