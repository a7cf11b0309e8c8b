//! `isthmus init`: a daemon's configuration with a comment at each setting. The texts are the annotated examples of
//! `deploy/config`, so that what is documented, installed and tested is one.

use std::{fs::OpenOptions, io::Write as _};

use crate::{
    args::{Daemon, InitArgs},
    failure::{Exit, Failure, Outcome},
    render::print,
};

const REGISTRY: &str = include_str!("../../../deploy/config/registry.toml");
const GATEWAY: &str = include_str!("../../../deploy/config/gateway.toml");
const PROXY: &str = include_str!("../../../deploy/config/proxy.toml");

pub(super) fn run(args: &InitArgs) -> Outcome {
    let text = text(args)?;
    let Some(path) = &args.to else {
        return print(&text);
    };
    // A configuration that is there is somebody's work.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| {
            let exit = match error.kind() {
                std::io::ErrorKind::AlreadyExists => Exit::Refused,
                _ => Exit::Failed,
            };
            Failure::new(exit, error).while_doing(format!("cannot create {}", path.display()))
        })?;
    file.write_all(text.as_bytes())?;
    print(&format!("wrote {}", path.display()))
}

/// The example with the given names put in.
fn text(args: &InitArgs) -> Outcome<String> {
    let mut text = match args.daemon {
        Daemon::Registry => REGISTRY,
        Daemon::Gateway => GATEWAY,
        Daemon::Proxy => PROXY,
    }
    .to_owned();
    let names = [
        ("region", &args.region),
        ("cluster", &args.cluster),
        ("zone", &args.zone),
    ];
    for (key, value) in names {
        if let Some(value) = value {
            text = replaced(&text, key, value)?;
        }
    }
    Ok(text)
}

/// Replaces the value of `key = "…"`.
fn replaced(text: &str, key: &str, value: &str) -> Outcome<String> {
    mesh::model::RegionId::parse(value).map_err(|_| {
        Failure::text(
            Exit::Usage,
            format!("--{key} {value:?} is no RFC 1123 label: 1 to 63 lower-case letters, digits and inner '-'"),
        )
    })?;
    let mut found = false;
    let line = |line: &str| {
        let name = line.split_once('=').map(|(name, _)| name.trim());
        if name == Some(key) {
            found = true;
            format!("{key} = \"{value}\"\n")
        } else {
            format!("{line}\n")
        }
    };
    let text = text.lines().map(line).collect();
    if !found {
        return Err(Failure::text(
            Exit::Usage,
            format!("this daemon has no setting {key}; leave --{key} out"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(daemon: Daemon) -> InitArgs {
        InitArgs {
            daemon,
            region: Some("us-west".into()),
            cluster: None,
            zone: Some("us-west-2a".into()),
            to: None,
        }
    }

    #[test]
    fn names_are_filled_in_and_comments_stay() {
        let text = text(&args(Daemon::Registry)).unwrap();
        assert!(
            text.contains("region = \"us-west\"") && text.contains("zone = \"us-west-2a\""),
            "{text}"
        );
        assert!(text.lines().any(|line| line.starts_with('#')));
    }

    #[test]
    fn malformed_name_and_unknown_setting_are_usage_errors() {
        let mut bad = args(Daemon::Registry);
        bad.region = Some("Us_West".into());
        assert_eq!(text(&bad).unwrap_err().exit, Exit::Usage);
        let mut other = args(Daemon::Registry);
        other.cluster = Some("c1".into());
        assert_eq!(text(&other).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn existing_file_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.toml");
        let mut args = args(Daemon::Registry);
        args.to = Some(path.clone());
        run(&args).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert_eq!(run(&args).unwrap_err().exit, Exit::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
