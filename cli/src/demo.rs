//! `isthmus demo`: three regions as processes on loopback, real traffic, failures, and what the callers noticed. Promises
//! that nothing outlives it and that it fails when one of its promises is not kept.

mod acts;
pub(crate) mod app;
mod converge;
mod display;
pub mod lab;
mod load;
pub mod report;
mod tally;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::runtime::{OnExit, Stop, Tasks};

use crate::{
    args::DemoArgs,
    daemon,
    failure::{Exit, Failure, Outcome},
    render::Printer,
};
use acts::Stage;
use display::Display;
use lab::{Lab, Spec};
use load::Load;
use report::Report;

/// What everybody calls.
const URL: &str = "http://pay.shop/";
/// Requests a second of the main caller.
const RATE: u32 = 200;
/// The tenant that must not notice the other one, and its quota.
const FREE: &str = "acme";
const FREE_RATE: u32 = 2_000;
/// The tenant that is over its quota in one act, and its quota.
const LIMITED: &str = "globex";
const LIMITED_RATE: u32 = 20;
/// The acts need this much.
const DURATION_MIN: Duration = Duration::from_secs(30);
/// Idle means: everything has started and said what it had to say.
const IDLE: Duration = Duration::from_secs(3);
const REPORT_REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// Runs the demo.
pub(crate) async fn run(args: &DemoArgs, printer: Printer) -> Outcome {
    if args.duration < DURATION_MIN {
        return Err(Failure::text(
            Exit::Usage,
            format!("--duration {:?}: the acts need at least 30s", args.duration),
        ));
    }
    let executable = std::env::current_exe()?;
    let stop = daemon::stop_on_signals()?;
    let folder = Folder::new(args.dir.as_deref())?;
    let spec = Spec::three_regions(executable);
    let mut lab = Lab::plan(folder.path(), &spec)?;
    let display = Display::new(args.plain, printer.is_json(), &spec.regions);
    let played = tokio::select! {
        // Whoever wants to stop wants it now.
        biased;
        () = stop.ordered() => Err(Failure::text(Exit::Failed, "interrupted; nothing is left running")),
        played = play(&mut lab, &display, args.duration, &stop) => played,
    };
    stop.order();
    display.finish();
    lab.end().await;
    drop(lab);
    let kept = folder.keep_if(args.dir.is_some() || played.as_ref().map_or(true, |report| !report.broken.is_empty()));
    let report = match (played, kept) {
        (Ok(report), _) => report,
        (Err(failure), Some(kept)) => {
            display.say(&format!("configurations, data and logs: {}", kept.display()));
            return Err(failure);
        }
        (Err(failure), None) => return Err(failure),
    };
    conclude(args, printer, &report)
}

async fn play(lab: &mut Lab, display: &Display, duration: Duration, stop: &Stop) -> Outcome<Report> {
    let regions: Vec<_> = lab.regions.iter().map(|region| region.name.clone()).collect();
    display.say(&format!(
        "{} processes on loopback: {} regions ({}), each with {} registry nodes, a gateway and {} workloads of pay.shop",
        lab.processes().count(),
        regions.len(),
        regions.join(", "),
        lab.regions.first().map_or(0, |region| region.nodes.len()),
        lab.regions.first().map_or(0, |region| region.workloads.len()),
    ));
    display.say(&format!("configurations, data and logs: {}", lab.dir().display()));
    display.act("forming", "as an operator would, with tokens");
    lab.form(|step| display.say(&format!("  {step}"))).await?;
    for (tenant, rate) in [(FREE, FREE_RATE), (LIMITED, LIMITED_RATE)] {
        lab.set_tenant(tenant, rate.into()).await?;
    }
    display.say("  idle for a moment, to see how much memory that takes");
    tokio::time::sleep(IDLE).await;
    lab.check()?;
    let mut report = Report::default();
    acts::memory(lab, &mut report);
    let tasks = Tasks::new(stop.clone());
    let load = Load {
        proxy: lab.caller(FREE)?.outbound,
        url: URL,
        rate: RATE,
    };
    display.say(&format!(
        "  {RATE} requests/s: GET {URL} with http_proxy=http://{}",
        load.proxy
    ));
    let tally = load.start(&tasks, stop);
    tasks.spawn(
        "display",
        OnExit::Ignore,
        display.clone().follow(tally.clone(), regions, stop.clone()),
    );
    let stage = Stage {
        lab,
        tally,
        display: display.clone(),
        tasks,
        stop: stop.clone(),
        report,
        duration,
    };
    // The acts' future is large; it is made once.
    Box::pin(stage.play()).await
}

fn conclude(args: &DemoArgs, printer: Printer, report: &Report) -> Outcome {
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(report).map_err(|error| Failure::new(Exit::Failed, error))?;
        fs::write(path, json + "\n").map_err(|error| {
            Failure::new(Exit::Failed, error).while_doing(format!("cannot write {}", path.display()))
        })?;
    }
    printer.show(report, |report| {
        let regions = REPORT_REGIONS.map(str::to_owned);
        format!("\n{}\n\n{}", report.table(&regions), where_next(args))
    })?;
    if report.broken.is_empty() {
        return Ok(());
    }
    let broken: String = report.broken.iter().map(|promise| format!("\n  {promise}")).collect();
    Err(Failure::text(
        Exit::Failed,
        format!("promises that were not kept:{broken}"),
    ))
}

fn where_next(args: &DemoArgs) -> String {
    let dir = args.dir.as_ref().map_or_else(
        || "isthmus demo --dir DIR      keeps every configuration and log of what you just saw".to_owned(),
        |dir| {
            format!(
                "{}      every configuration and log of what you just saw",
                dir.display()
            )
        },
    );
    format!(
        "where to look next\n  {dir}\n  isthmus init registry       a commented configuration to begin with\n  \
         isthmus drill --help        move a region's traffic away on purpose, with a lease\n  \
         README.md, ARCHITECTURE.md  what to do first, and how a request finds its way"
    )
}

/// The demo's folder: the user's, or a temporary one.
enum Folder {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(given: Option<&Path>) -> Outcome<Self> {
        match given {
            Some(path) => Ok(Self::Given(path.to_owned())),
            None => Ok(Self::Temporary(
                tempfile::Builder::new().prefix("isthmus-demo-").tempdir()?,
            )),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// Removes a temporary folder unless it is worth keeping; says where what was kept is.
    fn keep_if(self, worth: bool) -> Option<PathBuf> {
        match self {
            Self::Given(path) => Some(path),
            Self::Temporary(folder) => worth.then(|| folder.keep()),
        }
    }
}
