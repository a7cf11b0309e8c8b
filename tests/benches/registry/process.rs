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

/// Processor time that a process has used, in seconds: what a busy machine does not change.
pub(crate) fn cpu_seconds(pid: Option<u32>) -> anyhow::Result<f64> {
    /// Of the kernel's accounting, on every architecture that Linux runs on here.
    const TICKS_PER_SECOND: f64 = 100.0;
    let pid = pid.context("the process has ended")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything but ends with the last parenthesis; user and system time are the 12th and 13th behind it.
    let (_, behind) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = behind.split_whitespace().skip(11);
    let mut ticks = || {
        fields
            .next()
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .context("no times in stat")
    };
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}
