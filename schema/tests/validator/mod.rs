//! As much of a JSON Schema validator as our own schema uses.

use serde_json::{Map, Value};

pub(crate) struct Validator<'a> {
    root: &'a Value,
}

impl<'a> Validator<'a> {
    pub(crate) fn new(root: &'a Value) -> Self {
        Self { root }
    }

    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        self.value(self.root, value, "")
    }

    fn value(&self, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(schema) => schema,
            _ => return Err(format!("{path}: nothing is allowed here")),
        };
        if let Some(name) =
            schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"))
        {
            self.value(&self.root["$defs"][name], value, path)?;
        }
        if let Some(word) = schema.get("type").and_then(Value::as_str) {
            let fits = match word {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("unknown type {other}"),
            };
            if !fits {
                return Err(format!("{path}: {value} is no {word}"));
            }
        }
        if schema.get("const").is_some_and(|wanted| wanted != value) {
            return Err(format!("{path}: {value} is another constant"));
        }
        if schema.get("enum").and_then(Value::as_array).is_some_and(|words| !words.contains(value))
        {
            return Err(format!("{path}: {value} is no word of the list"));
        }
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        if let Some(number) = value.as_f64()
            && (bound("minimum").is_some_and(|min| number < min)
                || bound("maximum").is_some_and(|max| number > max))
        {
            return Err(format!("{path}: {value} is out of range"));
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(variants) = schema.get(key).and_then(Value::as_array) {
                let errors: Vec<String> = variants
                    .iter()
                    .filter_map(|variant| self.value(variant, value, path).err())
                    .collect();
                let matched = variants.len() - errors.len();
                if matched == 0 || (key == "oneOf" && matched > 1) {
                    return Err(format!("{path}: {matched} of {key} match: {}", errors.join("; ")));
                }
            }
        }
        if let Value::Array(items) = value {
            for (i, item) in items.iter().enumerate() {
                self.value(
                    schema.get("items").unwrap_or(&Value::Bool(true)),
                    item,
                    &format!("{path}[{i}]"),
                )?;
            }
        }
        match value {
            Value::Object(members) => self.object(schema, members, path),
            _ => Ok(()),
        }
    }

    fn object(
        &self,
        schema: &Map<String, Value>,
        members: &Map<String, Value>,
        path: &str,
    ) -> Result<(), String> {
        for key in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !members.contains_key(key) {
                return Err(format!("{path}: {key} is missing"));
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, value) in members {
            let path = format!("{path}.{key}");
            match (properties.and_then(|p| p.get(key)), schema.get("additionalProperties")) {
                (Some(property), _) => self.value(property, value, &path)?,
                (None, Some(rest)) => self.value(rest, value, &path)?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}
