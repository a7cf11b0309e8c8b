//! Subscribers that hold all names, and the endpoints of what they use.

use super::*;

fn names(services: &[&str]) -> Scope {
    Scope::Names(services.iter().map(|service| id(service)).collect())
}

fn keys_of(update: &Update) -> Vec<String> {
    let mut keys: Vec<_> = update
        .upserts
        .iter()
        .map(|resource| resource.key().to_string())
        .collect();
    keys.sort();
    keys
}

#[tokio::test(start_paused = true)]
async fn names_that_grow_bring_what_they_add_and_every_change_of_interest_is_answered() {
    let mut fixture = busy();
    let mut subscriber = Subscriber::new(&fixture.hub, names(&[]), None);
    assert!(subscriber.next().await.unwrap().full);
    subscriber.set_scope(names(&["far.shop"]));
    let update = subscriber.next().await.unwrap();
    assert_eq!(keys_of(&update), ["endpoint/far.shop/ep-far"], "no more than that");
    assert!(!update.full && update.removed.is_empty());
    // Without any endpoint, and even when it is no change at all: whoever asked hears that this is all.
    for same in [names(&["far.shop", "nobody.shop"]), names(&["far.shop", "nobody.shop"])] {
        subscriber.set_scope(same);
        let soon = tokio::time::timeout(Duration::from_millis(1), subscriber.next()).await;
        let update = soon.expect("at once").unwrap();
        assert!(!update.full && update.upserts.is_empty() && update.removed.is_empty());
    }
    // Together with a change of what it adds: each key once, in its newest state.
    let epoch = fixture.attach("w5", &["pay.shop"]);
    fixture.detach("w5", epoch);
    fixture.attach("w6", &["pay.shop"]);
    subscriber.set_scope(names(&["pay.shop"]));
    let update = subscriber.next().await.unwrap();
    let endpoints: Vec<_> = keys_of(&update)
        .into_iter()
        .filter(|key| key.starts_with("endpoint/"))
        .collect();
    let expected = ["w1", "w2", "w6"].map(|name| format!("endpoint/pay.shop/ep-{name}-pay-shop"));
    assert_eq!(endpoints, expected);
    assert!(
        update
            .removed
            .iter()
            .all(|key| !key.to_string().starts_with("endpoint/"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_wanted_endpoint_is_one_small_update_and_others_are_none() {
    let mut fixture = busy();
    for n in 0..200 {
        fixture.attach(&format!("many-{n}"), &["pay.shop"]);
    }
    let mut subscriber = Subscriber::new(&fixture.hub, names(&["pay.shop"]), None);
    assert!(subscriber.next().await.unwrap().full);
    let told = fixture.world.apply(vec![Command::SetWorkloadState {
        workload: id("many-7"),
        epoch: fixture.world.state.workload(&id("many-7")).unwrap().epoch,
        state: mesh::model::EndpointState::Draining,
    }]);
    fixture.publish(told.changes, false);
    let update = subscriber.next().await.unwrap();
    assert_eq!(keys_of(&update), ["endpoint/pay.shop/ep-many-7-pay-shop"]);
    let bytes: usize = chunks(update).map(|chunk| prost::Message::encoded_len(&chunk)).sum();
    assert!(bytes < 400, "{bytes} bytes");
    // Of a service that it does not want it hears the name alone.
    fixture.attach("w8", &["unwanted.shop"]);
    let update = subscriber.next().await.unwrap();
    assert!(keys_of(&update).contains(&"service/unwanted.shop".to_owned()));
    assert!(!keys_of(&update).iter().any(|key| key.starts_with("endpoint/")));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_ends_is_removed_by_name() {
    let mut fixture = busy();
    let epoch = fixture.attach("w5", &["brief.shop"]);
    let mut subscriber = Subscriber::new(&fixture.hub, names(&[]), None);
    let mut holder = Holder::default();
    holder.apply(subscriber.next().await.unwrap());
    assert!(holder.keys().contains(&"service/brief.shop"));
    fixture.detach("w5", epoch);
    holder.apply(subscriber.next().await.unwrap());
    assert_eq!(holder.0, shown(&names(&[]), &fixture.hub.moment()));
    // Whether the name outlives its last endpoint is the catalogue's business; a subscriber agrees with it.
    let known = fixture.world.state.resource(&Key::Service(id("brief.shop"))).is_some();
    assert_eq!(holder.keys().contains(&"service/brief.shop"), known);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_position_with_another_interest_gets_a_delta_and_what_is_new_in_it() {
    let mut fixture = busy();
    let held = fixture.hub.moment().held();
    let mut holder = Holder(shown(&names(&["pay.shop"]), &fixture.hub.moment()));
    fixture.attach("w5", &["pay.shop"]);
    let both = names(&["pay.shop", "far.shop"]);
    let mut subscriber = Subscriber::resumed(&fixture.hub, both.clone(), Some(held), names(&["pay.shop"]));
    let update = subscriber.next().await.unwrap();
    assert!(!update.full);
    assert!(keys_of(&update).contains(&"endpoint/far.shop/ep-far".to_owned()));
    holder.apply(update);
    assert_eq!(holder.0, shown(&both, &fixture.hub.moment()));
    // Whoever held everything lacks nothing: what is too much it drops itself.
    let mut subscriber = Subscriber::new(&fixture.hub, both, Some(held));
    assert!(!subscriber.next().await.unwrap().full);
    // What another kind of interest showed, in another session, is not known here.
    let cluster = Scope::ExportedByCluster(id("eu-1"));
    let mut subscriber = Subscriber::resumed(&fixture.hub, names(&[]), Some(held), cluster);
    assert!(subscriber.next().await.unwrap().full);
}
