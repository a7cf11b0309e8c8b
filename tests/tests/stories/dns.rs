//! Names as `dig` sees them, at the registry and at a workload's own proxy, over UDP and TCP.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use tests::{Plan, Transport, World, dig, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_resolve_alike_at_registry_and_proxy_over_udp_and_tcp() {
    let world = World::regions(["west", "east"]).await;
    let _pay = world.west().workload(Plan::http("pay-1")).await;
    let _db = world
        .west()
        .workload(Plan::new("db-1").serves_headless("db", 5432))
        .await;
    let _far = world.east().workload(Plan::http("far-1")).await;
    world.east().admin().await.export("far.shop", &[]).await;
    let web = world.west().caller(Plan::new("web")).await;
    let servers = [world.west().registry().dns, web.dns];
    for server in servers {
        eventually("the import is there", async || {
            let answer = dig(server, Transport::Udp, "far.shop.svc.clusterset.local.", RecordType::A).await;
            !answer.records.is_empty()
        })
        .await;
        for via in [Transport::Udp, Transport::Tcp] {
            let ask = async |name: &str, kind| dig(server, via, name, kind).await;
            let v4 = ask("pay.shop.svc.clusterset.local.", RecordType::A).await;
            assert!(v4.authoritative && v4.records.len() == 1, "{v4:?}");
            assert!(v4.records[0].starts_with("24"), "a virtual address: {v4:?}");
            assert_eq!(
                ask("pay.shop.svc.clusterset.local.", RecordType::AAAA)
                    .await
                    .records
                    .len(),
                1
            );
            let srv = ask("_http-80._tcp.pay.shop.svc.clusterset.local.", RecordType::SRV).await;
            assert!(
                srv.records.len() == 1 && srv.records[0].contains(" 80 pay.shop.svc.clusterset.local."),
                "{srv:?}"
            );
            let version = ask("dns-version.clusterset.local.", RecordType::TXT).await;
            assert_eq!(version.records, ["1.0.0"]);
            let headless = ask("db.shop.svc.clusterset.local.", RecordType::A).await;
            assert_eq!(
                headless.records,
                ["127.0.0.1"],
                "a headless service gives its endpoints"
            );

            let nodata = ask("pay.shop.svc.clusterset.local.", RecordType::MX).await;
            assert!(nodata.is_nodata(), "{nodata:?}");
            let missing = ask("absent.shop.svc.clusterset.local.", RecordType::A).await;
            assert!(missing.is_nxdomain(), "{missing:?}");

            assert_eq!(
                ask("pay.shop.svc.west.region.isthmus.", RecordType::A)
                    .await
                    .records
                    .len(),
                1
            );
            assert_eq!(
                ask("far.shop.svc.east.region.isthmus.", RecordType::A)
                    .await
                    .records
                    .len(),
                1
            );
            let elsewhere = ask("pay.shop.svc.east.region.isthmus.", RecordType::A).await;
            assert!(elsewhere.records.is_empty() && elsewhere.has_soa, "{elsewhere:?}");
            let strange = ask("www.example.org.", RecordType::A).await;
            assert_eq!(
                strange.code,
                ResponseCode::Refused,
                "no upstream is configured: {strange:?}"
            );
        }
    }
    let [registry, proxy] = servers;
    let name = "far.shop.svc.clusterset.local.";
    let (here, there) = (
        dig(registry, Transport::Udp, name, RecordType::A).await,
        dig(proxy, Transport::Udp, name, RecordType::A).await,
    );
    assert_eq!(here.records, there.records, "both answer from the same truth");
}
