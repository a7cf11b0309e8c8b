//! A large mesh: one region's 100,000 endpoints in 5,000 services, known to two others. What it weighs, how long a start and
//! a full resync take, and how fast news travels while 1,000 endpoints change each second.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use cli::demo::lab::{Lab, Ports, Region, export, get, join_token};
use futures_util::{StreamExt, TryStreamExt, stream};
use mesh::{
    model::ServiceName,
    ops::Metrics,
    runtime::{OnExit, Ready, Stop, Tasks, clock},
    subscribe::{Interest, Settings, Subscription, Views},
};
use proto::registry::v1::EndpointState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Child,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    Args,
    load::Writer,
    ours::{self, Agent, NAMESPACE},
    process,
    report::{Bar, Report, quantile},
};

/// What loading took for a moment (entries on their way, a snapshot) is given back within this.
const SETTLED: Duration = Duration::from_secs(30);
const SERVICES: usize = 5000;
const USED: usize = 10;
/// Agents whose streams stay open and change; each ten times a second.
const CHURNERS: usize = 100;
const CHURN_PER_SECOND: u64 = 1000;
/// Every tenth of them serves a service that the far proxy uses.
const PROBES: usize = CHURNERS / 10;
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);

fn service(at: usize) -> String {
    format!("svc-{}", at % SERVICES)
}

pub(crate) async fn run(args: &Args, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mut lab = ours::plan(args, dir, &["a", "b", "c"], 1)?;
    for region in &mut lab.regions {
        region.form_registry().await.map_err(anyhow::Error::msg)?;
    }
    lab.regions[0]
        .peer_with(&lab.regions[1])
        .await
        .map_err(anyhow::Error::msg)?;
    let began = clock::now();
    register(args, &lab.regions[0]).await?;
    println!("registered {} endpoints in {:.1?}", args.endpoints, began.elapsed());
    offer(&lab.regions[0]).await?;
    knows(&lab.regions[1], args.endpoints).await?;
    resync(args, &lab, report).await?;
    let proxy = Proxy::start(args, &lab.regions[2], dir).await?;
    tokio::time::sleep(SETTLED).await;
    weigh(&lab, &proxy, "after loading", report)?;
    churn(args, &lab, report).await?;
    weigh(&lab, &proxy, "after the churn", report)?;
    restart(args, &mut lab, report).await?;
    large_service(&lab.regions[0], report).await?;
    lab.end().await;
    Ok(())
}

