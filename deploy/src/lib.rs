//! The Crosspoint daemon and its command line.
