//! The one binary, `isthmus`: runs any daemon, the demo and the operator's commands. A library, so that tests can form
//! federations of real processes with the demo's own lab. Files, environment and flags are read here and nowhere else.

mod args;
mod cmd;
mod connect;
mod daemon;
pub mod demo;
mod failure;
mod memory;
mod render;

use std::{
    ffi::OsString,
    process::{ExitCode, Termination},
};

use clap::Parser;

use args::{Cli, Command};
pub use connect::{Client, credentials};
pub use failure::{Exit, Failure, Outcome};

/// What the process ends with.
impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Does what the arguments say; errors are printed on standard error.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too, and are no mistakes. A closed pipe needs no word.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match execute(cli) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            render::note(&format!("isthmus: {failure}"));
            failure.exit
        }
    }
}

fn execute(cli: Cli) -> Outcome {
    if cli.global.die_with_parent {
        daemon::die_with_parent()?;
    }
    let mut runtime = match cli.command {
        // They serve; all others ask one question after the other.
        Command::Registry(_) | Command::Gateway(_) | Command::Proxy(_) | Command::Demo(_) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = memory::tended(runtime.enable_all())?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Outcome {
    let context = cmd::Context::new(&cli.global);
    match cli.command {
        Command::Registry(args) => match (args.command, args.config) {
            (Some(command), _) => cmd::registry(&context, command).await,
            (None, Some(config)) => daemon::registry(&config, args.join, &args.log).await,
            (None, None) => Err(Failure::text(Exit::Usage, "--config FILE is missing")),
        },
        Command::Gateway(args) => daemon::gateway(&args).await,
        Command::Proxy(args) => daemon::proxy(&args).await,
        Command::Demo(args) => demo::run(&args, context.printer()).await,
        Command::DemoApp(args) => {
            let stop = daemon::stop_on_signals()?;
            demo::app::serve(args.listen, &args.region, &args.name, stop).await
        }
        command => cmd::run(&context, command).await,
    }
}
