use std::collections::BTreeSet;

use pb::watch_request::Kind;

use super::*;
use crate::{
    model::{Key, Revision, ServiceName, Update},
    subscribe::{Interest, Settings, Subscription, Views, cache, demand, samples},
};

fn settings(nodes: &[&Node], cache: Option<std::path::PathBuf>) -> Settings {
    let addresses = nodes.iter().map(|node| node.address.clone()).collect();
    Settings {
        retry: (Duration::from_millis(5), Duration::from_millis(50)),
        ..Settings::new(addresses, "proxy/pay-1".to_owned(), Interest::everything(), cache)
    }
}

fn spawn(settings: Settings, identity: Identity, here: &Here) -> Subscription {
    Subscription::spawn(settings, identity, &here.tasks, &here.metrics, &here.ready)
}

fn full(incarnation: u64, revision: u64, services: &[&str]) -> pb::Update {
    samples::update(incarnation, revision, true, services).into()
}

fn delta(revision: u64, services: &[&str]) -> pb::Update {
    samples::update(7, revision, false, services).into()
}

fn names(views: &Views) -> Vec<String> {
    let mut names: Vec<_> = views.load().services().map(|(name, _)| name.to_string()).collect();
    names.sort();
    names
}

async fn start_of(stream: &mut Watched) -> pb::Start {
    match stream.next().await.kind {
        Some(Kind::Start(start)) => start,
        other => panic!("no start: {other:?}"),
    }
}

async fn ack_of(stream: &mut Watched, revision: u64) -> pb::Ack {
    loop {
        if let Some(Kind::Ack(ack)) = stream.next().await.kind
            && ack.held.is_some_and(|held| held.revision == revision)
        {
            return ack;
        }
    }
}

#[tokio::test]
async fn snapshot_and_delta_are_published_and_acknowledged() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let views = subscription.views();
    assert_eq!(here.ready.pending(), ["first view"]);
    let mut stream = registry.subscriber().await;
    let start = start_of(&mut stream).await;
    assert_eq!((start.held, start.subscriber.as_str()), (None, "proxy/pay-1"));
    assert!(start.interest.unwrap().everything);

    stream.say(full(7, 10, &["pay.shop"])).await;
    let ack = ack_of(&mut stream, 10).await;
    assert!(ack.applied_at_ms > 0);
    here.ready.wait().await;
    let mut update = samples::update(7, 11, false, &["cart.shop"]);
    update.removed = vec![Key::Service(ServiceName::parse("pay.shop").unwrap())];
    update.committed_at = Some(crate::runtime::clock::wall());
    stream.say(update.into()).await;
    ack_of(&mut stream, 11).await;
    assert_eq!(names(&views), ["cart.shop"]);
    assert!(subscription.is_connected());
    assert_eq!(subscription.age(), Some(Duration::ZERO));
    let told = here.metrics.render();
    for line in [
        "isthmus_view_revision 11",
        "isthmus_view_connected 1",
        "isthmus_view_updates_total{kind=\"full\"} 1",
        "isthmus_view_updates_total{kind=\"delta\"} 1",
        "isthmus_view_commit_to_applied_seconds_count 1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    here.end().await;
}

#[tokio::test]
async fn chunks_are_applied_together_at_the_last() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["old.shop"])).await;
    ack_of(&mut stream, 10).await;
    let views = subscription.views();
    // Every chunk of a snapshot may say that it is full.
    for (services, more) in [(&["a.shop"][..], true), (&["b.shop"], true), (&["c.shop"], false)] {
        let mut chunk = full(7, 20, services);
        chunk.more = more;
        assert_eq!(names(&views), ["old.shop"]);
        stream.say(chunk).await;
    }
    ack_of(&mut stream, 20).await;
    assert_eq!(names(&views), ["a.shop", "b.shop", "c.shop"]);
    here.end().await;
}

