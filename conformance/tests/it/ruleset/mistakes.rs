//! What is refused is refused alike: the exit code, and the reference's words first.

use anyhow::{Result, ensure};

use super::{Outcome, Pair};

/// The text behind `FATAL[0000] `.
fn fatal(outcome: &Outcome) -> &str {
    let line = outcome.stderr.lines().find_map(|line| line.split_once("FATAL[0000] "));
    line.map_or("", |(_, text)| text)
}

#[test]
fn the_words_of_the_reference_come_first() -> Result<()> {
    let pair = Pair::new()?;
    pair.write("empty.json", "")?;
    pair.write("array.json", "[]")?;
    pair.write("cut.json", r#"{"version": 1"#)?;
    pair.write("version.json", r#"{"rules": []}"#)?;
    pair.write("version9.json", r#"{"version": 9}"#)?;
    pair.write("field.json", r#"{"version": 1, "rules": [{"domian": "a"}]}"#)?;
    pair.write("type.json", r#"{"version": 1, "rules": [{"domain": 5}]}"#)?;
    pair.write("kind.json", r#"{"version": 1, "rules": [{"type": "x"}]}"#)?;
    pair.write("cidr.json", r#"{"version": 1, "rules": [{"ip_cidr": ["1.1.1.1", "x"]}]}"#)?;
    pair.write("source.json", r#"{"version": 1, "rules": [{"source_ip_cidr": "1.1.1.1/33"}]}"#)?;
    pair.write("network.json", r#"{"version": 2, "rules": [{"network_type": "wifi"}]}"#)?;
    pair.write("regex.json", r#"{"version": 2, "rules": [{"domain_regex": "("}]}"#)?;
    pair.write("nothing.json", r#"{"version": 2, "rules": [{"invert": true}]}"#)?;
    pair.write("mode.json", r#"{"version": 2, "rules": [{"type": "logical", "mode": "x", "rules": [{"domain": "a"}]}]}"#)?;
    pair.write("magic.srs", "SRX\u{1}")?;
    pair.write("new.srs", "SRS\u{4}")?;
    pair.write("short.srs", "SR")?;
    pair.write("unpacked.srs", "SRS\u{1}abcdef")?;
    let mut commands = Vec::new();
    let sources = [
        "empty", "array", "cut", "version", "version9", "field", "type", "kind", "cidr", "source",
        "network", "none",
    ];
    for name in sources {
        let path = format!("{name}.json");
        commands.push(vec!["rule-set".to_owned(), "compile".to_owned(), path]);
    }
    for name in ["field", "none"] {
        commands.push(vec!["rule-set".to_owned(), "format".to_owned(), format!("{name}.json")]);
        commands.push(vec!["rule-set".to_owned(), "upgrade".to_owned(), format!("{name}.json")]);
    }
    for name in ["regex", "nothing", "mode", "cidr", "none"] {
        let path = format!("{name}.json");
        commands.push(vec!["rule-set".to_owned(), "match".to_owned(), path, "a".to_owned()]);
    }
    for name in ["magic", "new", "short", "unpacked", "none"] {
        let path = format!("{name}.srs");
        commands.push(vec!["rule-set".to_owned(), "decompile".to_owned(), path]);
    }
    for rest in [
        "rule-set match -f x field.json a",
        "rule-set merge out.json",
        "rule-set merge out.json -c none.json",
        "rule-set merge out.json -C none",
        "rule-set merge out.json -c field.json",
        "rule-set convert field.json",
        "rule-set convert -t x field.json",
        "rule-set convert -t adguard empty.json",
        "geoip list",
        "geoip -f magic.srs list",
        "geosite list",
        "geosite -f magic.srs list",
    ] {
        commands.push(rest.split(' ').map(str::to_owned).collect());
    }
    for command in commands {
        let args: Vec<&str> = command.iter().map(String::as_str).collect();
        let (ours, theirs) = (pair.ours(&args)?, pair.reference(&args)?);
        let (mine, other) = (fatal(&ours), fatal(&theirs));
        ensure!(ours.code == Some(1) && theirs.code == Some(1), "{args:?}: {ours:?} {theirs:?}");
        ensure!(mine.starts_with(other), "{args:?}:\n ours      {mine}\n reference {other}");
    }
    Ok(())
}

/// The reference crashes, and so loses what the output held before.
#[test]
fn what_crashes_the_reference_is_an_error() -> Result<()> {
    let pair = Pair::new()?;
    for (rules, word) in [
        (r#"[{"domain_suffix": ""}]"#, "domain_suffix: empty item is not allowed"),
        (
            r#"[{"type": "logical", "mode": "x", "rules": [{"domain": "a"}]}]"#,
            "unknown logical mode: x",
        ),
    ] {
        pair.write("set.json", format!(r#"{{"version": 2, "rules": {rules}}}"#))?;
        pair.write("set.srs", "precious")?;
        let theirs = pair.reference(&["rule-set", "compile", "set.json", "-o", "theirs.srs"])?;
        let ours = pair.ours(&["rule-set", "compile", "set.json"])?;
        ensure!(theirs.code == Some(2), "{theirs:?}");
        ensure!(ours.code == Some(1) && fatal(&ours).contains(word), "{ours:?}");
        ensure!(pair.text("set.srs")? == "precious");
    }
    Ok(())
}
