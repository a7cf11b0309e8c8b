//! What goes wrong between two regions, and what mends it: copies that differ, certificates and roots that change, peers
//! that move, begin again or part.

use super::*;
use crate::federation::JoinError;
use crate::{
    authority::rotate::Pace,
    catalog::{RotateStep, Stage, State, Subject},
    node::{Disk, Rotator},
};

impl Region {
    /// Changes the catalogue behind everybody's back, as a fault or a damaged disk would.
    fn spoil(&self, change: impl FnOnce(&mut State)) {
        let mut world = self.home.world.lock().unwrap();
        change(&mut world.state);
        self.hub.publish(Published {
            state: Arc::new(world.state.clone()),
            revision: mesh::model::Revision(world.revision),
            at: Timestamp(world.at),
            changes: Vec::new(),
            reset: false,
        });
    }

    fn differs_from(&self, peer: &Self) -> bool {
        differs(&self.hub.state(), peer)
    }

    /// Loses or takes leadership: the streams end, or may begin.
    fn lead(&self, leads: bool) {
        self.home.leads.store(leads, Ordering::SeqCst);
        self.home.leader.send_replace(Some(NodeId(1)));
    }

    /// A new certificate, of the authority in use.
    fn renew(&self) {
        let (state, now) = (self.hub.state(), clock::wall());
        let domain = state.trust_domain().unwrap();
        let authority = Authority::from_record(state.authority().unwrap(), domain).unwrap();
        let request = KeyRequest::generate().unwrap();
        let chain = authority.issue(request.der(), &system::registry(domain), Duration::from_secs(3600), now);
        self.identity
            .replace_svid(request.complete(chain.unwrap()).unwrap())
            .unwrap();
    }

    async fn is_cut_off(&self, peer: &Self) {
        let is_down = |state: &State| {
            let mut statuses = state.region_statuses();
            statuses.any(|status| status.region == peer.name && !status.connected)
        };
        self.sees("disconnected", is_down).await;
    }
}

fn differs(state: &State, peer: &Region) -> bool {
    state.finding(&Subject::Peer(peer.name.clone())).is_some()
}

/// `eu` exports `pay.shop` with one endpoint, `us` holds it.
async fn joined() -> (Region, Region) {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    us.join(&eu).await;
    eu.serves("w1", &["pay.shop"]);
    eu.run(export_to("pay.shop", Audience::Everybody));
    us.sees_endpoints("pay.shop", 1).await;
    (eu, us)
}

#[tokio::test]
async fn a_copy_that_differs_is_reported_within_five_seconds_and_repaired() {
    let (eu, us) = joined().await;
    // Long enough for some comparisons.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!us.differs_from(&eu));
    let began = clock::now();
    us.spoil(|state| state.spoil_endpoint("pay.shop", "ep-w1-pay-shop"));
    us.sees("a finding", |state| differs(state, &eu)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let found = us
        .hub
        .state()
        .finding(&Subject::Peer(eu.name.clone()))
        .unwrap()
        .parts
        .clone();
    assert_eq!(crate::federation::part_names(&found), "endpoints");
    assert_eq!(us.hub.state().all_endpoints().count(), 1, "what is there stays in use");
    us.run(Command::RepairPeer(eu.name.clone()));
    us.sees("no finding", |state| {
        let weight = state.all_endpoints().next().map(|endpoint| endpoint.weight);
        !differs(state, &eu) && weight == Some(100)
    })
    .await;
}

#[tokio::test]
async fn only_what_the_policy_takes_is_compared() {
    let (eu, us) = joined().await;
    eu.serves("w2", &["cart.shop"]);
    eu.run(export_to("cart.shop", regions(&["us"])));
    us.sees_endpoints("cart.shop", 1).await;
    us.run(Command::PutImportPolicy {
        peer: region("eu"),
        policy: mesh::model::ImportPolicy::Services([id("cart.shop")].into()),
    });
    us.sees_endpoints("pay.shop", 0).await;
    us.sees("a position", |state| state.peers().any(|peer| peer.held.is_some()))
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!us.differs_from(&eu) && !eu.differs_from(&us));
    us.spoil(|state| state.spoil_endpoint("cart.shop", "ep-w2-cart-shop"));
    us.sees("a finding", |state| differs(state, &eu)).await;
}

