//! Alerts and their pages belong together: each alert has a page, each page an alert or a task, each metric in an expression
//! is one that daemons show. Reads files only.
#![allow(clippy::panic, reason = "a test stops where it fails")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ALERTS: &str = "deploy/observability/alerts.yaml";
const METRICS: &str = "docs/reference/metrics.md";
const PAGES: &str = "docs/operating";
/// Pages that belong to no alert.
const TASKS: [&str; 9] = [
    "README",
    "back-up-and-restore",
    "doctor",
    "join-regions",
    "replace-a-node",
    "rotate-the-authority",
    "run-a-drill",
    "start-a-region",
    "upgrade",
];
const SECTIONS: [&str; 5] = [
    "## What it means",
    "## What users see",
    "## How to confirm",
    "## What to do",
    "## How to prevent it",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

struct Alert {
    name: String,
    expr: String,
    runbook: String,
}

/// The file is written one key a line, so that no YAML parser is needed.
fn alerts() -> Vec<Alert> {
    let text = text(ALERTS);
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.trim_start().strip_prefix(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in {block}"));
        line.trim().trim_matches('\'').replace("''", "'")
    };
    let blocks = text.split("- alert: ").skip(1);
    blocks
        .map(|block| Alert {
            name: block.lines().next().expect("a name").trim().to_owned(),
            expr: value(block, "expr:"),
            runbook: value(block, "runbook_url:"),
        })
        .collect()
}

/// `IsthmusNoQuorum` -> `no-quorum`.
fn page_name(alert: &str) -> String {
    let mut name = String::new();
    for letter in alert.strip_prefix("Isthmus").expect("a prefix of our own").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

fn pages() -> BTreeSet<String> {
    let folder = fs::read_dir(root().join(PAGES)).expect("the folder");
    let names = folder.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    names
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        .collect()
}

#[test]
fn each_alert_has_its_page_and_each_page_an_alert_or_a_task() {
    let alerts = alerts();
    assert!(alerts.len() > 20, "the file is read");
    let mut expected: BTreeSet<String> = TASKS.map(str::to_owned).into();
    for alert in &alerts {
        let name = page_name(&alert.name);
        assert_eq!(alert.runbook, format!("{PAGES}/{name}.md"), "{}", alert.name);
        let page = text(&alert.runbook);
        for section in SECTIONS {
            assert!(page.contains(section), "{name} lacks {section}");
        }
        assert!(page.contains("```console\n$ "), "{name} has a command to confirm it");
        assert!(
            page.contains(&format!("`{}`", alert.expr)),
            "{name} shows the expression"
        );
        assert!(expected.insert(name), "{} stands twice", alert.name);
    }
    assert_eq!(pages(), expected);
}

#[test]
fn the_index_names_every_page() {
    let index = text("docs/operating/README.md");
    for page in pages().iter().filter(|page| *page != "README") {
        assert!(index.contains(&format!("({page}.md)")), "{page} is not in the index");
    }
}

#[test]
fn every_fault_that_doctor_names_is_explained() {
    let page = text("docs/operating/doctor.md");
    let mut names = BTreeSet::new();
    for file in ["certificates", "clocks", "load", "nodes", "peers", "ports"] {
        let source = text(&format!("cli/src/cmd/doctor/judge/{file}.rs"));
        for piece in source.split('"').skip(1).step_by(2) {
            let is_name = piece.contains('-') && piece.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            // Words that reach.rs uses, not the doctor.
            if is_name
                && ![
                    "wrong-ca",
                    "unknown-domain",
                    "not-yet-valid",
                    "wrong-identity",
                    "bad-certificate",
                ]
                .contains(&piece)
            {
                names.insert(piece.to_owned());
            }
        }
    }
    assert!(names.len() > 25, "{names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "doctor.md does not explain {missing:?}");
}

#[test]
fn every_metric_of_an_alert_is_one_that_daemons_show() {
    let shown = text(METRICS);
    let known = |name: &str| shown.contains(&format!("| `{name}` |"));
    for alert in alerts() {
        let words = alert.expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: BTreeSet<_> = words.filter(|word| word.starts_with("isthmus_")).collect();
        assert!(!metrics.is_empty(), "{}", alert.name);
        for metric in metrics {
            let histogram = metric.strip_suffix("_bucket").is_some_and(known);
            assert!(known(metric) || histogram, "{}: no daemon shows {metric}", alert.name);
        }
        let depth = alert.expr.chars().try_fold(0_i32, |depth, c| match c {
            '(' => Some(depth + 1),
            ')' => (depth > 0).then_some(depth - 1),
            _ => Some(depth),
        });
        assert_eq!(depth, Some(0), "{}: parentheses", alert.name);
    }
}

/// Where Prometheus' own tool is installed (Debian: package prometheus) it has the last word.
#[test]
fn prometheus_takes_the_alerts() {
    match Command::new("promtool")
        .args(["check", "rules", ALERTS])
        .current_dir(root())
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
    }
}
