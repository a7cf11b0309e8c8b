//! The layout rules that no lint can hold: file size, edges between crates, pure files, module docs, dead links.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines of a file without its tests.
const LINES_MAX: usize = 500;

/// Which workspace crates a crate may depend on: down only.
const EDGES: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("mesh", &["proto"]),
    ("registry", &["mesh", "proto"]),
    ("eastwest-gateway", &["mesh", "proto"]),
    ("proxy", &["mesh", "proto"]),
    ("cli", &["eastwest-gateway", "mesh", "proto", "proxy", "registry"]),
    (
        "tests",
        &["cli", "eastwest-gateway", "mesh", "proto", "proxy", "registry"],
    ),
];

/// What pure code may not name.
const IMPURE: [&str; 7] = [
    "tokio::",
    "clock::",
    "fastrand::",
    "getrandom::",
    "std::fs",
    "TcpStream",
    "UdpSocket",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

/// Files that git tracks or would track, with their text.
fn files(ending: &str) -> BTreeMap<String, String> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git")
        .args(args)
        .current_dir(root())
        .output()
        .expect("git lists the tree");
    assert!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let names = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let found = names.lines().filter(|name| name.ends_with(ending));
    found
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

/// The text without the test module at its end.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn files_are_short() {
    let sources = files(".rs");
    assert!(sources.len() > 50, "the listing works");
    let long = sources
        .iter()
        .map(|(name, text)| (name, without_tests(text).lines().count()));
    let long: Vec<_> = long
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert_none("at most 500 lines without tests", &long);
}

#[test]
fn modules_say_what_they_are_for() {
    // The tests of a module are explained by the module.
    let is_test = |name: &str| name.contains("/src/") && (name.ends_with("/tests.rs") || name.contains("/tests/"));
    let sources = files(".rs").into_iter().filter(|(name, _)| !is_test(name));
    let bare = sources.filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!"));
    assert_none(
        "a file begins with its place, promise and refusal (//!)",
        &bare.map(|(name, _)| name).collect::<Vec<_>>(),
    );
}

#[test]
fn modules_lie_beside_their_folder() {
    let mods = files("mod.rs").into_keys().filter(|name| name.ends_with("/mod.rs"));
    assert_none("foo.rs beside foo/, no mod.rs", &mods.collect::<Vec<_>>());
}

#[test]
fn crates_depend_downwards_only() {
    let mut broken = Vec::new();
    for (name, allowed) in EDGES {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("each crate has a manifest");
        for (other, _) in EDGES {
            let depends = text.lines().any(|line| line.starts_with(&format!("{other}.workspace")));
            if depends && !allowed.contains(&other) {
                broken.push(format!("{name} depends on {other}"));
            }
        }
    }
    assert_none("proto <- mesh <- daemons <- cli <- tests", &broken);
}

#[test]
fn pure_files_are_pure() {
    let mut broken = Vec::new();
    let mut pure = 0;
    for (name, text) in files(".rs") {
        let doc: Vec<_> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        if !doc
            .iter()
            .any(|line| line.trim_end().ends_with("Pure.") || line.contains("//! Pure"))
        {
            continue;
        }
        pure += 1;
        let code = without_tests(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in IMPURE.into_iter().filter(|word| line.contains(*word)) {
                broken.push(format!("{name}: {word} in `{}`", line.trim()));
            }
        }
    }
    assert!(pure >= 10, "only {pure} files call themselves pure");
    assert_none(
        "pure code knows no tokio, clock, random numbers, files or sockets",
        &broken,
    );
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for (name, text) in files(".md") {
        let folder = root().join(&name).parent().expect("a file lies in a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let outside = link.contains("://") || link.starts_with("mailto:") || path.is_empty();
            if !outside && !folder.join(path).exists() {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    assert_none("relative links exist", &dead);
}
