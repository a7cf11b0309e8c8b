//! The command line as a user types it: what is printed, and what the process ends with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where it fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use mesh::{
    identity::{KeyRequest, TrustDomain, system},
    model::RegionId,
    ops::Faults,
    runtime::clock,
};
use registry::authority::Authority;

fn isthmus(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isthmus"));
    for name in ["ISTHMUS_REGISTRY", "ISTHMUS_CREDENTIALS", "ISTHMUS_LOG"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// An operator's credentials of a region that runs nowhere.
fn credentials(folder: &Path) {
    let (region, domain) = (RegionId::parse("eu").unwrap(), TrustDomain::parse("eu").unwrap());
    let now = clock::wall();
    let (authority, root) = Authority::create(&region, &domain, now).unwrap();
    let key = KeyRequest::generate().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    let chain = authority
        .issue(key.der(), &system::operator(&domain), hour, now)
        .unwrap();
    key.complete(chain).unwrap().save(folder).unwrap();
    let bundle = Arc::new(root.bundle(1).unwrap());
    let pem: String = bundle
        .anchors()
        .map(|der| mesh::identity::pem("CERTIFICATE", &der))
        .collect();
    fs::write(folder.join("bundle.pem"), pem).unwrap();
}

#[test]
fn help_names_every_command_and_what_exit_codes_mean() {
    let output = isthmus(&["--help"]);
    assert_eq!(code(&output), 0);
    let commands = [
        "registry",
        "gateway",
        "proxy",
        "init",
        "token",
        "peer",
        "ca",
        "services",
        "endpoints",
        "exports",
        "export",
        "unexport",
        "resolve",
        "tenants",
        "status",
        "doctor",
        "why",
        "drill",
        "completion",
        "demo",
    ];
    for command in commands {
        let listed = out(&output)
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(listed, "{command} is not listed");
        assert_eq!(code(&isthmus(&[command, "--help"])), 0, "{command} --help");
    }
    assert!(out(&output).contains("Exit codes: 0 done"));
    assert!(!out(&output).contains("demo-app"));
}

#[test]
fn mistyped_command_is_a_usage_error() {
    for arguments in [
        &["nonsense"][..],
        &["status", "--registry"],
        &["drill", "evacuate"],
        &["endpoints"],
        &["registry"],
    ] {
        let output = isthmus(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", err(&output));
        assert!(
            err(&output).contains("Usage") || err(&output).contains("--help"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = isthmus(&["completion", shell]);
        assert_eq!(code(&output), 0);
        assert!(out(&output).contains("evacuate"), "{shell}");
    }
}

#[test]
fn unreachable_registry_has_its_own_exit_code_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    credentials(folder.path());
    let folder = folder.path().to_str().unwrap();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = isthmus(&["status", "--registry", &address, "--credentials", folder]);
    assert_eq!(code(&output), 5, "{}", err(&output));
    let text = err(&output);
    assert!(text.contains(&format!("registry not reachable at {address}")), "{text}");
    assert!(text.contains("is it running?"), "{text}");
}

#[test]
fn missing_credentials_say_how_to_give_them() {
    let output = isthmus(&["services", "--credentials", "/nowhere/operator"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("/nowhere/operator") && err(&output).contains("--credentials DIR"));
}

#[test]
fn printed_configurations_are_good_ones() {
    fn check<T>(daemon: &str, names: &[&str], parse: fn(&str) -> Result<T, Faults>) {
        let output = isthmus(&[&["init", daemon], names].concat());
        assert_eq!(code(&output), 0, "{}", err(&output));
        if let Err(faults) = parse(&out(&output)) {
            panic!("{daemon}: {faults}");
        }
        // Each setting that is shown is one that can be written.
        let text: String = out(&output)
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(setting) if is_setting(setting) => format!("{setting}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        if let Err(faults) = parse(&text) {
            panic!("{daemon} with all defaults written out: {faults}\n{text}");
        }
    }
    let both = ["--region", "us", "--zone", "b"];
    check("registry", &both, registry::Config::parse);
    check(
        "gateway",
        &[&both[..], &["--cluster", "us-2"]].concat(),
        eastwest_gateway::Config::parse,
    );
    check(
        "proxy",
        &[&both[..], &["--cluster", "us-2"]].concat(),
        proxy::Config::parse,
    );
}

/// Whether a commented line is a table's heading or a setting, and no sentence.
fn is_setting(line: &str) -> bool {
    let name = line.split(" = ").next().unwrap_or_default();
    let key = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    line.starts_with('[') || line.contains(" = ") && key(name)
}

#[test]
fn names_in_a_printed_configuration_are_those_given() {
    let text = out(&isthmus(&[
        "init",
        "gateway",
        "--region",
        "us",
        "--cluster",
        "us-2",
        "--zone",
        "b",
    ]));
    let config = eastwest_gateway::Config::parse(&text).unwrap();
    assert_eq!(
        (config.region.as_str(), config.cluster.as_str(), config.zone.as_str()),
        ("us", "us-2", "b")
    );
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let registry = write("registry.toml", "region = \"EU!\"\ndata_dir = 7\nspeed = 9\n");
    let gateway = write("gateway.toml", "region = \"EU!\"\ndata_dir = 7\nspeed = 9\n");
    let proxy = write("proxy.toml", "region = \"EU!\"\ndata_dir = 7\nspeed = 9\n");
    for (daemon, path) in [("registry", registry), ("gateway", gateway), ("proxy", proxy)] {
        let output = isthmus(&[daemon, "--config", &path]);
        assert_eq!(code(&output), 1, "{daemon}");
        let text = err(&output);
        assert!(text.contains(&path), "{daemon}: {text}");
        for key in ["region:", "data_dir:", "speed:"] {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with(key)),
                "{daemon}, {key}: {text}"
            );
        }
    }
}

#[test]
fn configuration_file_that_is_not_there_is_named() {
    let output = isthmus(&["gateway", "--config", "/nowhere/gateway.toml"]);
    assert_eq!(code(&output), 1);
    assert!(err(&output).contains("/nowhere/gateway.toml"), "{}", err(&output));
}

#[test]
fn demo_refuses_a_folder_that_holds_something() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "precious").unwrap();
    let output = isthmus(&["demo", "--dir", folder.path().to_str().unwrap(), "--plain"]);
    assert_eq!(code(&output), 4, "{}", err(&output));
    assert!(err(&output).contains("is not empty"));
    assert_eq!(fs::read_to_string(folder.path().join("mine")).unwrap(), "precious");
}

#[test]
fn demo_too_short_for_its_acts_is_a_usage_error() {
    assert_eq!(code(&isthmus(&["demo", "--duration", "5s"])), 2);
}
