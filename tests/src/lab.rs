//! The compiled binary, for what only a whole process can show.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The `isthmus` beside the test executable. Fails with what to do when it was not built.
#[must_use]
pub fn executable() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test>
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("isthmus");
    assert!(
        path.is_file(),
        "{} is not there: this story runs whole processes; run `cargo test --workspace`, which builds it",
        path.display()
    );
    path
}

/// Runs it to its end.
pub fn isthmus<I, S>(arguments: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(executable());
    for name in ["ISTHMUS_REGISTRY", "ISTHMUS_CREDENTIALS", "ISTHMUS_LOG"] {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}
