//! Rules, sniffers and the route table of Crosspoint.

pub mod sniff;
