use super::*;
use crate::federation::{JoinError, join};

#[tokio::test]
async fn an_export_appears_follows_and_goes() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    us.join(&eu).await;
    eu.serves("w1", &["pay.shop", "secret.shop"]);
    eu.run(export_to("pay.shop", Audience::Everybody));
    us.sees_endpoints("pay.shop", 1).await;
    eu.is_connected(&us).await;
    us.is_connected(&eu).await;
    eu.serves("w2", &["pay.shop"]);
    us.sees_endpoints("pay.shop", 2).await;
    eu.run(Command::AttachGateway(Box::new(gateway_lease("gw-eu", "eu"))));
    us.sees("a gateway", |state| state.gateways().count() == 1).await;
    assert!(us.hub.state().service(&id("secret.shop")).is_none());
    let mut acknowledged = false;
    for _ in 0..1_000 {
        acknowledged = eu.federation.status(&us.name).acknowledged.0 > 0;
        if acknowledged {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(acknowledged, "acknowledged when committed");
    eu.run(Command::RemoveExport(id("pay.shop")));
    us.sees_endpoints("pay.shop", 0).await;
    us.sees("no service", |state| state.service_count() == 0).await;
    // The end of the peering takes the rest, there at once and here the trust too.
    us.run(Command::RemovePeer(region("eu")));
    assert_eq!(us.hub.state().gateways().count(), 0);
}

#[tokio::test]
async fn three_regions_see_each_other_and_pass_nothing_on() {
    let (ap, eu, us) = tokio::join!(Region::start("ap"), Region::start("eu"), Region::start("us"));
    // eu is between the others, which are no peers of each other.
    eu.join(&ap).await;
    eu.join(&us).await;
    for (region, worker) in [(&ap, "w-ap"), (&us, "w-us")] {
        region.serves(worker, &["pay.shop"]);
        region.run(export_to("pay.shop", Audience::Everybody));
    }
    eu.run(export_to("pay.shop", Audience::Everybody));
    eu.sees_endpoints("pay.shop", 2).await;
    eu.serves("w-eu", &["pay.shop"]);
    for far in [&ap, &us] {
        far.sees_endpoints("pay.shop", 2).await;
        let state = far.hub.state();
        let others = state
            .endpoints(&id("pay.shop"))
            .filter(|e| e.locality.region != far.name);
        assert!(others.into_iter().all(|endpoint| endpoint.locality.region == eu.name));
        assert_eq!(state.service(&id("pay.shop")).unwrap().origins.len(), 2);
    }
}

#[tokio::test]
async fn nothing_reaches_the_wire_that_was_not_exported_to_the_peer() {
    let (eu, ap) = (Region::start("eu").await, Region::start("ap").await);
    let us = Region::start("us").await;
    // The streams that eu would dial have no address to go to.
    introduce(&eu, &ap);
    introduce(&eu, &us);
    trusts(&eu, &ap).await;
    trusts(&ap, &eu).await;
    eu.serves("w1", &["secret.shop", "open.shop"]);
    eu.run(export_to("open.shop", Audience::Everybody));
    eu.run(export_to("secret.shop", regions(&["us"])));
    let mut wire = Wire::open(&ap, &eu, None).await.unwrap();
    let mut said = vec![wire.update().await];
    eu.serves("w2", &["secret.shop", "hidden.shop"]);
    eu.run(Command::RemoveExport(id("secret.shop")));
    eu.run(export_to("open.shop", regions(&["ap"])));
    let revision = eu.hub.moment().revision.0;
    said.extend(wire.until(revision).await);
    let told = format!("{said:?}");
    assert!(said[0].full && told.contains("open"));
    for name in ["secret", "hidden", "us.test"] {
        assert!(!told.contains(name), "{name} in {told}");
    }
}

#[tokio::test]
async fn a_stream_that_comes_back_goes_on_where_it_broke_off() {
    let (eu, ap) = (Region::start("eu").await, Region::start("ap").await);
    introduce(&eu, &ap);
    trusts(&eu, &ap).await;
    trusts(&ap, &eu).await;
    eu.serves("w1", &["pay.shop"]);
    eu.run(export_to("pay.shop", Audience::Everybody));
    let mut first = Wire::open(&ap, &eu, None).await.unwrap();
    let snapshot = first.update().await;
    assert!(snapshot.full && snapshot.upserts.len() >= 3);
    drop(first);
    eu.serves("w2", &["pay.shop"]);
    let held: Held = snapshot.held.unwrap().into();
    let mut second = Wire::open(&ap, &eu, Some(held)).await.unwrap();
    let delta = second.update().await;
    assert!(!delta.full);
    let endpoint = Key::Endpoint(id("pay.shop"), id("ep-w2-pay-shop")).to_string();
    let keys: Vec<String> = delta
        .upserts
        .into_iter()
        .filter_map(|resource| Resource::try_from(resource.kind?).ok())
        .map(|resource| resource.key().to_string())
        .collect();
    assert_eq!(keys, [endpoint]);
    // What it sends is committed by this region and acknowledged then.
    let mut theirs = pb::Update {
        region: "ap".into(),
        held: Some(pb::Held {
            incarnation: 7,
            revision: 3,
        }),
        full: true,
        ..pb::Update::default()
    };
    theirs.upserts = vec![Resource::Service(crate::catalog::testing::service("far.shop", "ap")).into()];
    let kind = Some(Kind::Update(theirs));
    second.out.send(PeerMessage { kind }).await.unwrap();
    eu.sees("its service", |state| state.service(&id("far.shop")).is_some())
        .await;
    assert_eq!(eu.hub.state().peer(&ap.name).unwrap().held.unwrap().revision.0, 3);
    // Silence and a broken stream withdraw nothing.
    drop(second);
    eu.sees("disconnected", |state| {
        state.region_statuses().all(|status| !status.connected)
    })
    .await;
    assert!(eu.hub.state().service(&id("far.shop")).is_some());
}

#[tokio::test]
async fn a_wider_import_policy_brings_what_was_left_out() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    us.join(&eu).await;
    us.run(Command::PutImportPolicy {
        peer: region("eu"),
        policy: mesh::model::ImportPolicy::Services([id("other.shop")].into()),
    });
    eu.serves("w1", &["pay.shop"]);
    eu.run(export_to("pay.shop", Audience::Everybody));
    us.sees("a position", |state| state.peers().any(|peer| peer.held.is_some()))
        .await;
    us.run(Command::PutImportPolicy {
        peer: region("eu"),
        policy: mesh::model::ImportPolicy::All,
    });
    us.sees_endpoints("pay.shop", 1).await;
}

