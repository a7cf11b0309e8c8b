//! Runs a daemon: reads its file, starts its log, turns signals into the order to stop. What it does is in its crate.

use std::{fs, path::Path};

use mesh::{
    ops::{Faults, LogFormat, init_log},
    runtime::{OnExit, Stop, Tasks},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{GatewayArgs, LogArgs, ProxyArgs},
    failure::{Exit, Failure, Outcome},
};

/// Runs a registry node until it is told to stop.
pub(crate) async fn registry(config: &Path, join: Option<String>, log: &LogArgs) -> Outcome {
    let config = registry_config(config)?;
    start_log(log)?;
    let stop = stop_on_signals()?;
    registry::run(config, join, stop)
        .await
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// Runs an east-west gateway until it is told to stop.
pub(crate) async fn gateway(args: &GatewayArgs) -> Outcome {
    let config = read(&args.config, eastwest_gateway::Config::parse)?;
    start_log(&args.log)?;
    let stop = stop_on_signals()?;
    eastwest_gateway::run(config, stop)
        .await
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// Runs a proxy, and its application if a command was given, until one of them ends.
pub(crate) async fn proxy(args: &ProxyArgs) -> Outcome {
    let config = read(&args.config, proxy::Config::parse)?;
    start_log(&args.log)?;
    let stop = stop_on_signals()?;
    let command = (!args.command.is_empty()).then(|| args.command.clone());
    proxy::run(config, command, stop)
        .await
        .map(drop)
        .map_err(|error| Failure::new(Exit::Failed, error))
}

/// A registry's settings.
pub(crate) fn registry_config(path: &Path) -> Outcome<registry::Config> {
    read(path, registry::Config::parse)
}

/// Reads a file and checks it; all faults are told at once, a line each.
fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, Faults>) -> Outcome<T> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("cannot read {shown}")))?;
    parse(&text).map_err(|Faults(faults)| {
        let noun = if faults.len() == 1 { "fault" } else { "faults" };
        let list: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
        Failure::text(Exit::Failed, format!("{} {noun} in {shown}:{list}", faults.len()))
    })
}

fn start_log(log: &LogArgs) -> Outcome {
    let format = if log.json { LogFormat::Json } else { LogFormat::Text };
    init_log(&log.filter, format).map_err(|error| {
        Failure::new(Exit::Usage, error).while_doing(format!(
            "--log {:?} is no filter; write for example \"info,mesh=debug\"",
            log.filter
        ))
    })
}

/// An order to stop that SIGTERM and Ctrl-C give.
pub(crate) fn stop_on_signals() -> Outcome<Stop> {
    let stop = Stop::default();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let order = stop.clone();
    Tasks::new(stop.clone()).spawn("signals", OnExit::Ignore, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        order.order();
    });
    Ok(stop)
}

/// Makes this process end with the one that started it, also when that one is killed.
pub(crate) fn die_with_parent() -> Outcome {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing("--die-with-parent"))
}
