use pb::{agent_message::Kind, agent_reply::Kind as ReplyKind};

use super::*;
use crate::{
    model::EndpointState,
    subscribe::{Attachment, Lessee, attach::Settings},
};

fn workload() -> pb::Workload {
    pb::Workload {
        id: "pay-1".to_owned(),
        namespace: "shop".to_owned(),
        state: pb::EndpointState::Unhealthy.into(),
        ..pb::Workload::default()
    }
}

fn spawn(nodes: &[&Node], identity: Identity, here: &Here) -> Attachment {
    let settings = Settings {
        retry: (Duration::from_millis(5), Duration::from_millis(50)),
        ..Settings::new(nodes.iter().map(|node| node.address.clone()).collect())
    };
    let lessee = Lessee::Workload(workload());
    Attachment::spawn(settings, lessee, identity, &here.tasks, &here.metrics, &here.ready)
}

fn attached(lease_ttl_ms: u64) -> pb::AgentReply {
    pb::AgentReply {
        kind: Some(ReplyKind::Attached(pb::Attached {
            lease_ttl_ms,
            endpoint_ids: vec!["ep-1".to_owned()],
            revision: 5,
        })),
    }
}

/// The next message that is no heartbeat.
async fn said(agent: &mut Attached) -> Kind {
    loop {
        match agent.next().await.kind.expect("a kind") {
            Kind::Heartbeat(_) => {}
            kind => return kind,
        }
    }
}

#[tokio::test]
async fn it_attaches_beats_and_tells_its_state() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let attachment = spawn(&[&node], registry.proxy(), &here);
    let mut agent = registry.agent().await;
    assert_eq!(said(&mut agent).await, Kind::Attach(workload()));
    assert_eq!(here.ready.pending(), ["registered"]);
    assert!(!attachment.is_attached());
    agent.say(attached(300)).await;
    within("readiness", here.ready.wait()).await;
    assert_eq!(attachment.endpoint_ids(), ["ep-1"]);
    // At a third of the lease.
    for _ in 0..3 {
        assert!(matches!(agent.next().await.kind, Some(Kind::Heartbeat(_))));
    }
    attachment.set_state(EndpointState::Ready);
    let ready = pb::StateChange {
        state: pb::EndpointState::Ready.into(),
    };
    assert_eq!(said(&mut agent).await, Kind::State(ready));
    let mut heavier = workload();
    heavier.weight = 500;
    heavier.state = pb::EndpointState::Ready.into();
    attachment.redefine(Lessee::Workload(heavier.clone()));
    assert_eq!(said(&mut agent).await, Kind::Attach(heavier));
    here.end().await;
}

#[tokio::test]
async fn a_lost_node_is_replaced_and_hears_the_newest_state() {
    let mut registry = Registry::new();
    let (one, other) = (registry.node().await, registry.node().await);
    let here = Here::new();
    let attachment = spawn(&[&one, &other], registry.proxy(), &here);
    let mut agent = registry.agent().await;
    said(&mut agent).await;
    agent.say(attached(60_000)).await;
    eventually("attached", || attachment.is_attached()).await;
    drop(agent);
    one.kill().await;
    attachment.set_state(EndpointState::Draining);
    let mut agent = registry.agent().await;
    // Whether the change came before or after the new stream began, the node ends up knowing it.
    let mut state = match said(&mut agent).await {
        Kind::Attach(workload) => workload.state(),
        other => panic!("{other:?}"),
    };
    agent.say(attached(60_000)).await;
    if state != pb::EndpointState::Draining {
        state = match said(&mut agent).await {
            Kind::State(change) => change.state(),
            other => panic!("{other:?}"),
        };
    }
    assert_eq!(state, pb::EndpointState::Draining);
    here.end().await;
}

#[tokio::test]
async fn a_refusal_is_tried_again() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let attachment = spawn(&[&node], registry.proxy(), &here);
    for _ in 0..2 {
        let agent = registry.agent().await;
        let refusal = Status::resource_exhausted("tenant has too many endpoints");
        agent.replies.send(Err(refusal)).await.expect("caller is there");
    }
    let mut agent = registry.agent().await;
    said(&mut agent).await;
    agent.say(attached(60_000)).await;
    eventually("attached", || attachment.is_attached()).await;
    here.end().await;
}

#[tokio::test]
async fn going_away_on_purpose_is_told_and_waited_for() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let attachment = spawn(&[&node], registry.proxy(), &here);
    let mut agent = registry.agent().await;
    said(&mut agent).await;
    agent.say(attached(60_000)).await;
    eventually("attached", || attachment.is_attached()).await;
    let node_side = async {
        assert_eq!(said(&mut agent).await, Kind::Detach(pb::Detach {}));
        assert!(attachment.is_attached(), "until the node has heard it");
        let committed = pb::AgentReply {
            kind: Some(ReplyKind::CommittedRevision(9)),
        };
        agent.say(committed).await;
    };
    within("the goodbye", async { tokio::join!(attachment.detach(), node_side) }).await;
    // Nobody attaches again, and the process runs on until it is stopped.
    let again = tokio::time::timeout(Duration::from_millis(100), registry.attached.recv()).await;
    assert!(again.is_err() && !here.tasks.stop().is_ordered());
    here.end().await;
}

#[tokio::test]
async fn going_away_does_not_wait_for_a_registry_that_is_gone() {
    let registry = Registry::new();
    let node = registry.node().await;
    let gone = Node {
        address: node.address.clone(),
        tasks: Tasks::new(Stop::default()),
    };
    node.kill().await;
    let here = Here::new();
    let attachment = spawn(&[&gone], registry.proxy(), &here);
    within("an end without goodbye", attachment.detach()).await;
    here.end().await;
}
