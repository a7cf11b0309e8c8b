//! The registry beside etcd, and alone where etcd has no counterpart: three nodes each on loopback, the same disk, the same
//! run, rounds interleaved. Prints a table and writes `target/bench/registry.json`.
#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod etcd;
mod load;
mod ours;
mod process;
mod report;
mod scale;
mod watch;
mod writes;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokio::runtime::Builder;

use crate::report::Report;

/// Measures the registry beside etcd (Debian: `apt-get install etcd-server`).
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Which figures: writes, watch, scale; several by comma.
    #[arg(long, value_delimiter = ',', default_value = "writes,watch,scale")]
    figures: Vec<String>,
    /// Rounds of each figure that is compared; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Length of one measurement of writes or watches, in seconds.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Length of the churn, in seconds.
    #[arg(long, default_value_t = 300)]
    churn: u64,
    /// Endpoints of the large mesh.
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// Run etcd without TLS. By default it has mutual TLS for clients and peers, which the registry always has.
    #[arg(long)]
    plain_etcd: bool,
    /// The `isthmus` binary; by default the one beside this program: `cargo build --release` makes it.
    #[arg(long)]
    isthmus: Option<PathBuf>,
    /// Where the data directories are made: both sides' on the same disk.
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
}

impl Args {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn executable(&self) -> anyhow::Result<PathBuf> {
        let beside = std::env::current_exe()?.with_file_name("isthmus");
        let path = self.isthmus.clone().unwrap_or(beside);
        let found = path.canonicalize();
        found.with_context(|| format!("{}: build it with `cargo build --release`", path.display()))
    }
}

/// As in the daemons: clients are proxies.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.dir)?;
    let work = tempfile::tempdir_in(&args.dir)?;
    let mut report = Report::default();
    for figure in &args.figures {
        let dir = work.path().join(figure);
        match figure.as_str() {
            "writes" => Box::pin(writes::run(&args, &dir, &mut report)).await?,
            "watch" => Box::pin(watch::run(&args, &dir, &mut report)).await?,
            "scale" => Box::pin(scale::run(&args, &dir, &mut report)).await?,
            other => anyhow::bail!("--figures: {other} is none of writes, watch, scale"),
        }
    }
    println!("\n{report}");
    report.save(&args.dir.join("registry.json"))
}
