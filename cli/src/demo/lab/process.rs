//! One process of the lab: started, watched, killed, started again. Its output is kept in a file of its own.

use std::{
    fmt,
    fs::{self, OpenOptions},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use mesh::runtime::clock;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::failure::{Exit, Failure, Outcome};

/// Between two questions whether a process is ready.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a log that are shown with a failure.
const TAIL_LINES: usize = 12;
/// Of an answer to a health check or a question for a view.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What kind of daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A registry node.
    Registry,
    /// An east-west gateway.
    Gateway,
    /// A sidecar proxy, with or without its application.
    Proxy,
}

impl Kind {
    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Gateway => "gateway",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A process that may or may not be running.
pub struct Process {
    /// Unique in the lab, for example `eu-registry-1`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    executable: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    // Where it answers 200 once it is ready.
    ready: (SocketAddr, &'static str),
    child: Option<Child>,
}

impl Process {
    pub(super) fn new(
        name: &str,
        kind: Kind,
        executable: &Path,
        dir: &Path,
        ready: (SocketAddr, &'static str),
        arguments: Vec<String>,
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        Self {
            name: name.to_owned(),
            kind,
            executable: executable.to_owned(),
            arguments,
            log,
            ready,
            child: None,
        }
    }

    pub(super) fn executable(&self) -> &Path {
        &self.executable
    }

    /// Starts it; does not wait until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, or runs already.
    pub fn start(&mut self) -> Outcome {
        self.start_with(&[], &[])
    }

    /// Starts it once with more arguments behind the subcommand's own and in front of an application's command.
    pub(super) fn start_with(&mut self, extra: &[&str], command: &[String]) -> Outcome {
        if self.is_running() {
            return Err(Failure::text(Exit::Failed, format!("{} runs already", self.name)));
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut process = std::process::Command::new(&self.executable);
        process
            .arg("--die-with-parent")
            .args(&self.arguments)
            .args(extra)
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for the lab's owner, who ends everything in order.
            .process_group(0);
        let mut process = Command::from(process);
        process.kill_on_drop(true);
        let child = process.spawn().map_err(|error| {
            Failure::new(Exit::Failed, error).while_doing(format!("cannot start {}", self.executable.display()))
        })?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Whether it ended although nobody killed it.
    pub fn has_crashed(&mut self) -> bool {
        self.child.is_some() && !self.is_running()
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// `kill -9`, and waits until it is gone. Its application goes with it.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; then there is nothing to kill.
            let _ = child.kill().await;
        }
    }

    /// Gives the signal of `kill -9` without waiting, so that several processes die at the same moment.
    pub fn kill_now(&mut self) {
        if let Some(child) = &mut self.child {
            // As above.
            let _ = child.start_kill();
        }
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends before, or is not ready within `patience`: with the last lines of its log.
    pub async fn ready(&mut self, patience: Duration) -> Outcome {
        let begun = clock::now();
        loop {
            if !self.is_running() {
                return Err(self.fault("ended before it was ready"));
            }
            let (address, path) = self.ready;
            let answer = get(address, path).await;
            if matches!(answer, Ok((StatusCode::OK, _))) {
                return Ok(());
            }
            if begun.elapsed() > patience {
                let said = match answer {
                    Ok((_, body)) => String::from_utf8_lossy(&body).trim().to_owned(),
                    Err(failure) => failure.to_string(),
                };
                return Err(self.fault(&format!("is not ready after {patience:?}: {said}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error about this process, with the end of its log.
    #[must_use]
    pub fn fault(&self, what: &str) -> Failure {
        let tail = self.log_tail();
        let log = self.log.display();
        let tail = if tail.is_empty() {
            "(it wrote nothing)".to_owned()
        } else {
            tail
        };
        Failure::text(Exit::Failed, format!("{} {what}\n{tail}", self.name)).next(format!("see {log}"))
    }

    fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text
            .lines()
            .rev()
            .take(TAIL_LINES)
            .map(|line| format!("    {line}\n"))
            .collect();
        lines.into_iter().rev().collect()
    }

    /// Resident memory in KiB while it runs, from the kernel.
    #[must_use]
    pub fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }
}

/// One plain HTTP request to a process of the lab.
///
/// # Errors
/// When nobody answers within a second.
pub async fn get(address: SocketAddr, path: &str) -> Outcome<(StatusCode, Bytes)> {
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let reply = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((status, body))
        };
        // The reply says what is wrong with a connection that ended early.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            answer = reply => answer,
            () = driven => anyhow::bail!("closed"),
        }
    };
    match tokio::time::timeout(Duration::from_secs(1), asking).await {
        Ok(answer) => answer.map_err(|error: anyhow::Error| Failure::new(Exit::Unreachable, error)),
        Err(_) => Err(Failure::text(
            Exit::Unreachable,
            format!("no answer from {address} within 1s"),
        )),
    }
}
