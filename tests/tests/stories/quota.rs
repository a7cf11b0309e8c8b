//! A tenant's quota is one for all of its proxies: who is over it is told so, and nobody else notices.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use mesh::runtime::clock;
use tests::{
    Plan, Sidecar, World, eventually,
    http::{self as client, Version},
};

/// So slow that nothing comes back within the story.
const RATE: f64 = 0.02;
/// One that is spent, by callers in two regions.
const SPENT: f64 = 20.0;
const BURST: f64 = 5.0;
const SPENDING: Duration = Duration::from_secs(25);

/// Waits until the proxy knows its share of the quota.
async fn knows_share(web: &Sidecar, proxies: u64) {
    eventually(&format!("{} knows its share", web.id), async || {
        let view = web.view().await.map_err(|error| error.to_string())?;
        let shares = view["shares"].as_array().cloned().unwrap_or_default();
        let known = shares
            .iter()
            .any(|share| share["tenant"] == "acme" && share["proxies"] == proxies);
        if known { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_a_tenant_share_its_quota_and_others_are_untouched() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    let _pay = region.workload(Plan::http("pay-1")).await;
    let acme = [
        region.caller(Plan::new("web-1").in_namespace("acme")).await,
        region.caller(Plan::new("web-2").in_namespace("acme")).await,
    ];
    let globex = region.caller(Plan::new("web-3").in_namespace("globex")).await;
    for web in acme.iter().chain([&globex]) {
        eventually("pay.shop is known", async || {
            // A name that nobody charges for.
            web.view()
                .await
                .is_ok_and(|view| !view["services"].as_array().unwrap().is_empty())
        })
        .await;
    }
    region.admin().await.tenant("acme", RATE, 4.0).await.unwrap();
    for web in &acme {
        knows_share(web, 2).await;
        let refused = web.get("pay.shop").await.unwrap();
        assert_eq!(refused.status, 429, "{}: a new limit comes without a burst", web.id);
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!(wait >= 1, "retry-after {wait}");
    }
    let call = Request::post("http://pay.shop/trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::<Bytes>::default())
        .unwrap();
    let refused = client::exchange(acme[0].outbound, Version::Two, call).await.unwrap();
    assert_eq!(
        (refused.status, refused.header("grpc-status").as_str()),
        (200, "8"),
        "{refused:?}"
    );

    let names = globex.names("pay.shop", 20).await;
    assert_eq!(names.len(), 20);
    let row = region.admin().await.tenants().await.unwrap().remove(0);
    assert_eq!((row.proxies_here, row.proxies_everywhere), (2, 2));
}

/// Calls as fast as it can until the end; gives the requests that were let through.
async fn spend(web: &Sidecar, until: tokio::time::Instant) -> u64 {
    let mut let_through = 0;
    while clock::now() < until {
        match web.get("pay.shop").await.unwrap().status {
            200 => let_through += 1,
            429 => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other}"),
        }
    }
    let_through
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_in_two_regions_together_get_the_quota_and_no_more() {
    let world = World::regions(["west", "east"]).await;
    let (mut callers, mut workloads) = (Vec::new(), Vec::new());
    for region in [world.west(), world.east()] {
        let plan = Plan::new(&format!("pay-{}", region.name)).serves("pay", 80, "http");
        workloads.push(region.workload(plan).await);
        for number in 0..2 {
            let plan = Plan::new(&format!("web-{}-{number}", region.name)).in_namespace("acme");
            callers.push(region.caller(plan).await);
        }
    }
    for web in &callers {
        eventually("pay.shop is known and answers", async || {
            web.get("pay.shop").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
    let tenant = world.west().admin().await.tenant("acme", SPENT, BURST).await;
    tenant.unwrap();
    let begun = clock::now();
    for web in &callers {
        knows_share(web, 2).await;
    }
    // What was sent before the limit was known does not count.
    let until = clock::now() + SPENDING;
    let spent = futures_util::future::join_all(callers.iter().map(|web| spend(web, until))).await;
    let sum: u64 = spent.iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let most = SPENT * seconds + BURST + callers.len() as f64;
    assert!(sum as f64 <= most, "{spent:?} in {seconds} s; at most {most}");
    // The first ten seconds are worth the floor.
    assert!(sum as f64 >= SPENT * 5.0, "{spent:?} in {seconds} s");

    eventually("both regions have leases that they keep to", async || {
        let row = world.west().admin().await.tenants().await.unwrap().remove(0);
        let kept = row.leases.iter().filter(|lease| lease.acknowledged && lease.used > 0.0);
        if kept.count() == 2 && row.exposed <= SPENT * 1.000_001 {
            Ok(())
        } else {
            Err(format!("{row:?}"))
        }
    })
    .await;
}
