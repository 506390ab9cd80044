//! Filters of AdGuard.

use anyhow::{Context, Result, ensure};

use super::{Pair, generate::Dice, inflate};

const LINES: &[&str] = &[
    "||ads.example^",
    "||ads.example^$important",
    "@@||good.example^",
    "@@|exact.example^$important",
    "|start.example",
    "end.example^",
    "plain.example",
    "part-of*name",
    "||*.star.example^",
    "||dot.example.",
    "-adv.",
    ".adv^",
    "||a.b^|",
    "0.0.0.0 hosts.example",
    "127.0.0.1 localhost",
    "::  v6.example",
    ":: six.example",
    "0.0.0.0 two names",
    "/^ads[0-9]+\\./",
    "@@/^good[0-9]+/$important",
    "/^1\\.2\\.3/",
    "https://web.example^",
    "||path.example/x",
    "||query.example?x",
    "example.com##.banner",
    "~third.example",
    "||rewrite.example^$dnsrewrite=0.0.0.0",
    "||rewrite.example^$dnsrewrite=1.2.3.4",
    "||app.example^$app=x",
    "||both.example^$important,dnstype=A",
    "||port.example:80^",
    "||1.2.3.4^",
    "10.1.",
    "||^",
    "! comment",
    "# comment",
    "",
    "bad name",
    "münchen.example",
    "||MiXeD.Example^",
];

#[test]
fn converted_alike() -> Result<()> {
    let pair = Pair::new()?;
    let mut files = vec![LINES.join("\n"), LINES.join("\r\n"), "a.example\nb.example\n".to_owned()];
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let lines: Vec<&str> =
            (0..=dice.below(6)).map(|_| LINES[dice.below(LINES.len())]).collect();
        files.push(lines.join("\n"));
    }
    for file in files {
        pair.write("filter.txt", &file)?;
        convert(&pair).with_context(|| file)?;
    }
    Ok(())
}

fn convert(pair: &Pair) -> Result<()> {
    let convert = |output| ["rule-set", "convert", "-t", "adguard", "filter.txt", "-o", output];
    let (ours, theirs) =
        (pair.ours(&convert("ours.srs"))?, pair.reference(&convert("theirs.srs"))?);
    ensure!(ours.code == theirs.code, "ours {ours:?}\n reference {theirs:?}");
    // Ours tells the line as well.
    let bare = |text: &str| {
        let lines = text.lines().map(|line| match line.rsplit_once(" (line ") {
            Some((front, _)) => front.to_owned(),
            None => line.to_owned(),
        });
        lines.collect::<Vec<String>>()
    };
    ensure!(bare(&ours.stderr) == bare(&theirs.stderr), "ours {ours:?}\n reference {theirs:?}");
    if ours.code != Some(0) {
        return Ok(());
    }
    let (mine, other) = (inflate(&pair.read("ours.srs")?)?, inflate(&pair.read("theirs.srs")?)?);
    ensure!(mine == other, "the inflated rules differ");
    for name in [
        "ads.example",
        "x.ads.example",
        "ads1.x",
        "good1.x",
        "part-of-a-name",
        "six.example",
        "start.example.org",
    ] {
        // Only the line itself: rules of the reference leak into each other, but there is only one here.
        pair.same(&["rule-set", "match", "-f", "binary", "theirs.srs", name])?;
    }
    pair.same(&["rule-set", "decompile", "theirs.srs"])?;
    Ok(())
}
