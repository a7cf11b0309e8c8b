//! Updates that many subscribers share: the same bytes for all who see alike, and for nobody else.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Wake, Waker},
};

use bytes::Bytes;
use prost::Message as _;
use proto::registry::v1 as pb;

use super::*;
use crate::watch::Given;

async fn messages(subscriber: &mut Subscriber, interest: u64) -> Vec<Bytes> {
    let given = poll_fn(|cx| subscriber.poll_next(cx)).await.unwrap();
    given.into_messages(interest).collect()
}

fn read(message: &Bytes) -> pb::Update {
    let (head, body) = message.split_at(5);
    assert_eq!(head[0], 0, "not compressed");
    assert_eq!(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize, body.len());
    pb::Update::decode(body).unwrap()
}

/// Subscribers of these scopes that have what there is.
async fn current<const N: usize>(fixture: &Fixture, scopes: [Scope; N]) -> [Subscriber; N] {
    let mut subscribers = scopes.map(|scope| Subscriber::new(&fixture.hub, scope, None));
    for subscriber in &mut subscribers {
        assert!(subscriber.next().await.unwrap().full);
    }
    subscribers
}

#[tokio::test(start_paused = true)]
async fn who_sees_alike_and_missed_the_same_gets_the_same_bytes() {
    let mut fixture = busy();
    let pay: BTreeSet<_> = [id("pay.shop")].into();
    let both: BTreeSet<_> = [id("pay.shop"), id("far.shop")].into();
    let scopes = [
        Scope::Everything,
        Scope::Services(pay.clone()),
        Scope::Names(pay),
        Scope::Names(both),
    ];
    let mut subscribers = current(&fixture, scopes).await;
    fixture.attach("w5", &["pay.shop"]);
    let [all, services, names, more] = &mut subscribers;
    let first = messages(all, 0).await;
    assert_eq!(first.len(), 1);
    for other in [services, names] {
        assert_eq!(
            messages(other, 0).await[0].as_ptr(),
            first[0].as_ptr(),
            "not made again"
        );
    }
    // For another interest it is the same update.
    let update = read(&messages(more, 9).await[0]);
    assert_eq!(update.interest, 9);
    let expected = pb::Update {
        interest: 9,
        ..read(&first[0])
    };
    assert_eq!(update, expected);
    // Whoever missed less is told less.
    let held = Held::from(update.held.unwrap());
    fixture.attach("w6", &["pay.shop"]);
    let mut late = Subscriber::new(&fixture.hub, Scope::Everything, Some(held));
    let late = messages(&mut late, 0).await;
    let mut later = Subscriber::new(&fixture.hub, Scope::Everything, Some(fixture.hub.moment().held()));
    assert_ne!(late, messages(&mut later, 0).await);
}

/// Whatever is shared, each is shown what its scope shows: never more.
#[tokio::test(start_paused = true)]
async fn who_sees_otherwise_shares_nothing() {
    let mut fixture = busy();
    let scopes = || {
        [
            Scope::Everything,
            Scope::ExportedTo(id("us")),
            Scope::ExportedTo(id("ap")),
            Scope::ExportedByCluster(id("eu-1")),
            Scope::ExportedByCluster(id("eu-2")),
        ]
    };
    let mut subscribers = current(&fixture, scopes()).await;
    let before = fixture.hub.moment().held();
    fixture.attach("w5", &["pay.shop", "secret.shop"]);
    fixture.run(export("secret.shop", regions(&["ap"])));
    let moment = fixture.hub.moment();
    let mut given: Vec<Given> = Vec::new();
    for (subscriber, scope) in subscribers.iter_mut().zip(scopes()) {
        let next = poll_fn(|cx| subscriber.poll_next(cx)).await.unwrap();
        assert_eq!(Some(next.update()), scope.delta(&moment, before).as_ref(), "{scope:?}");
        given.push(next);
    }
    let sees_secret = |given: &Given| {
        let mut keys = given.update().upserts.iter().map(|resource| resource.key().to_string());
        keys.any(|key| key.contains("secret"))
    };
    // Clusters are shown what is exported to anybody.
    let seen: Vec<_> = given.iter().map(sees_secret).collect();
    assert_eq!(seen, [true, false, true, true, true]);
    let bytes: BTreeSet<_> = given
        .into_iter()
        .map(|given| given.into_messages(0).next().unwrap())
        .collect();
    assert_eq!(bytes.len(), 5);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_is_woken_once_for_a_moment_and_at_the_end_of_the_hub() {
    let mut fixture = busy();
    let [mut subscriber] = current(&fixture, [Scope::Everything]).await;
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(subscriber.poll_next(&mut cx).is_pending());
    fixture.attach("w5", &["pay.shop"]);
    fixture.attach("w6", &["pay.shop"]);
    assert_eq!(count.0.load(Ordering::Relaxed), 1, "it has not asked again");
    assert!(subscriber.poll_next(&mut cx).is_ready());
    assert!(subscriber.poll_next(&mut cx).is_pending());
    drop(fixture);
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert!(subscriber.next().await.is_none());
}
