//! Random files through all commands of `rule-set`.

use anyhow::{Context, Result, ensure};

use super::{Pair, generate::Dice, inflate};

/// How many files: enough to meet each item in each version, few enough for the processes that it takes.
const FILES: u64 = 40;

#[test]
fn compiled_and_decompiled_alike() -> Result<()> {
    let pair = Pair::new()?;
    for seed in 0..FILES {
        let file = Dice::new(seed).file(4);
        pair.write("set.json", file.to_string())?;
        round(&pair).with_context(|| format!("seed {seed}: {file}"))?;
    }
    Ok(())
}

fn round(pair: &Pair) -> Result<()> {
    pair.timed(true, &["rule-set", "compile", "set.json", "-o", "ours.srs"])?;
    pair.timed(false, &["rule-set", "compile", "set.json", "-o", "theirs.srs"])?;
    let (ours, theirs) = (inflate(&pair.read("ours.srs")?)?, inflate(&pair.read("theirs.srs")?)?);
    ensure!(ours == theirs, "the inflated rules differ");
    // Each reads what the other wrote.
    pair.timed(true, &["rule-set", "decompile", "theirs.srs", "-o", "ours.json"])?;
    pair.timed(false, &["rule-set", "decompile", "ours.srs", "-o", "theirs.json"])?;
    ensure!(pair.read("ours.json")? == pair.read("theirs.json")?, "the decompiled files differ");
    pair.timed(true, &["rule-set", "compile", "ours.json", "-o", "again.srs"])?;
    ensure!(inflate(&pair.read("again.srs")?)? == ours, "compiled again, the rules differ");
    pair.same(&["rule-set", "format", "set.json"])?;
    pair.same(&["rule-set", "upgrade", "set.json"])?;
    Ok(())
}

/// One rule a file: in the reference, what one rule has found leaks into the next (`crosspoint.compat` has a switch for
/// it). For the same reason no logical rules.
#[test]
fn matched_alike() -> Result<()> {
    let pair = Pair::new()?;
    for seed in 0..FILES {
        let mut dice = Dice::new(1000 + seed);
        let rule = dice.rule(3, usize::MAX);
        pair.write("set.json", serde_json::json!({"version": 3, "rules": [rule]}).to_string())?;
        pair.timed(true, &["rule-set", "compile", "set.json"])?;
        let mut probes =
            vec!["10.0.0.1".to_owned(), "2001:db8::1".to_owned(), "1.2.3.4".to_owned()];
        let words = ["domain", "domain_suffix", "domain_keyword"].map(|key| rule[key].clone());
        let words = words.iter().flat_map(|value| match value {
            serde_json::Value::Array(items) => items.clone(),
            one => vec![one.clone()],
        });
        probes.extend(words.filter_map(|word| Some(format!("a{}", word.as_str()?))).take(4));
        probes.push(format!("a{}", dice.name()));
        for probe in probes {
            let context = || format!("seed {seed}, {probe}: {rule}");
            pair.same(&["rule-set", "match", "set.json", &probe]).with_context(context)?;
            pair.same(&["rule-set", "match", "-f", "binary", "set.srs", &probe])
                .with_context(context)?;
        }
    }
    Ok(())
}

#[test]
fn merged_alike() -> Result<()> {
    let pair = Pair::new()?;
    std::fs::create_dir(pair.path("parts"))?;
    for seed in 0..12 {
        let mut dice = Dice::new(2000 + seed);
        pair.write("b.json", dice.file(3).to_string())?;
        pair.write("parts/a.json", dice.file(3).to_string())?;
        pair.write("parts/c.json", r#"{"version": 1, "rules": [{"domain": "c"}]} // rest"#)?;
        pair.write("parts/none.txt", "{")?;
        let merge = |output| ["rule-set", "merge", output, "-c", "b.json", "-C", "parts"];
        pair.timed(true, &merge("ours.json"))?;
        pair.timed(false, &merge("theirs.json"))?;
        ensure!(pair.text("ours.json")? == pair.text("theirs.json")?, "seed {seed}");
        let said = pair.same(&["rule-set", "merge", "sub/one.json", "-c", "b.json"])?;
        ensure!(said.stderr.ends_with("sub/one.json\n"), "{said:?}");
    }
    Ok(())
}

#[test]
fn written_in_place_alike() -> Result<()> {
    let pair = Pair::new()?;
    for command in ["format", "upgrade"] {
        let mut seen = Vec::new();
        for ours in [true, false] {
            let rule = r#"{"version":1,"rules":[{"domain":["a"],"port":[1,2]}]}"#;
            pair.write("set.json", rule)?;
            let args = ["rule-set", command, "-w", "set.json"];
            let first = if ours { pair.ours(&args)? } else { pair.reference(&args)? };
            let second = if ours { pair.ours(&args)? } else { pair.reference(&args)? };
            seen.push((first, second, pair.text("set.json")?));
        }
        ensure!(seen[0] == seen[1], "{command}: {seen:#?}");
    }
    Ok(())
}
