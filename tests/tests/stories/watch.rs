//! What a subscriber is told: the whole truth once, then what is new; after a break what it has missed; when it is slow,
//! the newest state instead of every step.

use proto::registry::v1::{Held, Update, resource::Kind};
use tests::{PATIENCE, Plan, Watcher, World, names};

fn endpoint_ids(update: &Update) -> Vec<String> {
    let kinds = update.upserts.iter().filter_map(|resource| resource.kind.as_ref());
    kinds
        .filter_map(|kind| match kind {
            Kind::Endpoint(endpoint) => Some(format!("{}.{}", endpoint.service, endpoint.namespace)),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_resumes_by_delta_and_starts_anew_for_a_strange_incarnation() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    let (api, operator) = (region.registry().api, region.operator());
    let mut watcher = Watcher::everything(api, operator.clone(), None).await;
    assert!(watcher.update().await.full, "a new subscriber gets a snapshot");
    let _pay = region.workload(Plan::http("pay-1")).await;
    let update = watcher.until(|update| names(update, "pay.shop")).await;
    assert!(!update.full, "news come as a delta");
    let held = update.held.unwrap();
    drop(watcher);

    let _cart = region.workload(Plan::http("cart-1")).await;
    let mut resumed = Watcher::everything(api, operator.clone(), Some(held)).await;
    let first = resumed.until(|update| names(update, "cart.shop")).await;
    assert!(
        resumed.heard.iter().all(|update| !update.full),
        "a held revision is gone on from"
    );
    assert!(first.held.unwrap().revision > held.revision);
    let repeated = resumed
        .heard
        .iter()
        .flat_map(endpoint_ids)
        .filter(|id| id == "pay.shop")
        .count();
    assert!(
        repeated <= 1,
        "what was held is not sent again, but for a change of its state"
    );

    let strange = Held {
        incarnation: held.incarnation ^ 1,
        revision: held.revision,
    };
    let mut anew = Watcher::everything(api, operator, Some(strange)).await;
    let first = anew.update().await;
    assert!(first.full, "revisions of another incarnation mean nothing");
    assert!(names(&first, "pay.shop") && names(&first, "cart.shop"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_subscriber_gets_merged_updates() {
    const STEPS: usize = 150;
    let world = World::registry("west", 1).await;
    let region = world.west();
    let admin = region.admin().await;
    let _caller = region.caller(Plan::new("web").in_namespace("n-0")).await;
    let mut watcher = Watcher::everything(region.registry().api, region.operator(), None).await;
    watcher.update().await;
    // Each step is a record of some 30 kB: far more than what connections and queues hold between the two ends.
    let namespaces: Vec<_> = (0..500)
        .map(|at| format!("n-{at}{:a<50}", if at == 0 { "" } else { "-" }))
        .collect();
    let mut namespaces: Vec<_> = namespaces;
    namespaces[0] = "n-0".to_owned();
    for step in 1..=STEPS {
        namespaces[1] = format!("step-{step}");
        admin.tenant_of("acme", &namespaces, step as f64).await.unwrap();
    }
    let step = |update: &Update| -> Option<usize> {
        let kinds = update.upserts.iter().filter_map(|resource| resource.kind.as_ref());
        let mut shares = kinds.filter_map(|kind| match kind {
            Kind::TenantShare(share) => share
                .namespaces
                .iter()
                .find_map(|name| name.strip_prefix("step-")?.parse().ok()),
            _ => None,
        });
        shares.next_back()
    };
    let last = watcher.until(|update| step(update) == Some(STEPS));
    tokio::time::timeout(PATIENCE, last)
        .await
        .expect("the newest state arrives");
    let steps: Vec<usize> = watcher.heard.iter().filter_map(step).collect();
    assert!(
        steps.len() < STEPS,
        "{} updates for {STEPS} changes: nothing was merged",
        steps.len()
    );
    assert!(
        steps.windows(2).all(|pair| pair[0] <= pair[1]),
        "never back in time: {steps:?}"
    );
}
