//! Processes beside this one that end with it, and what the kernel says about them.

use std::{fs, path::Path, process::Stdio};

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// Starts a program with its output in a file.
pub(crate) fn start(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Child> {
    let log = fs::File::create(log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

/// Resident memory in MB.
pub(crate) fn resident_mb(pid: Option<u32>) -> anyhow::Result<f64> {
    let pid = pid.context("the process has ended")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.context("no VmRSS")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
