//! Durable writes: agents that register over their streams beside clients that put keys, 256 bytes each; 1, 64 and 1,000 at
//! a time. Both sides' clients speak to the leader over the same number of connections.

use std::path::Path;

use crate::{
    Args,
    etcd::{Etcd, Putter},
    load::{self, Load},
    ours::{self, Agent},
    report::{Bar, Report},
};

const CONNECTIONS: usize = 16;

pub(crate) async fn run(args: &Args, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    let etcd = Etcd::start(&dir.join("etcd"), args.plain_etcd).await?;
    let mut lab = ours::plan(args, &dir.join("isthmus"), &["eu"], 3)?;
    for region in &mut lab.regions {
        region.form_registry().await.map_err(anyhow::Error::msg)?;
    }
    let region = lab.region("eu").map_err(anyhow::Error::msg)?;
    let identity = ours::identity(region).await?;
    let leader = ours::leader(region).await?;
    for writers in [1, 64, 1000] {
        let mut rounds: Vec<(Load, Load)> = Vec::new();
        for _ in 0..args.rounds {
            let channels = etcd.connect(CONNECTIONS.min(writers)).await?;
            let putters = (0..writers).map(|at| Putter {
                channel: channels[at % channels.len()].clone(),
                key: format!("/registry/bench/{at}"),
            });
            let theirs = load::run(putters.collect(), args.length(), || etcd.cpu_seconds()).await?;
            let channels = ours::connect(leader, &identity, CONNECTIONS.min(writers)).await?;
            let mut agents = Vec::new();
            for at in 0..writers {
                let workload = ours::workload(format!("bench-{at}"), "bench");
                agents.push(Agent::attach(&channels[at % channels.len()], workload).await?);
            }
            let ours = load::run(agents, args.length(), || ours::cpu_seconds(region)).await?;
            rounds.push((ours, theirs));
        }
        let each = |of: &dyn Fn(&Load) -> f64| {
            rounds
                .iter()
                .map(|(ours, theirs)| (of(ours), of(theirs)))
                .collect::<Vec<_>>()
        };
        if writers == 1 {
            report.compare(
                "latency of one writer, p50",
                "ms",
                &each(&|load| load.latency(0.5)),
                Bar::AtMost(1.2),
            );
            report.compare(
                "latency of one writer, p99",
                "ms",
                &each(&|load| load.latency(0.99)),
                Bar::AtMost(1.2),
            );
        } else {
            let figure = format!("durable writes, {writers} writers");
            report.compare(&figure, "per second", &each(&|load| load.rate), Bar::AtLeast(1.0));
            let figure = format!("processor time of a write, {writers} writers");
            report.compare(&figure, "us", &each(&|load| load.cpu), Bar::AtMost(1.0));
        }
    }
    lab.end().await;
    Ok(())
}
