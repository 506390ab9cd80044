//! The JSON Schema accepts what the decoder accepts, and refuses unknown members as it does.

mod plugins;
mod validator;

use std::path::Path;

use crosspoint_schema::json_schema::document;
use serde_json::Value;
use validator::Validator;

fn schema() -> Value {
    document(plugins::described())
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, root: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(target) = members.get("$ref").and_then(Value::as_str) {
                    let name = target.strip_prefix("#/$defs/").expect("local");
                    assert!(root["$defs"][name].is_object(), "{target}");
                }
                members.values().for_each(|value| walk(value, root));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, root)),
            _ => {}
        }
    }
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    walk(&schema, &schema);
}

#[test]
fn options_are_described() {
    let schema = schema();
    let port = &schema["$defs"]["inbound-mixed"]["properties"]["listen_port"];
    assert_eq!(port["description"], "Port to listen on.");
    assert_eq!(port["maximum"], 65535);
    assert_eq!(schema["$defs"]["inbound-mixed"]["additionalProperties"], false);
    assert!(schema["properties"]["crosspoint"].is_object());
}

#[test]
fn it_agrees_with_the_decoder_on_the_vectors() {
    let schema = schema();
    let validator = Validator::new(&schema);
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/vectors/config/format.jsonl");
    let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
    let (mut done, mut failures) = (0, Vec::new());
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).expect("a vector is JSON");
        let config = &vector["config"];
        // Members that the reference drops because they are empty, and types without a stand-in, are
        // not for a schema; the vector of the certificate store has a word that fails at start.
        let option = vector["option"].as_str().unwrap_or("");
        if !plugins::knows(config)
            || line.contains("{}")
            || vector["kind"] == "wrong-type"
            || option == "certificate/-/store"
        {
            continue;
        }
        done += 1;
        // Only vectors that a schema can judge: unknown members, and values that are fine.
        let accepted = vector["accepted"] == true;
        match (validator.check(config), accepted) {
            (Ok(()), true) | (Err(_), false) => {}
            (Err(why), true) => failures.push(format!("{option}: {why} in {config}")),
            (Ok(()), false) => failures.push(format!("{option}: accepted {config}")),
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(done > 400, "only {done} vectors were tried");
}
