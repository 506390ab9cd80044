//! Every recorded verdict of the reference, against the program under test.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use crosspoint_conformance::golden::lists::{Deviations, Pending};
use crosspoint_conformance::golden::{Command, Outcome, Vector, load, run_all, uses};
use crosspoint_conformance::loud;
use crosspoint_conformance::subject::Subject;

/// Set to rewrite `vectors/pending.txt` from what fails now.
const WRITE_PENDING: &str = "CONFORMANCE_WRITE_PENDING";
/// Failures shown in full; the rest is counted.
const SHOWN: usize = 60;

#[test]
fn check_agrees_with_the_reference() -> Result<()> {
    agree(Command::Check)
}

#[test]
fn format_agrees_with_the_reference() -> Result<()> {
    agree(Command::Format)
}

fn agree(command: Command) -> Result<()> {
    let subject = Subject::under_test();
    let suite = command.name();
    let (pending, deviations) = if subject.is_reference() {
        // The reference has everything and does not differ from itself.
        (Pending::default(), Deviations::default())
    } else {
        (Pending::load()?, Deviations::load()?)
    };
    let mut vectors = load(command)?;
    let all = vectors.len();
    if !subject.is_reference() {
        // These say only that the recorded binary was built without the feature.
        vectors.retain(|vector| !vector.lacks_build_tag);
    }
    let silent = all - vectors.len();
    let outcomes = run_all(&subject, &vectors)?;

    let (mut agreed, mut meant) = (0, 0);
    let (mut waiting, mut early, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (vector, outcome) in vectors.iter().zip(&outcomes) {
        let difference = outcome.difference(&vector.expected);
        let name = &vector.name;
        let listed = deviations.find(suite, name);
        match (difference, listed, pending.reason(suite, name)) {
            (None, Some(deviation), _) => {
                failures.push(format!("{name}: no longer deviates ({})", deviation.what));
            }
            (None, None, Some(_)) => early.push(name.as_str()),
            (None, None, None) => agreed += 1,
            (Some(what), Some(deviation), _) if what == deviation.what => meant += 1,
            (Some(what), Some(deviation), _) => {
                failures.push(format!("{name}: deviates by {what}, listed is {}", deviation.what));
            }
            (Some(_), None, Some(reason)) => waiting.push((name.as_str(), reason)),
            (Some(what), None, None) => {
                let said = outcome.stderr.lines().next().unwrap_or_default();
                failures.push(format!("{name}\t{what}\n      config   {}", vector.config));
                let text = failures.last_mut().map(|last| write!(last, "\n      said     {said}"));
                text.transpose()?;
            }
        }
    }
    if std::env::var_os(WRITE_PENDING).is_some() && !subject.is_reference() {
        return write_pending(&subject, suite, &vectors, &outcomes, &deviations);
    }

    let known = vectors.iter().map(|vector| vector.name.as_str());
    let known: BTreeSet<_> = known.collect();
    for name in pending.names(suite).into_iter().filter(|name| !known.contains(name)) {
        failures.push(format!("{name}: listed as pending, but there is no such vector"));
    }
    for deviation in deviations.of(suite).filter(|d| !known.contains(d.name.as_str())) {
        failures.push(format!("{}: listed as deviation, but no such vector", deviation.name));
    }
    for (name, reason) in &waiting {
        loud::line(&format!("PENDING  {suite}/{name}: {reason}"));
    }
    for name in &early {
        loud::line(&format!("READY    {suite}/{name} agrees: take it out of pending.txt"));
    }
    loud::line(&format!(
        "GOLDEN   {suite}, {}: {agreed} of {all} agree, {meant} deviate as listed, {} pending \
         ({} of them agree already), {silent} say nothing, {} wrong",
        subject.name(),
        waiting.len() + early.len(),
        early.len(),
        failures.len(),
    ));
    if !failures.is_empty() {
        let more = failures.len().saturating_sub(SHOWN);
        let shown =
            failures.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n  ");
        bail!("{} vectors of {suite} are wrong:\n  {shown}\n  and {more} more", failures.len());
    }
    Ok(())
}

/// Lists what fails and needs something that the subject was built without. What fails and needs
/// nothing else is not pending but wrong, and stays out of the list.
fn write_pending(
    subject: &Subject,
    suite: &str,
    vectors: &[Vector],
    outcomes: &[Outcome],
    deviations: &Deviations,
) -> Result<()> {
    let built = built_types(subject)?;
    let (mut entries, mut wrong) = (Vec::new(), 0);
    for (vector, outcome) in vectors.iter().zip(outcomes) {
        if outcome.difference(&vector.expected).is_none()
            || deviations.find(suite, &vector.name).is_some()
        {
            continue;
        }
        let parts = uses(&vector.config).into_iter().filter(|part| is_missing(part, &built));
        let mut missing = parts.collect::<Vec<_>>().join(" ");
        // What has no type of its own, such as a rule action, the subject names itself.
        let refused = outcome.stderr.lines().find(|line| line.ends_with("not in this build"));
        if let (true, Some(line)) = (missing.is_empty(), refused) {
            let cause = line.rsplit(": ").next().unwrap_or(line);
            missing = cause.trim_end_matches(" is not in this build").to_owned();
        }
        if missing.is_empty() {
            wrong += 1;
        } else {
            entries.push((vector.name.clone(), missing));
        }
    }
    loud::line(&format!(
        "WRITTEN  {} entries of {suite} into pending.txt; {wrong} more are wrong, not pending",
        entries.len()
    ));
    // Both suites write the same file, from two threads.
    static WRITING: Mutex<()> = Mutex::new(());
    let _guard = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    Pending::rewrite(suite, &entries)
}

/// The types that a subject was compiled with: the line `Tags:` of `version`.
fn built_types(subject: &Subject) -> Result<BTreeSet<String>> {
    let output = subject.run_cli(&std::env::temp_dir(), ["version"], &[])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tags = text.lines().find_map(|line| line.strip_prefix("Tags: "));
    let tags = tags.context("`version` prints no line Tags")?;
    Ok(tags.split(',').map(|tag| tag.trim().to_owned()).collect())
}

/// Whether a part named by [`uses`] is not in the build.
fn is_missing(part: &str, built: &BTreeSet<String>) -> bool {
    match part.split_once('/') {
        Some(("inbound" | "outbound" | "endpoint" | "service" | "dns", name)) => {
            !built.contains(name)
        }
        // Blocks that come with issues of their own, until their tag is in the build.
        Some((kind, name)) => !built.contains(name) && !built.contains(kind),
        None => ["tls", "multiplex", "rule-set"].contains(&part) && !built.contains(part),
    }
}
