//! Who shows the wrong certificate gets in nowhere: not at the registry, not at the federation, not at a workload.

use tests::{Plan, World, certs};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_expired_and_nameless_certificates_are_refused_everywhere() {
    let world = World::regions(["west", "east"]).await;
    let pay = world.west().workload(Plan::http("pay-1")).await;
    let registry = world.west().registry();
    let real = certs::Ca::of(world.west());
    let id = "spiffe://west/ns/shop/sa/web";
    let pay_name = certs::server_name("pay.shop", 80);
    let doors = [
        ("15012", registry.api, "registry.west", b"h2" as &[u8]),
        ("15013", registry.raft, "registry.west", b"h2"),
        ("15016", registry.federation, "registry.west", b"h2"),
        ("15006", pay.inbound, pay_name.as_str(), b"istio-h2"),
    ];
    let alpn = |token: &'static [u8]| {
        if token == b"h2" {
            vec![token]
        } else {
            vec![token, b"istio", b"h2"]
        }
    };
    for (port, address, name, token) in doors {
        let lets_in =
            async |shown: &certs::Shown| certs::lets_in(address, name, Some(shown), &alpn(token), PREFACE).await;
        assert!(
            lets_in(&real.workload(id)).await,
            "{port}: a good certificate is let in"
        );
        for (what, shown) in [
            (
                "a stranger's certificate that names this domain",
                certs::Ca::stranger("west").workload(id),
            ),
            (
                "one of a domain that nobody knows",
                certs::Ca::stranger("mars").workload("spiffe://mars/ns/shop/sa/web"),
            ),
            (
                "a peer's CA that signs for this domain",
                certs::Ca::of(world.east()).workload(id),
            ),
            (
                "this domain's CA that signs for a peer",
                real.workload("spiffe://east/ns/shop/sa/web"),
            ),
            ("an expired one", real.expired(id)),
            ("a web server's", real.web("web.shop")),
            (
                "one whose ID is no SPIFFE ID",
                real.workload("https://west/ns/shop/sa/web"),
            ),
        ] {
            assert!(!lets_in(&shown).await, "{port}: {what} is let in");
        }
    }
    let anonymous = certs::lets_in(pay.inbound, &pay_name, None, &alpn(b"istio-h2"), PREFACE).await;
    assert!(!anonymous, "a workload lets nobody in who does not say who it is");
    let web = world.west().caller(Plan::new("web")).await;
    web.reaches("pay.shop", "the workload after all that", |name| name == "west-pay-1")
        .await;
}
