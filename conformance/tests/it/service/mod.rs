//! Services.

mod rest;
mod ssm_api;
mod ssm_flows;
