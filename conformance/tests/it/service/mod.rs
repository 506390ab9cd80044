//! Services.

mod derp;
mod rest;
mod ssm_api;
mod ssm_flows;
