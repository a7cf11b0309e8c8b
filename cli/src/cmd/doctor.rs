//! `isthmus doctor`: asks every node what it finds out about itself, compares, and names what is wrong, with the next
//! command. Changes nothing. What counts as wrong is decided in `judge`.

mod finding;
mod gather;
mod judge;
#[cfg(test)]
mod tests;

use serde::Serialize;

use self::finding::{Finding, Level};
use super::Context;
use crate::failure::{Exit, Failure, Outcome};

/// What programs read.
#[derive(Serialize)]
struct Report {
    /// The worst of all findings.
    verdict: Level,
    findings: Vec<Finding>,
}

pub(super) async fn run(context: &Context) -> Outcome {
    let evidence = gather::gather(&context.global).await?;
    let findings = judge::judge(&evidence);
    let verdict = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    let report = Report { verdict, findings };
    context.printer.show(&report, |report| text(&report.findings))?;
    let faults: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Fault)
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = faults.iter().map(|finding| finding.name).collect();
    names.dedup();
    let noun = if faults.len() == 1 { "fault" } else { "faults" };
    let what = format!("{} {noun}: {}", faults.len(), names.join(", "));
    Err(Failure::text(Exit::Failed, what))
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let name = if finding.name.is_empty() { "" } else { ": " };
        text.push_str(&format!(
            "{:<8} {:<13} {}{name}{}\n",
            finding.level.as_str(),
            finding.check,
            finding.name,
            finding.seen
        ));
        if !finding.next.is_empty() {
            text.push_str(&format!("{:<22} next: {}\n", "", finding.next));
        }
    }
    text
}
