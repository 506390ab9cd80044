//! A configuration as text: what decodes is compiled to rules and a resolver, which may refuse it but never panic.
#![no_main]

use crosspoint_resolver::Plan;
use crosspoint_router::Rules;
use crosspoint_rules::RuleSets;
use crosspoint_schema::{Config, decode::Context, json::Loaded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(Loaded { sources, root, .. }) = Loaded::from_text("fuzz.json", text) else { return };
    let Ok(config) = Config::decode(&root, &Context::new(sources)) else { return };
    let route = config.route.clone().unwrap_or_default();
    if let Err(error) = Rules::compile(&route, &config, &RuleSets::default()) {
        // An error leads somewhere.
        assert!(error.path.starts_with("route."), "{error}");
    }
    if let Err(error) = Plan::compile(&config, &RuleSets::default()) {
        assert!(error.path.starts_with("dns."), "{error}");
    }
});