#[tokio::test]
async fn a_lost_node_is_replaced_and_the_held_position_presented() {
    let mut registry = Registry::new();
    let (one, other) = (registry.node().await, registry.node().await);
    let here = Here::new();
    let subscription = spawn(settings(&[&one, &other], None), registry.proxy(), &here);
    let views = subscription.views();
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["pay.shop"])).await;
    ack_of(&mut stream, 10).await;
    // Which of the two it is on is chance; the one that is killed first may not be it.
    one.kill().await;
    drop(stream);
    let mut stream = registry.subscriber().await;
    let start = start_of(&mut stream).await;
    assert_eq!(start.held.map(|held| (held.incarnation, held.revision)), Some((7, 10)));
    assert_eq!(names(&views), ["pay.shop"], "silence withdraws nothing");
    stream.say(delta(12, &["cart.shop"])).await;
    ack_of(&mut stream, 12).await;
    assert_eq!(names(&views), ["cart.shop", "pay.shop"]);
    here.end().await;
}

#[tokio::test]
async fn another_incarnation_comes_as_a_snapshot_and_a_delta_of_it_is_refused() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let views = subscription.views();
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 100, &["pay.shop"])).await;
    ack_of(&mut stream, 100).await;
    stream.say(samples::update(8, 101, false, &["wrong.shop"]).into()).await;
    // The stream is left, and the next one asks for a snapshot.
    let mut stream = registry.subscriber().await;
    assert_eq!(start_of(&mut stream).await.held, None);
    assert_eq!(names(&views), ["pay.shop"]);
    stream.say(full(8, 3, &["restored.shop"])).await;
    ack_of(&mut stream, 3).await;
    assert_eq!(names(&views), ["restored.shop"]);
    here.end().await;
}

#[tokio::test]
async fn a_node_that_lags_is_left_and_at_last_believed() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["new.shop"])).await;
    ack_of(&mut stream, 10).await;
    for _ in 0..3 {
        stream.say(full(7, 9, &["old.shop"])).await;
        stream = registry.subscriber().await;
        start_of(&mut stream).await;
        assert_eq!(names(&subscription.views()), ["new.shop"]);
    }
    stream.say(full(7, 9, &["old.shop"])).await;
    ack_of(&mut stream, 9).await;
    assert_eq!(names(&subscription.views()), ["old.shop"]);
    here.end().await;
}

#[tokio::test]
async fn unreadable_updates_change_nothing() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["pay.shop"])).await;
    ack_of(&mut stream, 10).await;
    let mut bad = delta(11, &["cart.shop"]);
    bad.removed = vec!["nonsense".to_owned()];
    stream.say(bad).await;
    let mut stream = registry.subscriber().await;
    let start = start_of(&mut stream).await;
    assert_eq!(start.held.unwrap().revision, 10);
    assert_eq!(names(&subscription.views()), ["pay.shop"]);
    here.end().await;
}

#[tokio::test]
async fn a_changed_interest_is_told_and_the_next_stream_starts_anew() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let subscription = spawn(settings(&[&node], None), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["pay.shop"])).await;
    ack_of(&mut stream, 10).await;
    let services = [ServiceName::parse("cart.shop").unwrap()].into();
    subscription.set_interest(Interest {
        services,
        ..Interest::default()
    });
    let told = loop {
        if let Some(Kind::Interest(interest)) = stream.next().await.kind {
            break interest;
        }
    };
    assert_eq!((told.everything, told.services), (false, vec!["cart.shop".to_owned()]));
    drop(stream);
    let mut stream = registry.subscriber().await;
    let start = start_of(&mut stream).await;
    assert_eq!((start.held, start.interest.unwrap().everything), (None, false));
    here.end().await;
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

fn made_for(interest: u64, update: pb::Update) -> pb::Update {
    pb::Update { interest, ..update }
}

