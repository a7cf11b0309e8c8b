use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::dns::{
    Asker, resolve_text,
    zone::{self, Found},
};

fn asker(from: &Locality) -> Asker<'_> {
    Asker {
        from,
        now: Timestamp(0),
        shuffle: 0,
        ttl: 5,
    }
}

/// `NXDOMAIN`, `outside`, or the data of the records.
fn ask(view: &View, asker: Asker<'_>, name: &str, kind: RecordType) -> Vec<String> {
    match zone::find(view, asker, &Name::from_ascii(name).unwrap(), kind) {
        Found::Outside => vec!["outside".to_owned()],
        Found::Nowhere(_) => vec!["NXDOMAIN".to_owned()],
        Found::Unheld(service) => vec![format!("unheld {service}")],
        Found::Records { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
    }
}

fn ask_eu(name: &str, kind: RecordType) -> Vec<String> {
    ask(&sample(), asker(&locality("eu", "eu-a")), name, kind)
}

const NOTHING: [&str; 0] = [];
const NXDOMAIN: [&str; 1] = ["NXDOMAIN"];
use RecordType::{A, AAAA, ANY, CNAME, MX, NS, SOA, SRV, TXT};

#[test]
fn a_service_with_an_address_answers_with_it_also_without_endpoints() {
    for (service, name) in [
        ("pay.shop", "pay.shop.svc.clusterset.local."),
        ("pay.shop", "PAY.Shop.SVC.ClusterSet.LOCAL."),
        ("idle.shop", "idle.shop.svc.clusterset.local."),
    ] {
        let [v4, v6] = vip(service);
        assert_eq!(ask_eu(name, A), [v4.to_string()], "{name}");
        assert_eq!(ask_eu(name, AAAA), [v6.to_string()], "{name}");
    }
}

#[test]
fn other_types_of_a_name_that_exists_are_no_data() {
    for kind in [TXT, CNAME, MX, NS, SOA, ANY] {
        assert_eq!(ask_eu("pay.shop.svc.clusterset.local.", kind), NOTHING, "{kind}");
    }
}

#[test]
fn the_version_of_the_specification_is_told() {
    assert_eq!(ask_eu("dns-version.clusterset.local.", TXT), ["1.0.0"]);
    assert_eq!(ask_eu("dns-version.clusterset.local.", A), NOTHING);
    let found = zone::find(
        &sample(),
        asker(&locality("eu", "a")),
        &Name::from_ascii("dns-version.clusterset.local.").unwrap(),
        TXT,
    );
    let Found::Records { answers, .. } = found else {
        panic!("{found:?}")
    };
    assert_eq!(answers[0].ttl, 28_800);
}

#[test]
fn a_headless_service_answers_with_its_ready_endpoints_nearest_first() {
    assert_eq!(
        ask_eu("db.shop.svc.clusterset.local.", A),
        ["10.0.0.1", "10.0.0.2", "10.1.0.3"]
    );
    assert_eq!(ask_eu("db.shop.svc.clusterset.local.", AAAA), ["fd00::1"]);
    let from_us = locality("us", "us-a");
    let answers = ask(&sample(), asker(&from_us), "db.shop.svc.clusterset.local.", A);
    assert_eq!(answers[0], "10.1.0.3");
}

#[test]
fn equally_near_endpoints_take_turns() {
    let endpoints = (1..=4).map(|n| {
        Resource::from(endpoint(
            "db.shop",
            &format!("db-{n}"),
            "eu",
            &format!("10.0.0.{n}"),
            EndpointState::Ready,
        ))
    });
    let services = [Resource::Service(service("db.shop", true, &[]))];
    let view = view(services.into_iter().chain(endpoints).collect());
    let from = locality("eu", "eu-a");
    let first = |shuffle| {
        let asker = Asker {
            shuffle,
            ..asker(&from)
        };
        ask(&view, asker, "db.shop.svc.clusterset.local.", A).remove(0)
    };
    let mut firsts: Vec<_> = (0..4).map(first).collect();
    firsts.sort();
    assert_eq!(firsts, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn a_large_headless_service_answers_with_the_same_bounded_subset_in_both_families() {
    let pair = |n: u32| {
        let (v4, v6) = (format!("10.0.0.{n}"), format!("fd00::{n:x}"));
        [
            endpoint("db.shop", &format!("v4-{n}"), "eu", &v4, EndpointState::Ready),
            endpoint("db.shop", &format!("v6-{n}"), "eu", &v6, EndpointState::Ready),
        ]
    };
    let endpoints = (1..=40).flat_map(pair).map(Resource::from);
    let services = [Resource::Service(service("db.shop", true, &[]))];
    let view = view(services.into_iter().chain(endpoints).collect());
    let from = locality("eu", "eu-a");
    let name = "db.shop.svc.clusterset.local.";
    let (v4, v6) = (ask(&view, asker(&from), name, A), ask(&view, asker(&from), name, AAAA));
    assert_eq!(v4.len() + v6.len(), 16);
}

#[test]
fn a_headless_service_without_ready_endpoints_does_not_exist() {
    for kind in [A, AAAA, SRV, TXT] {
        assert_eq!(ask_eu("down.shop.svc.clusterset.local.", kind), NXDOMAIN, "{kind}");
    }
    assert_eq!(ask_eu("_http._tcp.down.shop.svc.clusterset.local.", SRV), NXDOMAIN);
}

#[test]
fn where_the_other_family_exists_there_is_no_data_instead_of_no_name() {
    let only_v4 = view(vec![
        Resource::Service(service("db.shop", true, &[])),
        Resource::from(endpoint("db.shop", "db-1", "eu", "10.0.0.1", EndpointState::Ready)),
    ]);
    let from = locality("eu", "eu-a");
    let name = "db.shop.svc.clusterset.local.";
    assert_eq!(ask(&only_v4, asker(&from), name, AAAA), NOTHING);
    assert_eq!(ask(&only_v4, asker(&from), name, A), ["10.0.0.1"]);
}

#[test]
fn single_endpoints_of_headless_services_have_names() {
    for (name, kind, expected) in [
        ("web-0.eu-1.db.shop.svc.clusterset.local.", A, &["10.0.0.1"][..]),
        ("WEB-0.EU-1.db.shop.svc.clusterset.local.", AAAA, &["fd00::1"]),
        ("10-0-0-2.eu-1.db.shop.svc.clusterset.local.", A, &["10.0.0.2"]),
        ("10-1-0-3.us-1.db.shop.svc.clusterset.local.", A, &["10.1.0.3"]),
        ("10-1-0-3.us-1.db.shop.svc.clusterset.local.", AAAA, &[]),
        // In another cluster, not ready, of a service with an address, below an endpoint.
        ("10-1-0-3.eu-1.db.shop.svc.clusterset.local.", A, &NXDOMAIN),
        ("10-1-0-4.us-1.db.shop.svc.clusterset.local.", A, &NXDOMAIN),
        ("10-0-0-6.eu-1.pay.shop.svc.clusterset.local.", A, &NXDOMAIN),
        ("x.web-0.eu-1.db.shop.svc.clusterset.local.", A, &NXDOMAIN),
        // A cluster id of two labels parses, and no cluster here has one.
        ("web-0.eu-1.registry.db.shop.svc.clusterset.local.", A, &NXDOMAIN),
    ] {
        assert_eq!(ask_eu(name, kind), expected, "{name}");
    }
}

#[test]
fn the_reserved_cluster_name_never_has_records() {
    for kind in [A, AAAA, SRV, TXT] {
        assert_eq!(ask_eu("eu-1.pay.shop.svc.clusterset.local.", kind), NXDOMAIN);
        assert_eq!(ask_eu("mars-1.db.shop.svc.clusterset.local.", kind), NXDOMAIN);
        // Endpoints are below this one, which "does not exist" would deny, too.
        assert_eq!(ask_eu("eu-1.db.shop.svc.clusterset.local.", kind), NOTHING);
    }
}

#[test]
fn ports_have_srv_records_in_the_order_of_rfc_2782() {
    let pay = "pay.shop.svc.clusterset.local.";
    for (name, expected) in [
        (format!("_http._tcp.{pay}"), vec![format!("0 100 80 {pay}")]),
        (format!("_HTTP._TCP.{pay}"), vec![format!("0 100 80 {pay}")]),
        (format!("_admin._tcp.{pay}"), vec![format!("0 100 9000 {pay}")]),
        (format!("_http._udp.{pay}"), vec!["NXDOMAIN".to_owned()]),
        (format!("_none._tcp.{pay}"), vec!["NXDOMAIN".to_owned()]),
        // The port without a name has no record, here too.
        (
            pay.to_owned(),
            vec![format!("0 100 80 {pay}"), format!("0 100 9000 {pay}")],
        ),
        (
            "both.shop.svc.clusterset.local.".to_owned(),
            vec!["0 100 42 both.shop.svc.clusterset.local.".to_owned()],
        ),
        ("_tcp.pay.shop.svc.clusterset.local.".to_owned(), Vec::new()),
        (
            "_udp.pay.shop.svc.clusterset.local.".to_owned(),
            vec!["NXDOMAIN".to_owned()],
        ),
    ] {
        assert_eq!(ask_eu(&name, SRV), expected, "{name}");
    }
    assert_eq!(ask_eu(&format!("_http._tcp.{pay}"), A), NOTHING, "the name exists");
}

#[test]
fn headless_srv_records_name_endpoints_and_tell_their_tier() {
    let at = "db.shop.svc.clusterset.local.";
    let expected = [
        // One target, two addresses: one record.
        format!("0 100 5432 web-0.eu-1.{at}"),
        format!("1 100 5432 10-0-0-2.eu-1.{at}"),
        format!("2 100 5432 10-1-0-3.us-1.{at}"),
    ];
    assert_eq!(ask_eu(&format!("_pg._tcp.{at}"), SRV), expected);
    assert_eq!(ask_eu(at, SRV).len(), 6, "three endpoints, two ports");
}

#[test]
fn srv_records_carry_the_addresses_of_their_targets() {
    let from = locality("eu", "eu-a");
    let name = Name::from_ascii("_pg._tcp.db.shop.svc.clusterset.local.").unwrap();
    let Found::Records { additionals, .. } = zone::find(&sample(), asker(&from), &name, SRV) else {
        panic!("exists")
    };
    let told: Vec<_> = additionals.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for address in ["10.0.0.1", "fd00::1", "10.0.0.2", "10.1.0.3"] {
        assert!(told.contains(&address.to_owned()), "{address}");
    }
}

#[test]
fn names_between_exist_without_records_and_others_do_not_exist() {
    for (name, expected) in [
        ("clusterset.local.", &NOTHING[..]),
        ("svc.clusterset.local.", &NOTHING),
        ("shop.svc.clusterset.local.", &NOTHING),
        ("bank.svc.clusterset.local.", &NXDOMAIN),
        ("none.shop.svc.clusterset.local.", &NXDOMAIN),
        ("pod.clusterset.local.", &NXDOMAIN),
        ("a_b.shop.svc.clusterset.local.", &NXDOMAIN),
        ("region.isthmus.", &NOTHING),
        ("eu.region.isthmus.", &NOTHING),
        ("svc.eu.region.isthmus.", &NOTHING),
        ("mars.region.isthmus.", &NXDOMAIN),
        ("pod.eu.region.isthmus.", &NXDOMAIN),
        ("cluster.local.", &["outside"]),
        ("pay.shop.svc.cluster.local.", &["outside"]),
        ("local.", &["outside"]),
        ("notclusterset.local.", &["outside"]),
        (".", &["outside"]),
        ("example.com.", &["outside"]),
    ] {
        assert_eq!(ask_eu(name, A), expected, "{name}");
    }
    assert_eq!(ask_eu("clusterset.local.", NS), ["ns.dns.clusterset.local."]);
    assert!(
        ask_eu("clusterset.local.", SOA)[0].contains(" 42 "),
        "the serial is the revision"
    );
}

#[test]
fn the_region_zone_names_the_endpoints_of_one_region_healthy_first() {
    for (name, kind, expected) in [
        ("pay.shop.svc.eu.region.isthmus.", A, &["10.0.0.6", "10.0.0.5"][..]),
        ("pay.shop.svc.us.region.isthmus.", A, &["10.1.0.7"]),
        ("PAY.shop.svc.US.region.isthmus.", A, &["10.1.0.7"]),
        ("pay.shop.svc.us.region.isthmus.", AAAA, &[]),
        ("db.shop.svc.eu.region.isthmus.", A, &["10.0.0.1", "10.0.0.2"]),
        ("idle.shop.svc.eu.region.isthmus.", A, &NXDOMAIN),
        ("down.shop.svc.eu.region.isthmus.", A, &NXDOMAIN),
        ("pay.shop.svc.mars.region.isthmus.", A, &NXDOMAIN),
        ("shop.svc.eu.region.isthmus.", A, &[]),
        ("bank.svc.eu.region.isthmus.", A, &NXDOMAIN),
        ("x.pay.shop.svc.eu.region.isthmus.", A, &NXDOMAIN),
    ] {
        assert_eq!(ask_eu(name, kind), expected, "{name}");
    }
}

#[test]
fn an_evacuated_region_is_named_last_while_the_drill_holds() {
    let with = |percent| {
        let order = Update {
            region: RegionId::parse("eu").unwrap(),
            held: sample().held(),
            full: false,
            upserts: vec![evacuated("eu", percent)],
            removed: Vec::new(),
            committed_at: None,
        };
        sample().updated(order)
    };
    let from = locality("eu", "eu-a");
    let first = |view: &View, now| {
        let asker = Asker {
            now: Timestamp(now),
            ..asker(&from)
        };
        ask(view, asker, "db.shop.svc.clusterset.local.", A).remove(0)
    };
    assert_eq!(first(&with(100), 999), "10.1.0.3");
    assert_eq!(first(&with(100), 1_000), "10.0.0.1", "the order ended");
    assert_eq!(
        first(&with(50), 999),
        "10.0.0.1",
        "half of the traffic still goes there"
    );
}

#[test]
fn text_answers_are_those_of_the_servers() {
    let from = locality("eu", "eu-a");
    let resolve = |name| resolve_text(&sample(), name, asker(&from));
    let [v4, v6] = vip("pay.shop");
    for name in [
        "pay.shop",
        "Pay.Shop",
        "pay.shop.svc.clusterset.local",
        "pay.shop.svc.clusterset.local.",
    ] {
        let resolved = resolve(name);
        assert_eq!(
            (resolved.code, resolved.records.len()),
            ("NOERROR", 4),
            "{name}: {resolved:?}"
        );
        assert_eq!(
            resolved.records[0],
            format!("pay.shop.svc.clusterset.local. 5 IN A {v4}")
        );
        assert_eq!(
            resolved.records[1],
            format!("pay.shop.svc.clusterset.local. 5 IN AAAA {v6}")
        );
    }
    for (name, code) in [
        ("none.shop", "NXDOMAIN"),
        ("shop.svc.clusterset.local", "NODATA"),
        ("clusterset.local", "NODATA"),
        ("region.isthmus", "NODATA"),
        ("example.com", "NXDOMAIN"),
        ("www.example.com", "REFUSED"),
        ("bad..name", "REFUSED"),
    ] {
        assert_eq!(resolve(name).code, code, "{name}");
    }
}

#[test]
fn names_are_answered_without_endpoints_and_what_lies_in_endpoints_is_not_denied() {
    use crate::model::Coverage;
    let view = sample().covering(Coverage::Of(std::sync::Arc::default()));
    let from = locality("eu", "eu-a");
    let told = |name: &str, kind| ask(&view, asker(&from), name, kind);
    let [v4, _] = vip("pay.shop");
    assert_eq!(told("pay.shop.svc.clusterset.local.", A), [v4.to_string()]);
    assert_eq!(told("nobody.shop.svc.clusterset.local.", A), NXDOMAIN);
    assert_eq!(told("shop.svc.clusterset.local.", A), NOTHING);
    assert_eq!(told("pay.shop.svc.eu.region.isthmus.", A), ["unheld pay.shop"]);
    assert_eq!(told("pay.shop.svc.mars.region.isthmus.", A), NXDOMAIN);
    let headless = sample()
        .services()
        .filter_map(|(name, entry)| {
            entry
                .service
                .as_ref()
                .filter(|it| it.headless)
                .map(|_| name.to_string())
        })
        .collect::<Vec<_>>();
    for name in headless {
        let unheld = [format!("unheld {name}")];
        for below in ["", "eu-1.", "host.eu-1.", "_tcp."] {
            assert_eq!(
                told(&format!("{below}{name}.svc.clusterset.local."), A),
                unheld,
                "{below}{name}"
            );
        }
        let resolved = resolve_text(&view, &format!("{name}.svc.clusterset.local"), asker(&from));
        assert_eq!(resolved.code, "SERVFAIL");
    }
}
