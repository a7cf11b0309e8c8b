//! `linear --minutes 10 [--seed S]`: a region of real processes under a nemesis, judged for linearizability. Exits with 1 when
//! something was found. Called as `linear isthmus …` it is the binary `isthmus` itself, so that no other has to be built.
#![allow(clippy::unwrap_used, reason = "a run that cannot be made ends")]

use std::{
    io::Write,
    path::PathBuf,
    process::{ExitCode, Termination},
    time::Duration,
};

use clap::Parser;
use tests::linear::{Outcome, Plan, Program, run};

const SELF: &str = "isthmus";

/// Judges a region of real processes under faults for linearizability.
#[derive(Parser)]
struct Args {
    /// How long the nemesis works.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Decides the order of faults; random when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients that write and read.
    #[arg(long, default_value_t = 6)]
    clients: u32,
    /// Takes local reads for linearizable ones: shows that the check finds stale reads.
    #[arg(long)]
    plant_stale_reads: bool,
    /// Another `isthmus` than the one built in.
    #[arg(long)]
    executable: Option<PathBuf>,
    /// Where history and verdict go.
    #[arg(long, default_value = "target/linear")]
    target: PathBuf,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|first| first == SELF) {
        let rest = std::iter::once(SELF.into()).chain(arguments);
        return cli::run(rest).report();
    }
    let args = Args::parse();
    let program = match args.executable {
        Some(path) => Program {
            path,
            prefix: Vec::new(),
        },
        None => Program {
            path: std::env::current_exe().unwrap(),
            prefix: vec![SELF.to_owned()],
        },
    };
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let plan = Plan {
        program,
        span: Duration::from_secs_f64(args.minutes * 60.0),
        seed,
        target: args.target,
        clients: args.clients,
        stale: args.plant_stale_reads,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = Box::pin(run(&plan)) => outcome,
            // What was made is taken away when the run is dropped.
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        }
    });
    let mut out = std::io::stdout().lock();
    let (code, text) = match outcome {
        Ok(Outcome::Skipped(why)) => (ExitCode::SUCCESS, format!("skipped: {why}")),
        Ok(Outcome::Judged { good, report, folder }) => {
            let code = if good { ExitCode::SUCCESS } else { ExitCode::from(1) };
            let again = format!(
                "again: cargo run --release -p tests --bin linear -- --minutes {} --seed {seed}",
                args.minutes
            );
            (code, format!("{report}{}\n{again}", folder.display()))
        }
        Err(failure) => (ExitCode::from(1), format!("the run failed: {failure}")),
    };
    // A closed pipe needs no word.
    let _ = writeln!(out, "{text}");
    code
}
