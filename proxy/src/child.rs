//! The application as a child: it is told to end when the proxy is, and its own end is the proxy's.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tracing::{info, warn};

/// A running application.
pub(crate) struct Application {
    child: Child,
}

impl Application {
    /// Starts a command; no shell is between. It inherits the environment and all three standard streams. Nothing is added
    /// to the environment: whoever wants `http_proxy` sets it.
    pub(crate) fn spawn(command: &[String]) -> io::Result<Self> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"))?;
        // Whatever ends this process abnormally shall not leave the application behind, unregistered.
        let child = Command::new(program).args(arguments).kill_on_drop(true).spawn()?;
        info!(program, pid = child.id(), "application started");
        Ok(Self { child })
    }

    /// Returns when it ends; safe to cancel.
    pub(crate) async fn ended(&mut self) -> i32 {
        match self.child.wait().await {
            Ok(status) => code(status),
            Err(error) => {
                warn!(%error, "application cannot be waited for");
                1
            }
        }
    }

    /// SIGTERM, then SIGKILL after `patience`.
    pub(crate) async fn end(&mut self, patience: Duration) -> i32 {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            warn!(%error, "application not told to end");
        }
        match tokio::time::timeout(patience, self.ended()).await {
            Ok(code) => code,
            Err(_) => {
                warn!(?patience, "application did not end; it is killed");
                // Fails only when it has ended after all.
                let _ = self.child.start_kill();
                self.ended().await
            }
        }
    }
}

/// As shells tell it: 128 and the signal for those that a signal ended.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Application {
        Application::spawn(&["/bin/sh".into(), "-c".into(), script.into()]).unwrap()
    }

    #[tokio::test]
    async fn its_code_is_told_and_a_signal_as_shells_do() {
        assert_eq!(shell("exit 7").ended().await, 7);
        assert_eq!(shell("kill -9 $$").ended().await, 137);
    }

    #[tokio::test]
    async fn it_is_asked_first_and_killed_then() {
        let patience = Duration::from_secs(20);
        // `read` from a pipe nobody writes to: waits for ever without a second process.
        let polite = "trap 'exit 3' TERM; echo; while :; do sleep 0.05; done";
        let mut application = shell(polite);
        // The shell may not have set its trap yet; then the signal ends it, and it is not killed either way.
        assert!([3, 143].contains(&application.end(patience).await));
        let mut deaf = shell("trap '' TERM; while :; do sleep 0.05; done");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(deaf.end(Duration::from_millis(200)).await, 137);
    }

    #[test]
    fn a_command_that_is_not_there_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        assert!(Application::spawn(&["/nonexistent/program".into()]).is_err());
        assert!(Application::spawn(&[]).is_err());
    }
}
