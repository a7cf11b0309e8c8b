//! The operator's commands: each asks the registry of one region and writes the answer. Decides nothing about traffic.

mod ca;
mod doctor;
mod drill;
mod exports;
mod init;
mod peer;
mod registry;
mod services;
mod status;
mod tenants;
mod token;
mod why;

use clap::CommandFactory;

use crate::{
    args::{Cli, Command, Global, RegistryCommand},
    connect::Client,
    failure::Outcome,
    render::Printer,
};

/// What every command works with.
pub(crate) struct Context {
    global: Global,
    printer: Printer,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            global: global.clone(),
            printer: Printer::new(global.output),
        }
    }

    pub(crate) fn printer(&self) -> Printer {
        self.printer
    }

    async fn client(&self) -> Outcome<Client> {
        Client::connect(&self.global).await
    }
}

/// Runs a command that asks or orders. The daemons and the demo are not among them.
pub(crate) async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Init(args) => init::run(&args),
        Command::Token(args) => token::run(context, args).await,
        Command::Peer(command) => peer::run(context, command).await,
        Command::Ca(command) => ca::run(context, command).await,
        Command::Services { namespace } => services::list(context, namespace).await,
        Command::Endpoints(args) => services::endpoints(context, args).await,
        Command::Exports => exports::list(context).await,
        Command::Export(args) => exports::put(context, args).await,
        Command::Unexport { service } => exports::remove(context, service).await,
        Command::Resolve(args) => services::resolve(context, args).await,
        Command::Tenants(args) => tenants::run(context, args).await,
        Command::Status { watch } => status::run(context, watch).await,
        Command::Doctor => doctor::run(context).await,
        Command::Why(args) => why::run(context, args).await,
        Command::Drill(command) => drill::run(context, command).await,
        Command::Completion { shell } => completion(shell),
        Command::Registry(_) | Command::Gateway(_) | Command::Proxy(_) | Command::Demo(_) | Command::DemoApp(_) => {
            Ok(())
        }
    }
}

/// Runs what is done to a registry, as opposed to running one.
pub(crate) async fn registry(context: &Context, command: RegistryCommand) -> Outcome {
    registry::run(context, command).await
}

fn completion(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isthmus", &mut script);
    crate::render::print(&String::from_utf8_lossy(&script))
}
