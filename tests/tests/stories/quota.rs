//! A tenant's quota is one for all of its proxies: who is over it is told so, and nobody else notices.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use tests::{
    Plan, Sidecar, World, eventually,
    http::{self as client, Version},
};

/// So slow that nothing comes back within the story.
const RATE: f64 = 0.02;

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
    // A burst of four: two for each of the two proxies.
    region.admin().await.tenant("acme", RATE, 4.0).await.unwrap();
    for web in &acme {
        knows_share(web, 2).await;
        for _ in 0..2 {
            assert_eq!(
                web.get("pay.shop").await.unwrap().status,
                200,
                "{} is within its share",
                web.id
            );
        }
        let refused = web.get("pay.shop").await.unwrap();
        assert_eq!(refused.status, 429, "{}: the third is over it", web.id);
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=200).contains(&wait), "retry-after {wait}");
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
