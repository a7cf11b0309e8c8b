//! What each scope shows, and that a subscriber loses nothing on its way.

mod interest;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mesh::{
    model::{Audience, Held, Incarnation, Key, Resource, Revision, Timestamp, Update, View},
    ops::Metrics,
    runtime::{Stop, Tasks},
};

use super::{Hub, Moment, Publish, Published, Scope, Subscriber, chunks};
use crate::catalog::{
    Command, ImportSet, Lessee,
    testing::{
        World, drill, endpoint, export, gateway_lease, id, import, import_set, peer, regions, service, tenant, workload,
    },
};

struct Fixture {
    world: World,
    hub: Arc<Hub>,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            world: World::new("eu"),
            hub: Hub::new(&Metrics::default()),
        };
        fixture.publish(Vec::new(), true);
        fixture
    }

    fn publish(&self, changes: Vec<crate::catalog::Change>, reset: bool) {
        self.hub.publish(Published {
            state: Arc::new(self.world.state.clone()),
            revision: Revision(self.world.revision),
            at: Timestamp(self.world.at),
            changes,
            reset,
        });
    }

    fn run(&mut self, command: Command) {
        let applied = self.world.apply(vec![command]);
        assert!(
            !matches!(applied.replies[0], crate::catalog::Reply::Refused(_)),
            "{applied:?}"
        );
        self.publish(applied.changes, false);
    }

    fn attach(&mut self, name: &str, services: &[&str]) -> u64 {
        self.run(Command::AttachWorkload(Arc::new(workload(name, services))));
        self.world.state.workload(&id(name)).unwrap().epoch
    }

    fn detach(&mut self, name: &str, epoch: u64) {
        let lessee = Lessee::Workload(id(name));
        self.run(Command::Detach { lessee, epoch });
    }
}

/// What a subscriber holds, by key.
#[derive(Default)]
struct Holder(BTreeMap<String, Resource>);

