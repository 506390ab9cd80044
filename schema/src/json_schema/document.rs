//! The whole schema.

use serde_json::{Value, json};

use super::{ObjectSchema, SchemaBuilder};
use crate::component::Kind;
use crate::options::{DnsOptions, LegacyDnsServerOptions};
use crate::{Options, config};

/// A component type of this build: what it is for, the word in `type`, and what describes its options
/// (`<MyOptions as Options>::describe`).
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The kind.
    pub kind: Kind,
    /// The word in `type`.
    pub type_name: &'static str,
    /// Describes the options.
    pub describe: fn(&mut ObjectSchema<'_>),
}

/// The JSON Schema (draft 2020-12) of a configuration with these component types.
///
/// It is stricter than the decoder in one way: keys are in the spelling of the documentation, while the decoder takes any case.
#[must_use]
pub fn document(plugins: impl IntoIterator<Item = Described>) -> Value {
    let mut plugins: Vec<Described> = plugins.into_iter().collect();
    plugins.sort_by_key(|plugin| (plugin.kind, plugin.type_name));
    let mut builder = SchemaBuilder::default();
    let lists = Kind::ALL.map(|kind| (kind, list(&mut builder, kind, &plugins)));
    let mut root = ObjectSchema::new(&mut builder);
    config::describe_sections(&mut root);
    for (kind, list) in lists {
        match kind {
            Kind::DnsServer => {
                let dns = DnsOptions::describe(root.builder(), list);
                root.raw("dns", dns, &[]);
            }
            Kind::Inbound => root.raw("inbounds", list, &["What accepts connections."]),
            Kind::Outbound => root.raw(
                "outbounds",
                list,
                &["What carries them on; the first one is the default."],
            ),
            Kind::Endpoint => root.raw("endpoints", list, &["What does both."]),
            Kind::Service => root.raw("services", list, &["Anything else that runs."]),
        }
    }
    let root = root.build(false);
    let mut out = serde_json::Map::new();
    out.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    out.insert("title".to_owned(), "Crosspoint configuration".into());
    if let Value::Object(members) = root {
        out.extend(members);
    }
    out.insert("$defs".to_owned(), Value::Object(builder.into_defs()));
    Value::Object(out)
}

fn list(builder: &mut SchemaBuilder, kind: Kind, plugins: &[Described]) -> Value {
    let mut variants = Vec::new();
    for plugin in plugins.iter().filter(|plugin| plugin.kind == kind) {
        let name = format!("{kind}-{}", plugin.type_name);
        variants.push(builder.define_with(&name, |builder| {
            let mut object = ObjectSchema::new(builder);
            object.typed(plugin.type_name);
            (plugin.describe)(&mut object);
            object.build(false)
        }));
    }
    if kind == Kind::DnsServer {
        variants.push(builder.define_with("dns-legacy", |builder| {
            let mut object = ObjectSchema::new(builder);
            object.raw("type", json!({"enum": ["", "legacy"]}), &[]);
            object.property::<String>("tag", &["Name of the component."]);
            LegacyDnsServerOptions::describe(&mut object);
            object.build(false)
        }));
    }
    // Without a plugin there is nothing that such a list may hold.
    let items = if variants.is_empty() { json!(false) } else { json!({"oneOf": variants}) };
    json!({"type": "array", "items": items})
}
