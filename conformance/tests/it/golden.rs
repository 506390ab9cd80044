//! Every recorded verdict of the reference, against the program under test.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use crosspoint_conformance::golden::lists::{Deviations, Pending};
use crosspoint_conformance::golden::{Command, load, run_all, uses};
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
        return write_pending(suite, &vectors, &outcomes, &deviations);
    }

    let known = vectors.iter().map(|vector| vector.name.as_str());
    let known: std::collections::BTreeSet<_> = known.collect();
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

fn write_pending(
    suite: &str,
    vectors: &[crosspoint_conformance::golden::Vector],
    outcomes: &[crosspoint_conformance::golden::Outcome],
    deviations: &Deviations,
) -> Result<()> {
    let mut entries = Vec::new();
    for (vector, outcome) in vectors.iter().zip(outcomes) {
        if outcome.difference(&vector.expected).is_none()
            || deviations.find(suite, &vector.name).is_some()
        {
            continue;
        }
        let needs = uses(&vector.config).into_iter().collect::<Vec<_>>().join(" ");
        let needs = if needs.is_empty() { "nothing known: look at it".to_owned() } else { needs };
        entries.push((vector.name.clone(), needs));
    }
    loud::line(&format!("WRITTEN  {} entries of {suite} into pending.txt", entries.len()));
    Pending::rewrite(suite, &entries)
}