impl Holder {
    fn apply(&mut self, update: Update) {
        if update.full {
            self.0.clear();
        }
        for key in update.removed {
            self.0.remove(&key.to_string());
        }
        for resource in update.upserts {
            self.0.insert(resource.key().to_string(), resource);
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

fn shown(scope: &Scope, moment: &Moment) -> BTreeMap<String, Resource> {
    let mut holder = Holder::default();
    holder.apply(scope.snapshot(moment).unwrap());
    holder.0
}

/// A region with everything: own, exported to one, imported.
fn busy() -> Fixture {
    let mut fixture = Fixture::new();
    for name in ["us", "ap"] {
        fixture.run(Command::PutPeer(peer(name)));
    }
    fixture.attach("w1", &["pay.shop", "secret.shop"]);
    let mut elsewhere = workload("w2", &["pay.shop"]);
    elsewhere.cluster = id("eu-2");
    fixture.run(Command::AttachWorkload(Arc::new(elsewhere)));
    fixture.run(Command::AttachGateway(Box::new(gateway_lease("gw-1", "eu"))));
    fixture.run(export("pay.shop", regions(&["us"])));
    fixture.run(Command::PutTenant(tenant("acme", &["shop"], "eu", 10.0)));
    fixture.run(Command::StartDrill(drill("d1", "us", "eu")));
    fixture.run(import(
        "ap",
        ImportSet {
            services: vec![service("far.shop", "ap")],
            endpoints: vec![endpoint("ep-far", "far.shop", "ap")],
            tenants: vec![tenant("other", &["bank"], "ap", 10.0)],
            ..import_set(1, true)
        },
    ));
    fixture
}

#[test]
fn each_scope_shows_its_part() {
    let fixture = busy();
    let moment = fixture.hub.moment();
    let keys = |scope: Scope| shown(&scope, &moment).into_keys().collect::<Vec<_>>();
    assert_eq!(
        keys(Scope::ExportedTo(id("us"))),
        [
            "bundle/eu.test",
            "endpoint/pay.shop/ep-w1-pay-shop",
            "endpoint/pay.shop/ep-w2-pay-shop",
            "gateway/gw-1",
            "override/d1",
            "region/eu",
            "service/pay.shop",
            "tenant/acme",
        ]
    );
    assert_eq!(
        keys(Scope::ExportedTo(id("ap"))),
        [
            "bundle/eu.test",
            "gateway/gw-1",
            "override/d1",
            "region/eu",
            // What this region keeps to of the lease that it has of a tenant of theirs.
            "report/other/eu",
            "tenant/acme"
        ]
    );
    let common = [
        "bundle/ap.test",
        "bundle/eu.test",
        "bundle/us.test",
        "gateway/gw-1",
        "override/d1",
        "region/ap",
        "region/eu",
        "region/us",
        "share/acme",
        "share/other",
    ];
    let mut everything: BTreeSet<String> = common.iter().map(ToString::to_string).collect();
    assert_eq!(keys(Scope::Services(BTreeSet::new())), common);
    let mut names: BTreeSet<String> = common.iter().map(ToString::to_string).collect();
    names.extend(["service/pay.shop", "service/secret.shop", "service/far.shop"].map(str::to_owned));
    assert_eq!(
        keys(Scope::Names(BTreeSet::new())),
        names.iter().cloned().collect::<Vec<_>>()
    );
    names.insert("endpoint/far.shop/ep-far".to_owned());
    assert_eq!(
        keys(Scope::Names([id("far.shop"), id("later.shop")].into())),
        names.into_iter().collect::<Vec<_>>()
    );
    everything.extend(
        [
            "service/pay.shop",
            "service/secret.shop",
            "service/far.shop",
            "endpoint/pay.shop/ep-w1-pay-shop",
            "endpoint/pay.shop/ep-w2-pay-shop",
            "endpoint/secret.shop/ep-w1-secret-shop",
            "endpoint/far.shop/ep-far",
        ]
        .map(str::to_owned),
    );
    assert_eq!(keys(Scope::Everything), everything.into_iter().collect::<Vec<_>>());
    assert_eq!(
        keys(Scope::ExportedByCluster(id("eu-1"))),
        [
            "bundle/ap.test",
            "bundle/eu.test",
            "bundle/us.test",
            "endpoint/pay.shop/ep-w1-pay-shop",
            "gateway/gw-1",
            "region/ap",
            "region/eu",
            "region/us",
            "service/pay.shop",
        ]
    );
}

#[test]
fn a_peer_never_hears_a_name_that_was_not_exported_to_it() {
    let mut fixture = busy();
    let start = fixture.hub.moment().held();
    // Everything that could leak: a change, a removal, an export to another and its end.
    let epoch = fixture.attach("w3", &["hidden.shop"]);
    fixture.detach("w3", epoch);
    fixture.run(export("secret.shop", regions(&["us"])));
    fixture.run(Command::RemoveExport(id("secret.shop")));
    fixture.run(import(
        "us",
        ImportSet {
            services: vec![service("theirs.shop", "us")],
            ..import_set(1, true)
        },
    ));
    fixture.run(Command::RemovePeer(id("us")));
    let update = Scope::ExportedTo(id("ap")).delta(&fixture.hub.moment(), start).unwrap();
    let told = format!("{update:?}");
    for name in ["hidden", "secret", "theirs", "far", "other", "us.test"] {
        assert!(!told.contains(name), "{name} in {told}");
    }
}

#[test]
fn unexporting_withdraws_from_those_who_saw_it() {
    let mut fixture = busy();
    let start = fixture.hub.moment().held();
    fixture.run(Command::RemoveExport(id("pay.shop")));
    let removed = |peer: &str| {
        let update = Scope::ExportedTo(id(peer)).delta(&fixture.hub.moment(), start).unwrap();
        assert!(update.upserts.is_empty());
        update.removed.iter().map(Key::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        removed("us"),
        [
            "service/pay.shop",
            "endpoint/pay.shop/ep-w1-pay-shop",
            "endpoint/pay.shop/ep-w2-pay-shop",
        ]
    );
    assert_eq!(removed("ap"), Vec::<String>::new());
}

#[test]
fn deltas_lead_every_scope_to_the_same_as_a_snapshot() {
    let scopes = [
        Scope::Everything,
        Scope::Services([id("pay.shop")].into()),
        Scope::Names([id("pay.shop")].into()),
        Scope::ExportedByCluster(id("eu-1")),
        Scope::ExportedTo(id("us")),
        Scope::ExportedTo(id("ap")),
    ];
    for scope in scopes {
        let mut fixture = busy();
        let mut holder = Holder(shown(&scope, &fixture.hub.moment()));
        let start = fixture.hub.moment().held();
        let epoch = fixture.attach("w1", &["pay.shop"]);
        fixture.run(export("pay.shop", Audience::Everybody));
        fixture.attach("w9", &["new.shop"]);
        fixture.run(export("new.shop", regions(&["ap"])));
        fixture.detach("w1", epoch);
        fixture.run(export("pay.shop", regions(&["ap"])));
        fixture.run(Command::EndDrill(id("d1")));
        fixture.run(import("ap", import_set(2, true)));
        let moment = fixture.hub.moment();
        let update = scope.delta(&moment, start).unwrap();
        assert!(!update.full && update.held == moment.held());
        holder.apply(update);
        assert_eq!(holder.0, shown(&scope, &moment), "{scope:?}");
    }
}

#[test]
fn a_position_of_another_life_or_beyond_the_window_gets_a_snapshot() {
    let mut fixture = busy();
    let moment = fixture.hub.moment();
    let old = Held {
        revision: Revision(0),
        ..moment.held()
    };
    let other = Held {
        incarnation: Incarnation(8),
        ..moment.held()
    };
    for held in [old, other] {
        assert_eq!(Scope::Everything.delta(&moment, held), None);
    }
    fixture.run(Command::Noop);
    fixture.publish(Vec::new(), true);
    assert_eq!(Scope::Everything.delta(&fixture.hub.moment(), moment.held()), None);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_a_snapshot_then_merged_deltas_then_only_its_position() {
    let mut fixture = busy();
    let mut subscriber = Subscriber::new(&fixture.hub, Scope::Services([id("pay.shop")].into()), None);
    let first = subscriber.next().await.unwrap();
    assert!(first.full && first.committed_at.is_none());
    fixture.world.at = 50_000;
    let epoch = fixture.attach("w5", &["pay.shop"]);
    fixture.world.at = 51_000;
    fixture.attach("w6", &["pay.shop"]);
    fixture.detach("w5", epoch);
    let second = subscriber.next().await.unwrap();
    assert_eq!(second.held, fixture.hub.moment().held());
    assert_eq!(second.committed_at, Some(Timestamp(50_000)), "the oldest change in it");
    let count = |update: &Update, key: &str| {
        let upserts = update
            .upserts
            .iter()
            .filter(|resource| resource.key().to_string() == key);
        (
            upserts.count(),
            update
                .removed
                .iter()
                .filter(|removed| removed.to_string() == key)
                .count(),
        )
    };
    assert_eq!(count(&second, "endpoint/pay.shop/ep-w5-pay-shop"), (0, 1));
    assert_eq!(count(&second, "endpoint/pay.shop/ep-w6-pay-shop"), (1, 0));
    // A change that it does not see moves its position, a second later.
    let before = mesh::runtime::clock::now();
    fixture.attach("w1", &["pay.shop", "secret.shop", "more.shop"]);
    let third = subscriber.next().await.unwrap();
    assert!(!third.full && third.removed.is_empty());
    assert!(
        third
            .upserts
            .iter()
            .all(|resource| !resource.key().to_string().contains("more"))
    );
    assert!(before.elapsed() <= Duration::from_secs(1));
    let quiet = tokio::time::timeout(Duration::from_secs(60), subscriber.next()).await;
    assert!(quiet.is_err(), "nothing happens, nothing is sent");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_resumes_with_a_delta() {
    let mut fixture = busy();
    let held = fixture.hub.moment().held();
    fixture.attach("w5", &["pay.shop"]);
    let mut subscriber = Subscriber::new(&fixture.hub, Scope::Everything, Some(held));
    let update = subscriber.next().await.unwrap();
    assert!(!update.full);
    assert!(update.upserts.len() < 5, "{update:?}");
    // Even with nothing new it hears at once that it is current.
    let mut current = Subscriber::new(&fixture.hub, Scope::Everything, Some(update.held));
    let update = current.next().await.unwrap();
    assert!(!update.full && update.upserts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_waits_before_it_takes_a_subscriber_back_in_time() {
    let mut fixture = busy();
    let ahead = Held {
        revision: Revision(fixture.world.revision + 1),
        ..fixture.hub.moment().held()
    };
    let mut subscriber = Subscriber::new(&fixture.hub, Scope::Everything, Some(ahead));
    let waiting = tokio::time::timeout(Duration::from_secs(4), subscriber.next()).await;
    assert!(waiting.is_err());
    fixture.attach("w5", &["pay.shop"]);
    assert!(!subscriber.next().await.unwrap().full, "it has caught up");
    let ahead = Held {
        revision: Revision(fixture.world.revision + 1),
        ..ahead
    };
    let mut subscriber = Subscriber::new(&fixture.hub, Scope::Everything, Some(ahead));
    assert!(subscriber.next().await.unwrap().full, "it never does");
}

#[tokio::test(start_paused = true)]
async fn another_interest_brings_what_it_adds_and_takes_what_it_drops() {
    let mut fixture = busy();
    let pay = Scope::Services([id("pay.shop")].into());
    let far = Scope::Services([id("far.shop")].into());
    let mut subscriber = Subscriber::new(&fixture.hub, pay.clone(), None);
    let mut holder = Holder::default();
    holder.apply(subscriber.next().await.unwrap());
    subscriber.set_scope(far.clone());
    let update = subscriber.next().await.unwrap();
    assert!(!update.full);
    assert_eq!(update.upserts.len(), 2, "the service and its endpoint: {update:?}");
    holder.apply(update);
    assert_eq!(holder.0, shown(&far, &fixture.hub.moment()));
    // Twice before the next update, with a change between.
    subscriber.set_scope(Scope::Everything);
    fixture.attach("w7", &["pay.shop"]);
    subscriber.set_scope(pay.clone());
    holder.apply(subscriber.next().await.unwrap());
    assert_eq!(holder.0, shown(&pay, &fixture.hub.moment()));
    assert!(holder.keys().contains(&"endpoint/pay.shop/ep-w7-pay-shop"));
}

#[tokio::test(start_paused = true)]
async fn the_local_view_follows() {
    let mut fixture = busy();
    let tasks = Tasks::new(Stop::default());
    let mut views = fixture.hub.local_views(&tasks);
    let whole = |fixture: &Fixture| {
        let update = Scope::Everything.snapshot(&fixture.hub.moment()).unwrap();
        View::default().updated(update)
    };
    assert!(views.load().service(&id("far.shop")).is_some());
    assert!(*views.load() == whole(&fixture));
    let epoch = fixture.attach("w5", &["cart.shop"]);
    views.changed().await.unwrap();
    assert!(views.load().service(&id("cart.shop")).is_some());
    assert!(*views.load() == whole(&fixture));
    fixture.detach("w5", epoch);
    views.changed().await.unwrap();
    let cart = views
        .load()
        .service(&id("cart.shop"))
        .map(|(_, entry)| entry.endpoints.len());
    assert_eq!(cart, Some(0), "the definition stays for a while");
    fixture.run(Command::RemovePeer(id("us")));
    fixture.run(Command::Sweep);
    views.changed().await.unwrap();
    assert!(*views.load() == whole(&fixture));
    tasks.stop().order();
    tasks.join(Duration::from_secs(1)).await.unwrap();
}

#[test]
fn a_large_update_travels_in_chunks_that_add_up() {
    let mut fixture = Fixture::new();
    fixture.run(Command::PutPeer(peer("us")));
    let mut endpoints = Vec::new();
    for n in 0..4_500 {
        endpoints.push(endpoint(&format!("ep-{n}"), "pay.shop", "us"));
    }
    fixture.run(import(
        "us",
        ImportSet {
            endpoints,
            ..import_set(1, true)
        },
    ));
    let mut update = Scope::Everything.snapshot(&fixture.hub.moment()).unwrap();
    update.removed = vec![Key::Region(id("sa"))];
    let count = update.upserts.len();
    let chunks: Vec<_> = chunks(update).collect();
    assert_eq!(chunks.len(), 3);
    assert_eq!(chunks.iter().map(|chunk| chunk.upserts.len()).sum::<usize>(), count);
    assert_eq!(chunks.iter().map(|chunk| chunk.removed.len()).sum::<usize>(), 1);
    assert_eq!(
        chunks.iter().map(|chunk| chunk.more).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.full && prost::Message::encoded_len(chunk) < 3 << 20)
    );
}

#[test]
fn acknowledgements_show_who_is_how_far() {
    let fixture = busy();
    let subscribers = fixture.hub.subscribers();
    let ticket = subscribers.enter("proxy/w1", "0.1.0").unwrap();
    let held = |revision| Held {
        incarnation: Incarnation(7),
        revision: Revision(revision),
    };
    ticket.sent(held(5), Timestamp(1_000), Some(Timestamp(900)));
    ticket.sent(held(6), Timestamp(2_000), None);
    let lag = |now| subscribers.list(Timestamp(now))[0].lag;
    assert_eq!(lag(3_000), Duration::from_secs(2));
    ticket.acknowledged(held(5), Timestamp(1_100));
    assert_eq!(lag(3_000), Duration::from_secs(1));
    ticket.acknowledged(held(6), Timestamp(2_100));
    assert_eq!(lag(9_000), Duration::ZERO);
    assert_eq!(subscribers.list(Timestamp(0))[0].acknowledged, Revision(6));
    drop(ticket);
    assert!(subscribers.list(Timestamp(0)).is_empty());
}