async fn interest_of(stream: &mut Watched) -> pb::Interest {
    loop {
        if let Some(Kind::Interest(interest)) = stream.next().await.kind {
            return interest;
        }
    }
}

#[tokio::test]
async fn names_come_first_and_endpoints_when_they_are_used_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::new();
    let node = registry.node().await;
    let of_names = |services: &[&str]| Settings {
        interest: Interest::names(services.iter().map(|text| name(text)).collect()),
        ..settings(&[&node], Some(directory.path().join("view")))
    };
    let here = Here::new();
    let subscription = spawn(of_names(&[]), registry.proxy(), &here);
    let demand = subscription.demand(demand::Settings::default(), BTreeSet::new(), &here.metrics);
    let mut stream = registry.subscriber().await;
    let interest = start_of(&mut stream).await.interest.unwrap();
    assert!(interest.names && interest.everything && interest.endpoints_of.is_empty());
    stream
        .say(made_for(interest.sequence, full(7, 10, &["pay.shop", "cart.shop"])))
        .await;
    ack_of(&mut stream, 10).await;
    let views = subscription.views();
    assert_eq!(names(&views), ["cart.shop", "pay.shop"]);
    assert!(!views.load().holds_endpoints_of(&name("pay.shop")));
    let answer = async {
        let interest = interest_of(&mut stream).await;
        assert_eq!(interest.endpoints_of, ["pay.shop"]);
        // One that was under way when the wish was heard confirms nothing.
        stream.say(made_for(1, delta(11, &[]))).await;
        // Its acknowledgement takes longer than whoever wished would wait.
        let mut following = subscription.views();
        while following.load().held().revision.0 != 11 {
            following.changed().await.unwrap();
        }
        assert!(!views.load().holds_endpoints_of(&name("pay.shop")));
        stream.say(made_for(interest.sequence, delta(11, &[]))).await;
    };
    let pay = name("pay.shop");
    let (held, ()) = tokio::join!(demand.ensure(&pay), answer);
    assert_eq!(held, Ok(()));
    here.end().await;

    // The next process goes on with what was in use, and says what its position was shown under.
    let here = Here::new();
    let subscription = spawn(of_names(&["cart.shop"]), registry.proxy(), &here);
    let views = subscription.views();
    assert!(views.load().holds_endpoints_of(&name("pay.shop")) && !views.load().holds_endpoints_of(&name("cart.shop")));
    let mut stream = registry.subscriber().await;
    let start = start_of(&mut stream).await;
    let interest = start.interest.unwrap();
    assert_eq!(
        (start.held.unwrap().revision, start.shown.unwrap().endpoints_of),
        (11, vec!["pay.shop".to_owned()])
    );
    assert_eq!(interest.endpoints_of, ["cart.shop", "pay.shop"]);
    stream.say(made_for(interest.sequence, delta(12, &[]))).await;
    ack_of(&mut stream, 12).await;
    assert!(views.load().holds_endpoints_of(&name("cart.shop")));
    here.end().await;
}

#[tokio::test]
async fn a_registry_that_knows_no_names_is_believed_with_a_snapshot_of_everything_only() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let of_names = Settings {
        interest: Interest::names(BTreeSet::new()),
        ..settings(&[&node], None)
    };
    let subscription = spawn(of_names, registry.proxy(), &here);
    let views = subscription.views();
    let mut stream = registry.subscriber().await;
    let interest = start_of(&mut stream).await.interest.unwrap();
    stream
        .say(made_for(interest.sequence, full(7, 10, &["pay.shop"])))
        .await;
    ack_of(&mut stream, 10).await;
    drop(stream);
    // Another node, of the version before: its delta leaves out what it believes to be held.
    let mut stream = registry.subscriber().await;
    assert!(start_of(&mut stream).await.held.is_some());
    stream.say(delta(11, &["pay.shop"])).await;
    let mut stream = registry.subscriber().await;
    assert_eq!(start_of(&mut stream).await.held, None);
    assert!(!views.load().holds_endpoints_of(&name("pay.shop")));
    stream.say(full(7, 12, &["pay.shop"])).await;
    ack_of(&mut stream, 12).await;
    assert!(views.load().holds_endpoints_of(&name("pay.shop")));
    here.end().await;
}

