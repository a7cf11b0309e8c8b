//! How long a new endpoint takes from its registration in one region until proxies of other regions have applied it.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures_util::future::try_join_all;
use mesh::{
    identity::{Expect, Identity, Obtain, Role, obtain},
    net::grpc::{self, Credentials, Timeouts},
    ops::Metrics,
    runtime::{Tasks, clock},
};
use proto::registry::v1::{
    AgentMessage, Detach, EndpointState, Port, Workload, WorkloadService, agent_message::Kind,
    register_client::RegisterClient,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::lab::{Region, export, join_token, view};
use crate::failure::{Exit, Failure, Outcome};

/// The measured service: nobody calls it, so that the load does not meet endpoints that are not there.
const SERVICE: &str = "probe";
const POLL: Duration = Duration::from_millis(2);
/// Ten times what is promised.
const PATIENCE: Duration = Duration::from_secs(5);

/// Registers `rounds` endpoints in a region, one after the other, and returns how long each took to reach each watcher:
/// the admin addresses of proxies elsewhere.
///
/// # Errors
/// When an endpoint does not arrive at all.
pub(crate) async fn measure(
    region: &Region,
    watchers: &[SocketAddr],
    rounds: u32,
    tasks: &Tasks,
) -> Outcome<Vec<Duration>> {
    let admin = region.admin().await?;
    export(&admin, &format!("{SERVICE}.shop")).await?;
    let token = join_token(&admin, "shop", SERVICE).await?;
    let addresses: Vec<_> = region.registry().iter().map(SocketAddr::to_string).collect();
    let settings = Obtain::new(None, Some(token), addresses.clone());
    let identity = obtain(settings, tasks, &Metrics::default()).await;
    let identity = identity.map_err(|error| Failure::new(Exit::Failed, error))?;
    let channel = connect(&addresses, identity).await?;
    let mut spans = Vec::new();
    for round in 0..rounds {
        spans.extend(one(&channel, region, round, watchers).await?);
    }
    Ok(spans)
}

async fn connect(addresses: &[String], identity: Identity) -> Outcome<Channel> {
    let expect = Expect::System(Role::Registry, identity.trust_domain());
    grpc::connect_any(addresses, &Credentials::from(identity), &expect, Timeouts::default())
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, error))
}

async fn one(channel: &Channel, region: &Region, round: u32, watchers: &[SocketAddr]) -> Outcome<Vec<Duration>> {
    let hostname = format!("probe-{round}");
    let (messages, receiver) = mpsc::channel(4);
    let message = |kind| AgentMessage { kind: Some(kind) };
    let gone = || Failure::text(Exit::Failed, "the registry closed a new workload's stream");
    let begun = clock::now();
    let attach = message(Kind::Attach(workload(region, &hostname)));
    messages.send(attach).await.map_err(|_| gone())?;
    let mut client = RegisterClient::new(channel.clone());
    let mut replies = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
    let seen = watchers.iter().map(|watcher| seen(*watcher, &hostname, begun));
    let spans = try_join_all(seen).await?;
    messages
        .send(message(Kind::Detach(Detach {})))
        .await
        .map_err(|_| gone())?;
    // The registry ends the stream once the endpoint is removed.
    let ended = async { while let Ok(Some(_)) = replies.message().await {} };
    // Should it not, closing the stream has to do.
    let _ = tokio::time::timeout(Duration::from_millis(500), ended).await;
    Ok(spans)
}

fn workload(region: &Region, hostname: &str) -> Workload {
    Workload {
        id: hostname.to_owned(),
        namespace: "shop".to_owned(),
        service_account: SERVICE.to_owned(),
        cluster: region.name.clone(),
        zone: "a".to_owned(),
        address: "127.0.0.1".to_owned(),
        // The discard port: nobody calls.
        inbound_port: 9,
        services: vec![WorkloadService {
            name: SERVICE.to_owned(),
            ports: vec![Port {
                name: "http".to_owned(),
                number: 80,
                protocol: "http".to_owned(),
            }],
            headless: false,
        }],
        state: EndpointState::Ready.into(),
        labels: BTreeMap::new(),
        weight: 100,
        capacity_rps: 0,
        hostname: hostname.to_owned(),
    }
}

async fn seen(watcher: SocketAddr, hostname: &str, begun: Instant) -> Outcome<Duration> {
    loop {
        let view = view(watcher).await?;
        let endpoints = view["endpoints"].as_array().into_iter().flatten();
        if endpoints.into_iter().any(|endpoint| endpoint["hostname"] == hostname) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Failure::text(
                Exit::Failed,
                format!("endpoint {hostname} did not reach the proxy at {watcher} within {PATIENCE:?}"),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}
