//! Who may call what: every method of every service, with each kind of certificate, over real TLS. The table is the one that
//! the registry decides by, and the one that SECURITY.md shows.

use std::{fs, path::Path};

use registry::api::rules::{self, PAGES, RULES, Who};
use tests::{World, certs, http, line::Line};

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn the_table_stands_in_security_md() {
    let table = rules::table();
    assert!(
        file("SECURITY.md").contains(&table),
        "put this into SECURITY.md, under \"Who may call what\":\n\n{table}"
    );
}

#[test]
fn every_page_is_in_the_table() {
    let mut routes = 0;
    for source in ["registry/src/api/http.rs", "mesh/src/ops/admin.rs"] {
        for rest in file(source).split(".route(\"").skip(1) {
            let path = rest.split('"').next().unwrap();
            routes += 1;
            // The settings page is the gateways' and proxies'.
            let listed = path == "/config" || PAGES.iter().any(|(page, _)| *page == path);
            assert!(listed, "{path} needs a line in PAGES, registry/src/api/rules.rs");
        }
    }
    assert!(routes > 15, "only {routes} routes were found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_caller_gets_what_the_table_says_and_nothing_else() {
    let world = World::regions(["west", "east"]).await;
    let (west, east) = (certs::Ca::of(world.west()), certs::Ca::of(world.east()));
    let callers = [
        (Who::Newcomer, None),
        (Who::Workload, Some(west.workload("spiffe://west/ns/shop/sa/pay"))),
        (
            Who::Gateway,
            Some(west.workload("spiffe://west/ns/isthmus-system/sa/gateway")),
        ),
        (
            Who::Operator,
            Some(west.workload("spiffe://west/ns/isthmus-system/sa/operator")),
        ),
        (
            Who::Registry,
            Some(west.workload("spiffe://west/ns/isthmus-system/sa/registry")),
        ),
        (
            Who::Peer,
            Some(east.workload("spiffe://east/ns/isthmus-system/sa/registry")),
        ),
        (
            Who::Foreigner,
            Some(east.workload("spiffe://east/ns/isthmus-system/sa/operator")),
        ),
        (Who::Foreigner, Some(east.workload("spiffe://east/ns/shop/sa/pay"))),
        (
            Who::Foreigner,
            Some(west.workload("spiffe://west/ns/isthmus-system/sa/other")),
        ),
    ];
    let node = world.west().registry();
    let mut calls = 0;
    for (who, shown) in &callers {
        for (prefix, address) in [
            ("/isthmus.registry.", node.api),
            ("/isthmus.admin.", node.api),
            ("/isthmus.raft.", node.raft),
            ("/isthmus.federation.", node.federation),
        ] {
            let mut line = Line::open(address, shown.as_ref()).await.unwrap();
            for rule in RULES.iter().filter(|rule| rule.method.starts_with(prefix)) {
                let told = line.call(rule.method, &[]).await.unwrap();
                let denied = told.message.contains("may%20not%20call") || told.message.contains("may not call");
                let should = !rule.who.contains(who);
                assert_eq!(denied, should, "{who} calls {}: {told:?}", rule.method);
                if denied {
                    let code = if *who == Who::Newcomer { 16 } else { 7 };
                    assert_eq!(told.code, Some(code), "{who} calls {}: {told:?}", rule.method);
                }
                calls += 1;
            }
            let told = line.call(&format!("{prefix}v1.Nothing/Nothing"), &[]).await.unwrap();
            assert_eq!(told.code, Some(12), "{who} calls what is not there: {told:?}");
        }
    }
    assert_eq!(calls, callers.len() * proto::METHODS.len());

    for (path, _) in PAGES {
        let path = path.replace("{service}", "pay.shop");
        let (status, text) = http::page(node.http, &path).await.unwrap();
        let known = status != 404 || text.contains("is not known here");
        assert!(known && status != 405, "{path}: {status} {text}");
        let request = ::http::Request::post(path.as_str())
            .header("host", "x")
            .body(http_body_util::Full::<bytes::Bytes>::default())
            .unwrap();
        let reply = http::exchange(node.http, http::Version::One, request).await.unwrap();
        assert_eq!(reply.status, 405, "nothing is changed over plain HTTP: {path}");
    }
    world.west().registry_answers().await.unwrap();
}
