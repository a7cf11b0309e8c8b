//! The way between two gateways is cut while the registries go on hearing each other: whichever way it is cut, nothing is
//! withdrawn, callers go elsewhere where there is an elsewhere, and hear soon where there is none.

use std::{collections::BTreeMap, time::Duration};

use mesh::runtime::clock;
use tests::{Admin, Path, Plan, Relay, Sidecar, World, eventually};

/// How long each way of cutting lasts.
const CUT: Duration = Duration::from_secs(6);
/// From the cut to the first call after which none fails.
const SHIFT_MAX: Duration = Duration::from_secs(3);
/// What a call may take that finds no way.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_data_path_withdraws_nothing_and_callers_go_elsewhere() {
    let world = World::registries([("west", 1), ("east", 1), ("south", 1)]).await;
    world.west().start_gateway().await;
    let (mut relays, mut sidecars) = (BTreeMap::new(), Vec::new());
    for name in ["east", "south"] {
        let (region, relay) = (world.region(name), Relay::open());
        region.start_gateway_behind(&relay).await;
        relays.insert(name, relay);
        sidecars.push(region.workload(Plan::http("far-1")).await);
        region.admin().await.export("far.shop", &[]).await;
    }
    let web = world.west().caller(Plan::new("web")).await;
    let admin = world.west().admin().await;
    for path in [Path::Refused, Path::Swallowed, Path::LostThere, Path::LostBack] {
        for name in relays.keys() {
            web.reaches(&format!("far.shop.svc.{name}.region.isthmus"), name, |_| true)
                .await;
        }
        // The nearer one, as it was measured last.
        let answered = web.call("far.shop").await.unwrap();
        let (name, relay) = relays.iter().find(|(name, _)| answered.starts_with(**name)).unwrap();
        relay.set(path);
        cut(&web, &admin, name, path).await;
        relay.set(Path::Open);
    }
}

/// While the way to one region is cut.
async fn cut(web: &Sidecar, admin: &Admin, region: &str, path: Path) {
    let began = clock::now();
    let (mut failed, mut calls) = (Vec::new(), 0);
    let lonely = async {
        let begun = clock::now();
        let only = format!("far.shop.svc.{region}.region.isthmus");
        let error = web.call(&only).await.expect_err("there is no way");
        (error, begun.elapsed())
    };
    let calling = async {
        while began.elapsed() < CUT {
            calls += 1;
            match web.call("far.shop").await {
                Ok(name) => assert!(
                    !name.starts_with(region) || began.elapsed() < SHIFT_MAX,
                    "{path:?}: {name} answers through a cut path"
                ),
                Err(error) => failed.push((began.elapsed(), error)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ((error, took), ()) = futures_util::future::join(lonely, calling).await;
    assert!(
        took < ANSWER_MAX,
        "{path:?}: a call without a way was answered after {took:?}"
    );
    assert!(
        error.contains("far.shop"),
        "{path:?}: the answer names the service: {error}"
    );
    assert!(
        failed.iter().all(|(at, _)| *at < SHIFT_MAX),
        "{path:?}: after {SHIFT_MAX:?} all calls go elsewhere: {failed:?}"
    );
    assert!(calls > 20, "{path:?}: only {calls} calls were possible");
    // The registries hear each other all the time, and what they know stays.
    eventually("the peer is heard", async || {
        let peer = admin.peer(region).await?;
        if peer.connected { Ok(()) } else { Err(peer.last_error) }
    })
    .await;
    assert_eq!(admin.endpoints("far.shop").await.len(), 2, "{path:?} withdraws nothing");
}