/// Attaches the workloads and leaves: their leases outlive the run.
async fn register(args: &Args, region: &Region) -> anyhow::Result<()> {
    let identity = ours::identity(region).await?;
    let channels = ours::connect(region.nodes[0].api, &identity, 8).await?;
    let attach = |at: usize| {
        let channel = channels[at % channels.len()].clone();
        async move {
            Agent::attach(&channel, ours::workload(format!("w-{at}"), &service(at)))
                .await
                .map(drop)
        }
    };
    stream::iter(0..args.endpoints)
        .map(attach)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

async fn offer(region: &Region) -> anyhow::Result<()> {
    let admin = region.admin().await.map_err(anyhow::Error::msg)?;
    let offer = |at: usize| {
        let admin = admin.clone();
        async move {
            export(&admin, &format!("{}.{NAMESPACE}", service(at)))
                .await
                .map_err(anyhow::Error::msg)
        }
    };
    stream::iter(0..SERVICES)
        .map(offer)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// Returns once the region's node has so many endpoints in its catalogue.
async fn knows(region: &Region, endpoints: usize) -> anyhow::Result<()> {
    let until = clock::now() + PATIENCE;
    loop {
        let known = gauge(region.nodes[0].http, "isthmus_registry_endpoints")
            .await
            .unwrap_or(0.0);
        if known >= endpoints as f64 {
            return Ok(());
        }
        anyhow::ensure!(
            clock::now() < until,
            "{} knows {known} of {endpoints} endpoints",
            region.name
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn gauge(http: SocketAddr, name: &str) -> Option<f64> {
    let (_, body) = get(http, "/metrics").await.ok()?;
    let text = String::from_utf8_lossy(&body);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.trim().parse().ok()
}

/// A peer that begins with nothing.
async fn resync(args: &Args, lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let began = clock::now();
    lab.regions[0]
        .peer_with(&lab.regions[2])
        .await
        .map_err(anyhow::Error::msg)?;
    knows(&lab.regions[2], args.endpoints).await?;
    report.alone(
        "full resync of a peer",
        "s",
        &[began.elapsed().as_secs_f64()],
        Bar::AtMost(5.0),
    );
    Ok(())
}

/// A real proxy that has called ten services.
struct Proxy {
    child: Child,
    _ports: Ports,
}

impl Proxy {
    async fn start(args: &Args, region: &Region, dir: &Path) -> anyhow::Result<Self> {
        let mut ports = Ports::reserve(8).map_err(anyhow::Error::msg)?;
        let mut port = || ports.take().map_err(anyhow::Error::msg);
        let (outbound, inbound, dns) = (port()?, port()?, port()?);
        let (ready, metrics, pages) = (port()?, port()?, port()?);
        let admin = region.admin().await.map_err(anyhow::Error::msg)?;
        let token = dir.join("proxy.token");
        std::fs::write(
            &token,
            join_token(&admin, NAMESPACE, "caller")
                .await
                .map_err(anyhow::Error::msg)?,
        )?;
        let file = dir.join("proxy.toml");
        let text = format!(
            "region = \"{0}\"\ncluster = \"{0}\"\nzone = \"a\"\nregistry = [\"{1}\"]\ndata_dir = {2:?}\n\
             [workload]\nid = \"caller\"\nnamespace = \"{NAMESPACE}\"\nservice_account = \"caller\"\naddress = \"127.0.0.1\"\n\
             [identity]\ntoken_file = {token:?}\n[outbound]\nlisten = \"{outbound}\"\n[inbound]\nlisten = \"{inbound}\"\n\
             [dns]\nlisten = \"{dns}\"\n[admin]\nready = \"{ready}\"\nmetrics = \"{metrics}\"\npages = \"{pages}\"\n",
            region.name,
            region.nodes[0].api,
            dir.join("proxy"),
        );
        std::fs::write(&file, text)?;
        let arguments = [
            "--die-with-parent",
            "proxy",
            "--log",
            "warn",
            "--config",
            &file.display().to_string(),
        ];
        let child = process::start(
            &args.executable()?,
            &arguments.map(str::to_owned),
            &dir.join("proxy.log"),
        )?;
        let until = clock::now() + PATIENCE;
        while !get(pages, "/ready").await.is_ok_and(|(status, _)| status.is_success()) {
            anyhow::ensure!(
                clock::now() < until,
                "the proxy is not ready; see {}",
                dir.join("proxy.log").display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for at in 0..USED {
            // No gateway leads there: the answer is a refusal, for which the endpoints had to be known.
            let mut call = TcpStream::connect(outbound).await?;
            let head = format!(
                "GET / HTTP/1.1\r\nhost: {}.{NAMESPACE}\r\nconnection: close\r\n\r\n",
                service(at)
            );
            call.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            call.read_to_string(&mut answer).await?;
            anyhow::ensure!(
                !answer.contains("unknown-service"),
                "{} is unknown: {answer}",
                service(at)
            );
        }
        Ok(Self { child, _ports: ports })
    }
}

fn weigh(lab: &Lab, proxy: &Proxy, when: &str, report: &mut Report) -> anyhow::Result<()> {
    let mut nodes = Vec::new();
    for region in &lab.regions {
        nodes.push(process::resident_mb(region.nodes[0].process.pid())?);
    }
    println!("{when}: nodes of {} regions have {nodes:.0?} MB", nodes.len());
    let largest = nodes.iter().copied().fold(0.0, f64::max);
    report.alone(
        &format!("memory of a registry node {when}"),
        "MB",
        &[largest],
        Bar::AtMost(300.0),
    );
    let proxy = process::resident_mb(proxy.child.id())?;
    report.alone(&format!("memory of a proxy {when}"), "MB", &[proxy], Bar::AtMost(25.0));
    Ok(())
}

/// When each change of a probe was committed, oldest first, by workload.
type Committed = Arc<Mutex<BTreeMap<String, VecDeque<(u64, Instant)>>>>;

async fn churn(args: &Args, lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let (home, far) = (&lab.regions[0], &lab.regions[2]);
    let identity = ours::identity(home).await?;
    let channels = ours::connect(home.nodes[0].api, &identity, 8).await?;
    let tasks = Tasks::new(Stop::default());
    let (committed, done) = (Committed::default(), Arc::new(AtomicU64::new(0)));
    let view = follow(far, &tasks).await?;
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let watch = watch(view, Arc::clone(&committed), Arc::clone(&latencies));
    tasks.spawn("far proxy", OnExit::Ignore, watch);
    let period = Duration::from_millis(1000 * CHURNERS as u64 / CHURN_PER_SECOND);
    let end = clock::now() + Duration::from_secs(args.churn);
    for at in 0..CHURNERS {
        // The probes serve the first services, the others are spread over all.
        let number = if at < PROBES {
            at
        } else {
            at * (args.endpoints / CHURNERS)
        };
        let id = format!("w-{number}");
        let agent = Agent::attach(
            &channels[at % channels.len()],
            ours::workload(id.clone(), &service(number)),
        )
        .await?;
        let (committed, done) = (Arc::clone(&committed), Arc::clone(&done));
        let probe = (at < PROBES).then_some((id, committed));
        tasks.spawn("churner", OnExit::Ignore, change(agent, probe, period, end, done));
    }
    tokio::time::sleep_until(end + Duration::from_secs(2)).await;
    tasks.stop().order();
    let rate = done.load(Ordering::Relaxed) as f64 / args.churn as f64;
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let missing: usize = committed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values()
        .map(VecDeque::len)
        .sum();
    println!(
        "churn: {rate:.0} changes a second, {} measured, {missing} not seen",
        latencies.len()
    );
    anyhow::ensure!(
        !latencies.is_empty() && missing == 0,
        "changes did not arrive in the far region"
    );
    report.alone(
        "churn: endpoint changes",
        "per second",
        &[rate],
        Bar::AtLeast(CHURN_PER_SECOND as f64 * 0.99),
    );
    report.alone(
        "churn: commit to applied far away, p50",
        "ms",
        &[quantile(&latencies, 0.5)],
        Bar::AtMost(500.0),
    );
    report.alone(
        "churn: commit to applied far away, p99",
        "ms",
        &[quantile(&latencies, 0.99)],
        Bar::AtMost(500.0),
    );
    Ok(())
}

/// Changes one endpoint at a steady pace: the pace does not wait for the answers' slowness.
async fn change(
    mut agent: Agent,
    probe: Option<(String, Committed)>,
    period: Duration,
    end: Instant,
    done: Arc<AtomicU64>,
) {
    tokio::time::sleep(period.mul_f64(fastrand::f64())).await;
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0_u64;
    while clock::now() < end {
        tick.tick().await;
        number += 1;
        let states = [EndpointState::Ready, EndpointState::Draining];
        let changed = match &probe {
            Some(_) => agent.write(&format!("{number}")).await,
            None => agent.set_state(states[usize::from(number % 2 == 1)]).await,
        };
        if changed.is_err() {
            return; // shows as a rate that is too low
        }
        done.fetch_add(1, Ordering::Relaxed);
        if let Some((id, committed)) = &probe {
            let mut committed = committed.lock().unwrap_or_else(PoisonError::into_inner);
            committed
                .entry(id.clone())
                .or_default()
                .push_back((number, clock::now()));
        }
    }
}

/// A subscriber as a proxy is one, for the services that it uses.
async fn follow(region: &Region, tasks: &Tasks) -> anyhow::Result<Views> {
    let interest = Interest {
        services: (0..USED)
            .map(|at| ServiceName::parse(&format!("{}.{NAMESPACE}", service(at))))
            .collect::<Result<_, _>>()?,
        ..Interest::default()
    };
    let settings = Settings::new(
        vec![region.nodes[0].api.to_string()],
        "bench".to_owned(),
        interest,
        None,
    );
    let ready = Ready::default();
    let identity = ours::identity(region).await?;
    let subscription = Subscription::spawn(settings, identity, tasks, &Metrics::default(), &ready);
    tokio::time::timeout(PATIENCE, ready.wait()).await?;
    Ok(subscription.views())
}

/// Notes, for each committed change, when the far view had it or a newer one.
async fn watch(mut views: Views, committed: Committed, latencies: Arc<Mutex<Vec<f64>>>) {
    let names: Vec<_> = (0..USED)
        .filter_map(|at| ServiceName::parse(&format!("{}.{NAMESPACE}", service(at))).ok())
        .collect();
    let mut seen: BTreeMap<String, (u64, Instant)> = BTreeMap::new();
    loop {
        let (view, now) = (views.load(), clock::now());
        for (at, name) in names.iter().enumerate() {
            let endpoints = view
                .service(name)
                .into_iter()
                .flat_map(|(_, entry)| entry.endpoints.values());
            let numbers = endpoints.filter_map(|endpoint| endpoint.labels.get("value")?.parse::<u64>().ok());
            if let Some(number) = numbers.max() {
                let newest = seen.entry(format!("w-{at}")).or_insert((0, now));
                if newest.0 < number {
                    *newest = (number, now);
                }
            }
        }
        settle(&seen, &committed, &latencies);
        // A change whose commit is answered after it was seen is settled at the next turn.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(100), views.changed()).await {
            return;
        }
    }
}

fn settle(seen: &BTreeMap<String, (u64, Instant)>, committed: &Committed, latencies: &Mutex<Vec<f64>>) {
    let mut committed = committed.lock().unwrap_or_else(PoisonError::into_inner);
    let mut latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    for (id, (number, at)) in seen {
        let Some(open) = committed.get_mut(id) else { continue };
        while let Some((_, began)) = open.front().filter(|(open, _)| open <= number) {
            latencies.push(at.saturating_duration_since(*began).as_secs_f64() * 1e3);
            open.pop_front();
        }
    }
}

async fn restart(args: &Args, lab: &mut Lab, report: &mut Report) -> anyhow::Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let node = lab.regions[0].nodes.first_mut().context("a region has a node")?;
        node.process.kill().await;
        let began = clock::now();
        node.process.start().map_err(anyhow::Error::msg)?;
        node.process.ready(PATIENCE).await.map_err(anyhow::Error::msg)?;
        rounds.push(began.elapsed().as_secs_f64());
    }
    report.alone("full start of a node", "s", &rounds, Bar::AtMost(3.0));
    Ok(())
}

/// Bytes on the wire to a subscriber of a service with 5,000 endpoints, for one change.
async fn large_service(region: &Region, report: &mut Report) -> anyhow::Result<()> {
    const ENDPOINTS: usize = 5000;
    const CHANGES: u64 = 50;
    let identity = ours::identity(region).await?;
    let channel = ours::connect(region.nodes[0].api, &identity, 1).await?.remove(0);
    let attach = |at: usize| {
        let channel = channel.clone();
        async move {
            Agent::attach(&channel, ours::workload(format!("big-{at}"), "big"))
                .await
                .map(drop)
        }
    };
    stream::iter(0..ENDPOINTS)
        .map(attach)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    let tasks = Tasks::new(Stop::default());
    let (relay, bytes) = count(region.nodes[0].api, &tasks).await?;
    let through = ours::connect(relay, &identity, 1).await?.remove(0);
    let mut watch = ours::Watch::begin(&through, "big").await?;
    let mut agent = Agent::attach(&channel, ours::workload("big-7".to_owned(), "big")).await?;
    agent.write(&crate::load::value()).await?;
    watch.next().await?;
    let before = bytes.load(Ordering::Relaxed);
    for _ in 0..CHANGES {
        agent.write(&crate::load::value()).await?;
        watch.next().await?;
    }
    let each = (bytes.load(Ordering::Relaxed) - before) as f64 / CHANGES as f64;
    tasks.stop().order();
    report.alone(
        "bytes to a proxy for a change among 5,000",
        "bytes",
        &[each],
        Bar::AtMost(1024.0),
    );
    Ok(())
}

/// A relay that counts what comes back from `to`.
async fn count(to: SocketAddr, tasks: &Tasks) -> anyhow::Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, bytes) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&bytes);
    tasks.spawn("relay", OnExit::Ignore, async move {
        // One connection is all that is measured; its end is the end of the measurement.
        let Ok((near, _)) = listener.accept().await else { return };
        let Ok(far) = TcpStream::connect(to).await else { return };
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
        let back = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = far_in.read(&mut buffer).await {
                counted.fetch_add(length as u64, Ordering::Relaxed);
                if near_out.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = back => {}
            _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
        }
    });
    Ok((address, bytes))
}
