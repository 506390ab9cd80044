//! Plugins, supervision, snapshots and the relay of Crosspoint; knows no protocol.