#[tokio::test]
async fn a_start_without_registry_takes_the_view_from_disk_and_resumes_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("view");
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let _subscription = spawn(settings(&[&node], Some(path.clone())), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    stream.say(full(7, 10, &["pay.shop"])).await;
    ack_of(&mut stream, 10).await;
    stream.say(delta(11, &["cart.shop"])).await;
    ack_of(&mut stream, 11).await;
    // The second change comes within the interval, and is written at the end.
    here.end().await;
    assert_eq!(cache::load(&path).unwrap().unwrap().view.held().revision, Revision(11));

    let address = node.address.clone();
    node.kill().await;
    let here = Here::new();
    let mut alone = settings(&[], Some(path.clone()));
    alone.addresses = vec![address];
    let subscription = spawn(alone.clone(), registry.proxy(), &here);
    assert_eq!(names(&subscription.views()), ["cart.shop", "pay.shop"]);
    assert!(here.ready.pending().is_empty(), "the view from disk is enough");
    assert!(!subscription.is_connected() && subscription.age().is_some());
    here.end().await;

    let node = registry.node().await;
    let here = Here::new();
    alone.addresses = vec![node.address.clone()];
    let _subscription = spawn(alone.clone(), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    assert_eq!(start_of(&mut stream).await.held.unwrap().revision, 11);
    here.end().await;
    // Another interest than the one on disk cannot resume from it.
    let here = Here::new();
    alone.interest = Interest::default();
    let _subscription = spawn(alone, registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    assert_eq!(start_of(&mut stream).await.held, None);
    here.end().await;
}

#[tokio::test]
async fn a_spoilt_file_costs_a_snapshot_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("view");
    std::fs::write(&path, "no view at all, but longer than the header of one").unwrap();
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let _subscription = spawn(settings(&[&node], Some(path.clone())), registry.proxy(), &here);
    let mut stream = registry.subscriber().await;
    assert_eq!(start_of(&mut stream).await.held, None);
    stream.say(full(7, 10, &["pay.shop"])).await;
    eventually("the file mended", || {
        cache::load(&path).is_ok_and(|cached| cached.is_some_and(|it| it.view.held().revision == Revision(10)))
    })
    .await;
    here.end().await;
}

#[tokio::test]
async fn a_stranger_who_answers_is_not_believed() {
    let mut registry = Registry::new();
    let impostor = registry.node_as("spiffe://eu/ns/shop/sa/registry").await;
    let here = Here::new();
    let subscription = spawn(settings(&[&impostor], None), registry.proxy(), &here);
    // It may knock; it never gets as far as a stream.
    let refused = tokio::time::timeout(Duration::from_millis(300), registry.watched.recv()).await;
    assert!(refused.is_err() && !subscription.is_connected());
    here.end().await;
}

#[tokio::test]
async fn bundles_of_the_view_are_trusted_and_the_own_one_stays() {
    let mut registry = Registry::new();
    let node = registry.node().await;
    let here = Here::new();
    let identity = registry.proxy();
    let _subscription = spawn(settings(&[&node], None), identity.clone(), &here);
    let us = Ca::new("us").bundle();
    let mut stream = registry.subscriber().await;
    start_of(&mut stream).await;
    let update = Update {
        upserts: vec![crate::model::Resource::Bundle((*us).clone())],
        ..samples::update(7, 10, true, &[])
    };
    stream.say(update.into()).await;
    ack_of(&mut stream, 10).await;
    assert!(identity.bundle(us.trust_domain()).is_some());
    assert!(identity.bundle(&identity.trust_domain()).is_some());
    here.end().await;
}
