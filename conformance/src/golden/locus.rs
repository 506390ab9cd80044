//! The place of an error: the text before its cause.
//!
//! `FATAL[0000] decode config at config.json: inbounds[0].listen: ParseAddr("x"): …` happened at
//! `decode inbounds[0].listen`, `FATAL[0000] initialize router: parse rule[0]: invalid ip …` at
//! `initialize router: parse rule[0]`. Where the reference names no place, the locus is the stage
//! alone, or empty.

/// The locus of what a program wrote to standard error.
pub fn locus(stderr: &str) -> String {
    let fatal = stderr.lines().find(|line| line.starts_with("FATAL"));
    let Some(line) = fatal else {
        let panicked = stderr.lines().any(|line| line.starts_with("panic: "));
        return if panicked { "panic".to_owned() } else { String::new() };
    };
    let text = line.split_once(' ').map_or("", |(_, text)| text);
    if let Some((_, variable)) = text.split_once("set environment variable ") {
        let name = variable.split('=').next().unwrap_or_default();
        return format!("deprecated {name}");
    }
    for (stage, word) in [("decode config at ", "decode"), ("unmarshal new object", "reread")] {
        let Some(rest) = text.strip_prefix(stage) else { continue };
        let cause = rest.split_once(": ").map_or("", |(_, cause)| cause);
        return match place_in_json(cause) {
            Some(place) => format!("{word} {place}"),
            None => word.to_owned(),
        };
    }
    let segments = text.split(": ").take_while(|segment| is_stage(segment));
    segments.collect::<Vec<_>>().join(": ")
}

/// A JSON path in front of a cause, or the row and column behind it.
fn place_in_json(cause: &str) -> Option<String> {
    if let Some(at) = cause.rfind(": row ") {
        return Some(cause[at + 2..].split(" (").next()?.to_owned());
    }
    let (path, _) = cause.split_once(": ")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_$.[]-/".contains(c);
    (!path.is_empty() && path != "json" && path.chars().all(fits)).then(|| path.to_owned())
}

fn is_stage(segment: &str) -> bool {
    let named = [
        "create clash-server",
        "create log factory",
        "create v2ray-server",
        "initialize dns router",
        "initialize router",
        "parse log level",
        "start service",
    ];
    // `initialize inbound[0]`, `parse dns rule[3]`, `start inbound/mixed[0]`
    let indexed = ["initialize ", "parse ", "start "].iter().any(|verb| segment.starts_with(verb))
        && segment.ends_with(']');
    named.contains(&segment) || indexed
}

#[cfg(test)]
mod tests {
    use super::locus;

    #[test]
    fn each_shape_of_error() {
        let cases = [
            (
                r#"FATAL[0000] decode config at c.json: zzz: json: unknown field "zzz""#,
                "decode zzz",
            ),
            (
                r#"FATAL[0000] decode config at c.json: inbounds[0].listen: ParseAddr("x"): bad"#,
                "decode inbounds[0].listen",
            ),
            ("FATAL[0000] decode config at c.json: duplicate inbound tag: a", "decode"),
            (
                "FATAL[0000] decode config at c.json: invalid character ',': row 1, column 9",
                "decode row 1, column 9",
            ),
            (
                "WARN[0000] old\nFATAL[0000] initialize router: parse rule[0]: invalid ip: 5",
                "initialize router: parse rule[0]",
            ),
            ("FATAL[0000] initialize outbound[0]: missing tags", "initialize outbound[0]"),
            (
                "ERROR[0000] x\nFATAL[0000] to continuing using this feature, set environment \
                 variable ENABLE_DEPRECATED_TUN_GSO=true",
                "deprecated ENABLE_DEPRECATED_TUN_GSO",
            ),
            ("panic: unknown value\n\ngoroutine 1", "panic"),
            ("", ""),
        ];
        for (stderr, wanted) in cases {
            assert_eq!(locus(stderr), wanted, "{stderr}");
        }
    }
}
