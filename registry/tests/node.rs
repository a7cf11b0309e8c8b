//! A registry node as a whole, over real sockets and a real disk: made, started, used by an agent and by an operator.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something unexpected happens"
)]

#[path = "node/world.rs"]
mod world;

use std::time::Duration;

use mesh::{
    identity::{Token, TokenKind},
    model::RegionId,
    runtime::Stop,
};
use proto::{
    admin::v1::{self as admin, admin_client::AdminClient},
    registry::v1::{self as pb, agent_message, agent_reply},
};
use registry::raft::storage::{Engine, Sled, Space, Writes};
use tonic::Code;
use world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_gets_a_certificate_registers_and_goes() {
    let region = Region::start("").await;
    let token = region.token("shop", "pay", 1).await;
    let svid = region.svid(&token).await.unwrap();
    assert_eq!(svid.id().as_str(), "spiffe://eu/ns/shop/sa/pay");
    let again = region.svid(&token).await.expect_err("one use");
    assert_eq!(again.code(), Code::Unauthenticated, "{again}");

    let channel = region.as_svid(svid).await;
    let mut agent = Agent::attach(channel.clone(), agent_message::Kind::Attach(workload("pay-1")))
        .await
        .unwrap();
    let agent_reply::Kind::Attached(attached) = agent.next().await.unwrap() else {
        panic!("not attached")
    };
    assert_eq!((attached.endpoint_ids.len(), attached.lease_ttl_ms), (1, 10_000));

    let mut operator = region.operator().await;
    let listed = endpoints(&mut operator).await.unwrap();
    assert_eq!(listed[0].id, attached.endpoint_ids[0]);
    let services = operator
        .list_services(admin::ListServicesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(services.position.unwrap().linearizable);
    assert_eq!((services.services[0].endpoints, services.services[0].ready), (1, 1));

    let draining = pb::StateChange {
        state: pb::EndpointState::Draining.into(),
    };
    agent.say(agent_message::Kind::State(draining)).await.unwrap();
    assert_eq!(
        endpoints(&mut operator).await.unwrap()[0].state(),
        pb::EndpointState::Draining
    );
    agent
        .say(agent_message::Kind::Heartbeat(pb::Heartbeat::default()))
        .await
        .unwrap();

    // It attaches again on another stream and keeps its endpoint; the old stream is told.
    let mut newer = Agent::attach(channel, agent_message::Kind::Attach(workload("pay-1")))
        .await
        .unwrap();
    let agent_reply::Kind::Attached(kept) = newer.next().await.unwrap() else {
        panic!("not attached")
    };
    assert_eq!(kept.endpoint_ids, attached.endpoint_ids);
    let stale = agent
        .say(agent_message::Kind::Heartbeat(pb::Heartbeat::default()))
        .await
        .expect_err("moved on");
    assert_eq!(stale.code(), Code::Aborted);

    newer.say(agent_message::Kind::Detach(pb::Detach {})).await.unwrap();
    assert!(endpoints(&mut operator).await.unwrap().is_empty(), "gone at once");
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_lease_lapses_and_a_restart_keeps_what_was_committed() {
    let region = Region::start("[lease]\nttl = '1s'\ngrace = '0s'\n").await;
    let svid = region.svid(&region.token("shop", "pay", 1).await).await.unwrap();
    let mut agent = Agent::attach(
        region.as_svid(svid).await,
        agent_message::Kind::Attach(workload("pay-1")),
    )
    .await
    .unwrap();
    agent.next().await.unwrap();
    let mut operator = region.operator().await;
    assert_eq!(endpoints(&mut operator).await.unwrap().len(), 1);
    // Silence: the stream is closed, the endpoint goes.
    assert_eq!(agent.next().await.expect_err("silent").code(), Code::DeadlineExceeded);
    eventually("the endpoint is gone", async || {
        endpoints(&mut operator).await?.is_empty().then_some(())
    })
    .await;

    let tenant = pb::Tenant {
        id: "acme".into(),
        namespaces: vec!["shop".into()],
        ..pb::Tenant::default()
    };
    operator
        .put_tenant(admin::PutTenantRequest { tenant: Some(tenant) })
        .await
        .unwrap();
    let (folder, config) = region.end().await;
    let stop = Stop::default();
    let running = Box::pin(registry::start(config.clone(), None, stop.clone()))
        .await
        .unwrap();
    running.ready.wait().await;
    assert_eq!(running.replica().state().tenants().count(), 1);
    stop.order();
    running.finish().await.unwrap();
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_operator_changes_anything() {
    let region = Region::start("").await;
    let workload = region.svid(&region.token("shop", "pay", 1).await).await.unwrap();
    let gateway = region
        .svid(&region.token("isthmus-system", "gateway", 1).await)
        .await
        .unwrap();
    let bootstrap = Token::decode(&region.token("shop", "pay", 1).await, TokenKind::Workload).unwrap();
    for (channel, code) in [
        (region.as_svid(workload).await, Code::PermissionDenied),
        (region.as_svid(gateway).await, Code::PermissionDenied),
        (
            region.channel(bootstrap.bootstrap().unwrap()).await,
            Code::Unauthenticated,
        ),
    ] {
        let mut client = AdminClient::new(channel);
        macro_rules! refused {
            ($($method:ident($message:expr)),* $(,)?) => {$(
                let status = client.$method($message).await.map(drop).expect_err(stringify!($method));
                assert_eq!(status.code(), code, "{}: {status}", stringify!($method));
            )*};
        }
        refused!(
            get_status(admin::StatusRequest::default()),
            list_services(admin::ListServicesRequest::default()),
            put_tenant(admin::PutTenantRequest::default()),
            remove_tenant(admin::RemoveTenantRequest::default()),
            put_export(admin::Export::default()),
            remove_export(admin::RemoveExportRequest::default()),
            put_import_policy(admin::ImportPolicy::default()),
            create_token(admin::CreateTokenRequest::default()),
            create_peer_token(admin::CreatePeerTokenRequest::default()),
            create_node_token(admin::CreateNodeTokenRequest::default()),
            join_peer(admin::JoinPeerRequest::default()),
            remove_peer(admin::RemovePeerRequest::default()),
            repair_peer(admin::RepairPeerRequest::default()),
            rotate_authority(admin::RotateAuthorityRequest {}),
            get_authority(admin::ReadOptions::default()),
            remove_node(admin::RemoveNodeRequest::default()),
            start_drill(admin::StartDrillRequest::default()),
            renew_drill(admin::RenewDrillRequest::default()),
            end_drill(admin::EndDrillRequest::default()),
            release_unverified(admin::ReleaseUnverifiedRequest {}),
            save_snapshot(admin::SaveSnapshotRequest::default()),
        );
    }
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_shows_health_metrics_and_the_reads() {
    let region = Region::start("").await;
    assert_eq!(region.http("/healthz").await, (200, "ok\n".into()));
    assert_eq!(region.http("/readyz").await, (200, "ready\n".into()));
    let (code, metrics) = region.http("/metrics").await;
    assert!(code == 200 && metrics.contains("isthmus_raft_is_leader 1"), "{metrics}");
    let (_, status) = region.http("/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["position"]["region"], "eu");
    assert_eq!(status["nodes"][0]["leader"], true);
    for path in [
        "/v1/services",
        "/v1/tenants",
        "/v1/exports",
        "/v1/peers",
        "/v1/drills?local=true",
    ] {
        let (code, body) = region.http(path).await;
        assert_eq!(code, 200, "{path}: {body}");
    }
    let (code, body) = region.http("/v1/services/no.where/endpoints").await;
    assert!(code == 404 && body.contains("no.where"), "{body}");
    let (code, body) = region.http("/v1/resolve?name=no.where").await;
    assert!(code == 200 && body.contains("NXDOMAIN"), "{body}");
    assert_eq!(region.http("/v1/why?source=eu&destination=no.where").await.0, 404);
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_join_by_token_and_a_foreign_token_is_refused() {
    let region = Region::start("").await;
    let mut operator = region.operator().await;
    let folder = tempfile::tempdir().unwrap();
    let stop = Stop::default();
    let mut others = Vec::new();
    for name in ["two", "three"] {
        let token = operator
            .create_node_token(admin::CreateNodeTokenRequest { ttl_seconds: 60 })
            .await
            .unwrap();
        let config = config(&folder.path().join(name), "");
        let join = Some(token.into_inner().token);
        others.push(Box::pin(registry::start(config, join, stop.clone())).await.unwrap());
    }
    let status = eventually("three voters", async || {
        let status = operator
            .get_status(admin::StatusRequest::default())
            .await
            .ok()?
            .into_inner();
        (status.nodes.iter().filter(|node| node.voter).count() == 3).then_some(status)
    })
    .await;
    let ids: Vec<_> = status.nodes.iter().map(|node| node.id).collect();
    assert_eq!(ids, [1, 2, 3]);
    for other in &others {
        tokio::time::timeout(Duration::from_secs(10), other.ready.wait())
            .await
            .unwrap();
        assert_eq!(other.replica().state().region().map(RegionId::as_str), Some("eu"));
    }
    let workload = region.token("shop", "pay", 1).await;
    let refused = Box::pin(registry::start(
        config(&folder.path().join("four"), ""),
        Some(workload),
        stop.clone(),
    ))
    .await;
    assert!(
        matches!(refused.err(), Some(registry::Error::Token(_))),
        "a workload token makes no node"
    );
    stop.order();
    for other in others {
        other.finish().await.unwrap();
    }
    region.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_peer_and_an_export_arrives() {
    let (eu, us) = (Region::named("eu", "").await, Region::named("us", "").await);
    let svid = eu.svid(&eu.token("shop", "pay", 1).await).await.unwrap();
    let mut agent = Agent::attach(eu.as_svid(svid).await, agent_message::Kind::Attach(workload("pay-1")))
        .await
        .unwrap();
    agent.next().await.unwrap();
    let (mut here, mut there) = (eu.operator().await, us.operator().await);
    let token = here
        .create_peer_token(admin::CreatePeerTokenRequest::default())
        .await
        .unwrap()
        .into_inner()
        .token;
    let peer = there
        .join_peer(admin::JoinPeerRequest { token })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(peer.region, "eu");
    eventually("both see the other connected", async || {
        let ours = here
            .list_peers(admin::ReadOptions::default())
            .await
            .ok()?
            .into_inner()
            .peers;
        let theirs = there
            .list_peers(admin::ReadOptions::default())
            .await
            .ok()?
            .into_inner()
            .peers;
        (ours.first()?.connected && theirs.first()?.connected).then_some(())
    })
    .await;
    assert!(endpoints(&mut there).await.is_none(), "nothing was exported");
    let export = admin::Export {
        service: "pay.shop".into(),
        to_all: true,
        ..admin::Export::default()
    };
    here.put_export(export).await.unwrap();
    let imported = eventually("the export arrives", async || {
        endpoints(&mut there).await.filter(|endpoints| !endpoints.is_empty())
    })
    .await;
    assert_eq!((imported.len(), imported[0].region.as_str()), (1, "eu"));
    drop(agent);
    eu.end().await;
    us.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_newer_or_older_program_is_refused_with_what_to_do() {
    let (folder, config) = Region::start("").await.end().await;
    let path = config.data_dir.join("raft/db");
    for (format, expected) in [
        (
            9_u32,
            "has data format 9, this program knows 2; use the newer program that wrote it",
        ),
        (
            1,
            "has data format 1, this program knows 2 and does not read older ones; save a snapshot",
        ),
    ] {
        let engine = Sled::open(&path).unwrap();
        let mut writes = Writes::default();
        writes.put(b"format".to_vec(), format.to_be_bytes().to_vec());
        engine.write(Space::Meta, writes).unwrap();
        engine.sync().unwrap();
        drop(engine);
        let error = Box::pin(registry::start(config.clone(), None, Stop::default())).await;
        let error = error.err().expect("it is refused");
        let said = std::error::Error::source(&error).unwrap().to_string();
        assert!(said.contains(expected), "{said}");
    }
    drop(folder);
}
