//! A bad file is answered with all of its faults at once, and nothing is made.

use std::{fs, process::Output};

use tests::isthmus;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn all_faults_of_a_file_are_told_together_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let common = format!("region = 'WEST'\ndata_dir = {data:?}\nsurprise = 1\n");
    let registry = format!("{common}[listen]\napi = 'here'\n[lease]\nttl = '0s'\n");
    let gateway = format!("{common}cluster = 'west'\nregistry = []\n[limits]\nconnections = 0\n");
    let proxy =
        format!("{common}cluster = 'west'\nregistry = ['nowhere']\n[workload]\nnamespace = 'shop'\nweight = 0\n");
    let cases: [(&[&str], &str, &[&str]); 4] = [
        (
            &["registry"],
            &registry,
            &["region", "surprise", "listen.api", "lease.ttl"],
        ),
        (
            &["registry", "init"],
            &registry,
            &["region", "surprise", "listen.api", "lease.ttl"],
        ),
        (
            &["gateway"],
            &gateway,
            &["region", "surprise", "registry", "limits.connections", "id"],
        ),
        (
            &["proxy"],
            &proxy,
            &["region", "surprise", "registry[0]", "workload.id", "workload.weight"],
        ),
    ];
    for (command, text, faults) in cases {
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        let output = isthmus(command.iter().copied().chain(["--config", file.to_str().unwrap()]));
        let told = told(&output);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {told}");
        for key in faults {
            assert!(
                told.contains(&format!("\n  {key}: ")),
                "{command:?} does not tell {key}: {told}"
            );
        }
        assert!(!data.exists(), "{command:?} created {}", data.display());
    }
}