#[tokio::test]
async fn certificates_change_while_the_stream_stands_and_while_it_does_not() {
    let (eu, us) = joined().await;
    us.is_connected(&eu).await;
    eu.renew();
    us.renew();
    eu.serves("w2", &["pay.shop"]);
    us.sees_endpoints("pay.shop", 2).await;
    assert!(us.federation.status(&eu.name).connected, "a renewal cuts nothing");
    eu.lead(false);
    us.is_cut_off(&eu).await;
    eu.renew();
    eu.serves("w3", &["pay.shop"]);
    eu.lead(true);
    us.sees_endpoints("pay.shop", 3).await;
}

#[tokio::test]
async fn a_root_changes_while_everybody_goes_on() {
    let (eu, us) = joined().await;
    us.is_connected(&eu).await;
    let folder = tempfile::tempdir().unwrap();
    let home: Arc<dyn Home> = eu.home.clone();
    let pace = Pace {
        published_min: Duration::ZERO,
        certificate_max: Duration::from_secs(1),
        ..Pace::default()
    };
    let disk = Disk::new(folder.path());
    let (hub, federation) = (Arc::clone(&eu.hub), eu.federation.clone());
    let mut rotator = Rotator::new(home, hub, federation, (disk, false), Clock::system()).with_pace(pace);
    let stage = || eu.hub.state().rotation().map(|rotation| rotation.stage);
    rotator.turn().await.unwrap();
    assert_eq!(stage(), None, "nothing is due");
    let old = eu.hub.state().authority().unwrap().clone();
    eu.run(Command::Rotate(Box::new(RotateStep::Order)));
    rotator.turn().await.unwrap();
    assert_eq!(stage(), Some(Stage::Made));
    // The peer is away when the new anchor is published: the new root waits for it.
    us.lead(false);
    eu.is_cut_off(&us).await;
    rotator.turn().await.unwrap();
    assert!(matches!(stage(), Some(Stage::Published { .. })), "{:?}", stage());
    for _ in 0..3 {
        rotator.turn().await.unwrap();
    }
    assert!(matches!(stage(), Some(Stage::Published { .. })), "{:?}", stage());
    assert_eq!(*eu.hub.state().authority().unwrap(), old, "the old root issues");
    us.lead(true);
    us.sees("both anchors", |state| {
        state.bundles().any(|bundle| bundle.anchors().len() == 2)
    })
    .await;
    for _ in 0..500 {
        rotator.turn().await.unwrap();
        if matches!(stage(), Some(Stage::Signing { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(matches!(stage(), Some(Stage::Signing { .. })), "{:?}", stage());
    let late = Wire::identity_of(&eu, &old);
    eu.renew();
    // The stream of the old certificate stands; a new one of the new root is trusted.
    eu.serves("w2", &["pay.shop"]);
    us.sees_endpoints("pay.shop", 2).await;
    eu.lead(false);
    us.is_cut_off(&eu).await;
    eu.lead(true);
    eu.serves("w3", &["pay.shop"]);
    us.sees_endpoints("pay.shop", 3).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    rotator.turn().await.unwrap();
    assert_eq!(stage(), None, "the old root is withdrawn");
    us.sees("one anchor", |state| {
        state.bundles().all(|bundle| bundle.anchors().len() == 1)
    })
    .await;
    us.is_connected(&eu).await;
    rotator.turn().await.unwrap();
    assert!(folder.path().join("root-key.pem").exists() && !folder.path().join("root-next-key.pem").exists());
    // What the old root issued is trusted no longer.
    let expect = Expect::System(Role::Registry, us.identity.trust_domain());
    let dialled = dial(&us.home.address, &Credentials::from(late), &expect, Timeouts::default()).await;
    let refused = match dialled {
        Err(_) => true,
        Ok(channel) => {
            let (_out, messages) = mpsc::channel(1);
            FederationClient::new(channel)
                .exchange(ReceiverStream::new(messages))
                .await
                .is_err()
        }
    };
    assert!(refused);
}

impl Wire {
    /// An identity of the region's registry by an authority that was in use.
    fn identity_of(region: &Region, record: &crate::catalog::AuthorityRecord) -> Identity {
        let (state, now) = (region.hub.state(), clock::wall());
        let domain = state.trust_domain().unwrap();
        let authority = Authority::from_record(record, domain).unwrap();
        let request = KeyRequest::generate().unwrap();
        let chain = authority.issue(request.der(), &system::registry(domain), Duration::from_secs(3600), now);
        let svid = request.complete(chain.unwrap()).unwrap();
        Identity::new(svid, state.bundles().cloned()).unwrap()
    }
}

#[tokio::test]
async fn a_peer_that_moved_says_so_itself() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    // Each knows an address of the other where nobody is; a name is looked up at each dial.
    let port = eu.home.address.rsplit_once(':').unwrap().1;
    for (here, there, address) in [
        (&eu, &us, "127.0.0.1:1".to_owned()),
        (&us, &eu, format!("localhost:{port}")),
    ] {
        let card = export::card(&there.hub.state(), vec![address]).unwrap();
        here.run(Command::PutPeer(super::super::join::record(&here.hub.state(), card)));
    }
    eu.is_connected(&us).await;
    for (here, there) in [(&eu, &us), (&us, &eu)] {
        let newest = std::slice::from_ref(&there.home.address);
        let knows = |state: &State| {
            state
                .peer(&there.name)
                .is_some_and(|peer| peer.record.addresses == newest)
        };
        here.sees("the newest card", knows).await;
    }
    // The same stream says it when nodes come or go: once it breaks, nobody could.
    *eu.home.more_addresses.lock().unwrap() = vec!["eu-2.test:15016".to_owned()];
    us.sees("the address of the new node", |state| {
        let addresses = state.peer(&eu.name).map(|peer| peer.record.addresses.clone());
        addresses == Some(vec![eu.home.address.clone(), "eu-2.test:15016".to_owned()])
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_was_removed_takes_all_with_it_and_gets_no_stream() {
    let (eu, us) = joined().await;
    eu.run(Command::AttachGateway(Box::new(gateway_lease("gw-eu", "eu"))));
    eu.run(Command::PutTenant(crate::catalog::testing::tenant(
        "acme",
        &["shop"],
        "eu",
        9.0,
    )));
    us.sees("gateway and tenant", |state| {
        state.gateways().count() + state.tenants().count() == 2
    })
    .await;
    us.run(Command::RemovePeer(eu.name.clone()));
    let state = us.hub.state();
    assert_eq!(state.service_count() + state.all_endpoints().count(), 0);
    assert_eq!(
        state.gateways().count() + state.tenants().count() + state.region_statuses().count(),
        0
    );
    assert!(
        state.bundles().all(|bundle| *bundle.region() == us.name),
        "its certificates are trusted no longer"
    );
    let domain = eu.identity.trust_domain();
    let mut changed = us.identity.changed();
    let gone = changed.wait_for(|_| us.identity.bundle(&domain).is_none());
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap()
        .unwrap();
    assert!(Wire::try_open(&eu, &us).await.is_err(), "its stream is refused");
    eu.is_cut_off(&us).await;
    assert!(!eu.federation.status(&us.name).last_error.is_empty());
}

impl Wire {
    /// Like `open`, where the connection itself may be refused.
    async fn try_open(who: &Region, to: &Region) -> Result<(), String> {
        let expect = Expect::System(Role::Registry, to.identity.trust_domain());
        let credentials = Credentials::from(who.identity.clone());
        let channel = dial(&to.home.address, &credentials, &expect, Timeouts::default()).await;
        let (_out, messages) = mpsc::channel(8);
        let mut client = FederationClient::new(channel.map_err(|error| error.to_string())?);
        let answer = client.exchange(ReceiverStream::new(messages)).await;
        answer.map(drop).map_err(|status| status.to_string())
    }
}

#[tokio::test]
async fn a_peer_that_began_again_is_taken_anew() {
    let (eu, us) = joined().await;
    let snapshot = eu.hub.state();
    eu.serves("w2", &["pay.shop"]);
    us.sees_endpoints("pay.shop", 2).await;
    eu.lead(false);
    us.is_cut_off(&eu).await;
    // Restored: an older catalogue, another incarnation, and revisions that begin again.
    {
        let mut world = eu.home.world.lock().unwrap();
        world.state = snapshot.with_incarnation(mesh::model::Incarnation(8));
        world.revision = 3;
    }
    let mut applied = Vec::new();
    eu.spoil(|state| applied.push(state.incarnation()));
    assert_eq!(us.hub.state().all_endpoints().count(), 2, "silence withdraws nothing");
    eu.lead(true);
    us.sees_endpoints("pay.shop", 1).await;
    let peer = us.hub.state().peer(&eu.name).unwrap().clone();
    assert_eq!(peer.held.unwrap().incarnation.0, 8);
    assert_eq!(peer.record.incarnation.0, 8);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!us.differs_from(&eu));
}

#[tokio::test]
async fn regions_that_disagree_about_a_service_decide_alike_and_say_so() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    us.join(&eu).await;
    for (region, number, protocol, at) in [
        (&eu, 80, mesh::model::Protocol::Http, 900),
        (&us, 80, mesh::model::Protocol::Tcp, 700),
    ] {
        let mut lease = workload("w", &["pay.shop"]);
        lease.id = id(&format!("w-{}", region.name));
        lease.identity = id(&format!("spiffe://{}.test/ns/shop/sa/pay", region.name));
        lease.cluster = id(&format!("{}-1", region.name));
        lease.services[0].endpoint = id(&format!("ep-{}", region.name));
        lease.services[0].ports = vec![crate::catalog::testing::port("", number, protocol)];
        if region.name == us.name {
            lease.services[0]
                .ports
                .push(crate::catalog::testing::port("", 90, protocol));
        }
        region.run(Command::AttachWorkload(Arc::new(lease)));
        region.run(Command::PutExport(mesh::model::Export {
            service: id("pay.shop"),
            to: Audience::Everybody,
            created_at: Timestamp(at),
        }));
    }
    for region in [&eu, &us] {
        region
            .sees("both origins", |state| state.conflicts().count() == 1)
            .await;
        let service = region.hub.state().service(&id("pay.shop")).unwrap();
        let ports: Vec<_> = service.ports.iter().map(|port| (port.number, port.protocol)).collect();
        let tcp = mesh::model::Protocol::Tcp;
        assert_eq!(
            ports,
            [(80, tcp), (90, tcp)],
            "{}: the oldest export wins, ports are united",
            region.name
        );
        assert_eq!(service.origins, [us.name.clone(), eu.name.clone()]);
        assert!(service.conflict.contains("eu has port 80/http"), "{}", service.conflict);
    }
}

#[tokio::test]
async fn a_token_that_comes_too_late_is_refused_by_both() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    let mut late = eu.token(None);
    late.expires_at = Timestamp(1);
    let refused = us.federation.join(&late).await.unwrap_err();
    assert!(matches!(refused, JoinError::Token(_)), "{refused}");
    // A clock that is behind takes the token for good; the one that gave it out decides.
    let mut token = eu.token(None);
    token.secret = Secret::generate().unwrap();
    eu.run(Command::PutToken(TokenRecord {
        digest: token.secret.digest(),
        grant: Grant::Peer { for_region: None },
        expires_at: Timestamp(clock::wall().0 - 1),
        uses: 1,
    }));
    let denied = us.federation.join(&token).await.unwrap_err().to_string();
    assert!(denied.contains("expired"), "{denied}");
    assert_eq!(eu.hub.state().peers().count() + us.hub.state().peers().count(), 0);
}

#[tokio::test]
async fn two_that_dial_at_once_end_with_one_stream() {
    let (eu, us) = (Region::start("eu").await, Region::start("us").await);
    for (here, there) in [(&eu, &us), (&us, &eu)] {
        let card = export::card(&there.hub.state(), vec![there.home.address.clone()]).unwrap();
        here.run(Command::PutPeer(super::super::join::record(&here.hub.state(), card)));
    }
    for (region, worker) in [(&eu, "w-eu"), (&us, "w-us")] {
        region.serves(worker, &["pay.shop"]);
        region.run(export_to("pay.shop", Audience::Everybody));
    }
    for region in [&eu, &us] {
        region.sees_endpoints("pay.shop", 2).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (here, there) in [(&eu, &us), (&us, &eu)] {
        assert!(here.federation.status(&there.name).connected);
        assert!(!here.differs_from(there));
    }
}
