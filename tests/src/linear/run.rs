//! One run: forms the region, lets clients and nemesis loose on it, and judges.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::runtime::{OnExit, Stop, Tasks, clock};
use serde_json::json;

use super::{
    clients::{self, Counts, Shared, Worker},
    history::{self, Event, History, Kind},
    judge::{Judged, judge},
    nemesis::Nemesis,
    network::Network,
    nodes::{self, Program},
};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How `isthmus` is started.
    pub program: Program,
    /// How long the nemesis works.
    pub span: Duration,
    /// Decides the order of faults and what clients do.
    pub seed: u64,
    /// Where history and verdict go; a folder of its own is made in it.
    pub target: PathBuf,
    /// Clients that write and read.
    pub clients: u32,
    /// Plants a fault: local reads are taken for linearizable ones, which the check must find.
    pub stale: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It cannot run here; why.
    Skipped(String),
    /// It ran.
    Judged {
        /// Nothing was found.
        good: bool,
        /// For people.
        report: String,
        /// Where everything is.
        folder: PathBuf,
    },
}

/// Runs the plan to its end.
///
/// # Errors
/// When the run itself failed: the region could not be formed, or a file not be written.
pub async fn run(plan: &Plan) -> Result<Outcome, String> {
    let network = match Network::new(nodes::NODES) {
        Ok(network) => network,
        Err(why) => return Ok(Outcome::Skipped(format!("no network namespaces: {why}"))),
    };
    let folder = plan.target.join(format!("{}-{}", clock::wall().0, plan.seed));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // The nodes' disks are images that nobody wants to keep.
    let disks = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (nodes, identity) = match nodes::form(&network, &plan.program, disks.path()).await {
        Ok(formed) => formed,
        Err(why) if why.starts_with("mount") || why.starts_with("mkfs") => {
            return Ok(Outcome::Skipped(format!("no file systems on loop devices: {why}")));
        }
        Err(why) => return Err(why),
    };
    let shared = Arc::new(Shared {
        history: History::new(),
        addresses: nodes.iter().map(nodes::Node::api).collect(),
        lives: nodes.iter().map(|node| Arc::clone(&node.lives)).collect(),
        identity,
        values: AtomicU64::default(),
        floor: AtomicU64::default(),
        broken: std::sync::Mutex::default(),
        counts: Counts::default(),
    });
    let mut nemesis = Nemesis {
        nodes,
        network,
        shared: Arc::clone(&shared),
        random: fastrand::Rng::with_seed(plan.seed),
        faults: 0,
    };
    let tasks = Tasks::new(Stop::default());
    release(plan, &shared, &tasks);
    let mut failed = nemesis.run(plan.span).await.err();
    if failed.is_none() {
        failed = nemesis.settle().await.err();
    }
    // A moment for what is under way; the check needs none of it.
    tasks.stop().order();
    let _ = tasks.join(Duration::from_secs(6)).await;
    nemesis.finish().await;
    keep_logs(disks.path(), &folder);
    let (faults, events) = (nemesis.faults, shared.history.take());
    drop(nemesis);
    if let Some(failed) = failed {
        shared.found(failed);
    }
    let judged = judge(&events);
    let broken = shared
        .broken
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let good = judged.bad.is_empty() && judged.undecided.is_empty() && broken.is_empty();
    let report = report(plan, &shared.counts, &judged, &broken, faults);
    let files = [
        history::write(&folder.join("history.jsonl"), &events),
        std::fs::write(folder.join("verdict.json"), verdict(plan, good, &judged, &broken)),
        std::fs::write(folder.join("report.txt"), &report),
        keep_bad(&folder, &events, &judged),
    ];
    for written in files {
        written.map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(Outcome::Judged { good, report, folder })
}

/// Starts the clients; they end with the tasks.
fn release(plan: &Plan, shared: &Arc<Shared>, tasks: &Tasks) {
    let until = |stop: Stop, work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| async move {
        tokio::select! {
            () = stop.ordered() => {}
            () = work => {}
        }
    };
    for id in 0..plan.clients {
        let nodes = shared.addresses.len();
        let worker = Worker {
            shared: Arc::clone(shared),
            id,
            // Half of them stay with one node, whatever becomes of it.
            bound: (id % 2 == 0).then_some((id as usize / 2) % nodes),
            random: fastrand::Rng::with_seed(plan.seed ^ (u64::from(id) << 32)),
            pause: Duration::from_millis(40),
            stale: plan.stale,
        };
        tasks.spawn(
            "client",
            OnExit::Ignore,
            until(tasks.stop().clone(), Box::pin(worker.run())),
        );
    }
    for node in 0..shared.addresses.len() {
        let random = fastrand::Rng::with_seed(plan.seed ^ 0xfeed ^ node as u64);
        let reader = clients::read_locally(Arc::clone(shared), node, random);
        tasks.spawn("reader", OnExit::Ignore, until(tasks.stop().clone(), Box::pin(reader)));
    }
    let tidy = clients::tidy(Arc::clone(shared));
    tasks.spawn("tidy", OnExit::Ignore, until(tasks.stop().clone(), Box::pin(tidy)));
}

fn report(plan: &Plan, counts: &Counts, judged: &Judged, broken: &[String], faults: u64) -> String {
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let mut text = format!(
        "seed {}, {:?}: {faults} faults, {} writes ({} refused, {} of unknown outcome), {} linearizable reads, {} local reads; \
         {} registers with {} operations judged\n",
        plan.seed,
        plan.span,
        count(&counts.writes),
        count(&counts.refused),
        count(&counts.unknown),
        count(&counts.reads),
        count(&counts.locals),
        judged.registers,
        judged.operations,
    );
    // Writing to a string cannot fail.
    for found in broken {
        let _ = writeln!(text, "BROKEN: {found}");
    }
    for key in &judged.undecided {
        let _ = writeln!(text, "UNDECIDED: register {key}: the search was given up");
    }
    for (key, operations) in &judged.bad {
        let _ = writeln!(
            text,
            "NOT LINEARIZABLE: register {key}; the shortest bad beginning, times in us:"
        );
        for one in operations {
            let returned = one.returned.map_or_else(|| "?".to_owned(), |at| at.to_string());
            let _ = writeln!(
                text,
                "  {} .. {returned}  client {} {:?}",
                one.called, one.client, one.act
            );
        }
    }
    if judged.bad.is_empty() && judged.undecided.is_empty() && broken.is_empty() {
        text.push_str("0 violations\n");
    }
    text
}

fn verdict(plan: &Plan, good: bool, judged: &Judged, broken: &[String]) -> String {
    let bad: Vec<_> = judged.bad.iter().map(|(key, _)| key).collect();
    json!({"seed": plan.seed, "seconds": plan.span.as_secs(), "good": good, "bad": bad, "undecided": judged.undecided,
           "broken": broken, "registers": judged.registers, "operations": judged.operations})
    .to_string()
}

fn keep_bad(folder: &Path, events: &[Event], judged: &Judged) -> std::io::Result<()> {
    for (key, _) in &judged.bad {
        let own = |event: &&Event| event.key == *key || matches!(event.kind, Kind::Note { .. });
        let own: Vec<_> = events.iter().filter(own).cloned().collect();
        history::write(&folder.join(format!("bad-{key}.jsonl")), &own)?;
    }
    Ok(())
}

/// The logs lie beside the disks, not on them.
fn keep_logs(disks: &Path, folder: &Path) {
    for number in 1..=nodes::NODES {
        let log = disks.join(format!("node-{number}/log"));
        // Whatever there is helps; what is not there is missed by nobody else.
        let _ = std::fs::copy(log, folder.join(format!("node-{number}.log")));
    }
}