#[tokio::test]
async fn a_node_that_does_not_lead_names_the_leader() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    introduce(&eu, &us);
    trusts(&us, &eu).await;
    trusts(&eu, &us).await;
    eu.home.leads.store(false, Ordering::SeqCst);
    let refused = Wire::open(&us, &eu, None).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "no leader is known");
    *eu.home.leader_address.lock().unwrap() = Some("other.test:15016".into());
    let refused = Wire::open(&us, &eu, None).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(refused.metadata().get("isthmus-leader").unwrap(), "other.test:15016");
}

#[tokio::test]
async fn a_peering_token_is_good_once_and_for_whom_it_was_made() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    let for_ap = eu.token(Some(region("ap")));
    let denied = us.federation.join(&for_ap).await.unwrap_err().to_string();
    assert!(denied.contains("for region ap only"), "{denied}");
    let token = eu.token(None);
    us.federation.join(&token).await.unwrap();
    let denied = us.federation.join(&token).await.unwrap_err().to_string();
    assert!(denied.contains("used up"), "{denied}");
    let own = us.federation.join(&us.token(None)).await.unwrap_err();
    assert!(matches!(own, JoinError::Refused(_)), "{own}");
    // The anchors decide who may answer.
    let mut forged = eu.token(None);
    forged.anchors = us.token(None).anchors;
    let unreachable = us.federation.join(&forged).await.unwrap_err();
    assert!(matches!(unreachable, JoinError::Unreachable { .. }), "{unreachable}");
    // Another kind of token is refused and not spent.
    let secret = Secret::generate().unwrap();
    eu.run(Command::PutToken(TokenRecord {
        digest: secret.digest(),
        grant: Grant::Node,
        expires_at: clock::wall().plus(Duration::from_secs(60)),
        uses: 1,
    }));
    let node = Token {
        secret,
        ..eu.token(None)
    };
    let denied = us.federation.join(&node).await.unwrap_err().to_string();
    assert!(denied.contains("not for peering"), "{denied}");
    assert_eq!(
        eu.hub
            .state()
            .tokens()
            .filter(|token| token.grant == Grant::Node)
            .count(),
        1
    );
}

#[tokio::test]
async fn a_stranger_opens_no_stream() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    let card = export::card(&eu.hub.state(), Vec::new()).unwrap();
    us.run(Command::PutPeer(join::record(&us.hub.state(), card)));
    trusts(&us, &eu).await;
    let expect = Expect::System(Role::Registry, eu.identity.trust_domain());
    // Without any certificate a call comes through, and is told to show one.
    let credentials = Credentials::from(eu.token(None).bootstrap().unwrap());
    let channel = dial(&eu.home.address, &credentials, &expect, Timeouts::default())
        .await
        .unwrap();
    let (_out, messages) = mpsc::channel(1);
    let mut client = FederationClient::new(channel);
    let refused = client.exchange(ReceiverStream::new(messages)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let request = AcceptRequest {
        secret: "guess".into(),
        card: Some(export::card(&us.hub.state(), Vec::new()).unwrap().into()),
    };
    assert_eq!(
        client.accept(request).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}
