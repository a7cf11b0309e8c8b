use mesh::{
    identity::{Fault, SpiffeId},
    model::Timestamp,
    net::grpc::Unreached,
};
use proto::admin::v1::{Certificate, Disk, Dns, Node, NodeFacts, Peer, Position, Reach, Subscriber};

use super::{
    finding::{Finding, Level},
    gather::{Answer, Asked, Evidence, Own},
    judge::judge,
};

const NOW: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;

fn facts(node: u64, nodes: u64) -> NodeFacts {
    let member = |id| Node {
        id,
        api_address: format!("10.0.0.{id}:15012"),
        voter: true,
        leader: id == 1,
        reachable: true,
        ..Node::default()
    };
    let certificate = |used: &str, life: i64| Certificate {
        r#use: used.into(),
        subject: "eu".into(),
        not_before_ms: NOW - life / 2,
        not_after_ms: NOW + life / 2,
    };
    let others = (1..=nodes).filter(|other| *other != node);
    let reach = others.flat_map(|other| {
        ["raft", "api", "federation"].map(|port| Reach {
            kind: "node".into(),
            target: other.to_string(),
            port: port.into(),
            address: format!("10.0.0.{other}:1"),
            ..Reach::default()
        })
    });
    NodeFacts {
        position: Some(Position {
            node,
            ..Position::default()
        }),
        version: env!("CARGO_PKG_VERSION").into(),
        trust_domain: "eu".into(),
        wall_ms: NOW,
        nodes: (1..=nodes).map(member).collect(),
        disk: Some(Disk {
            free_mib: 50_000,
            reserve_mib: 64,
            sync_us: 900,
            error: String::new(),
        }),
        certificates: vec![
            certificate("node", HOUR),
            certificate("authority", 9_000 * HOUR),
            certificate("anchor", 90_000 * HOUR),
        ],
        reach: reach.collect(),
        dns: Some(Dns::default()),
        trusted_domains: vec!["eu".into(), "us".into()],
        ..NodeFacts::default()
    }
}

fn told(facts: NodeFacts, ahead_ms: i64) -> Asked {
    let node = facts.position.as_ref().map_or(0, |position| position.node);
    Asked {
        address: format!("10.0.0.{node}:15012"),
        node: Some(node),
        answer: Answer::Facts {
            facts: Box::new(facts),
            ahead_ms,
        },
    }
}

fn silent(node: u64) -> Asked {
    Asked {
        address: format!("10.0.0.{node}:15012"),
        node: Some(node),
        answer: Answer::Unreached(Unreached::Refused("connection refused".into())),
    }
}

fn evidence(asked: Vec<Asked>) -> Evidence {
    Evidence {
        now: Timestamp(NOW),
        version: env!("CARGO_PKG_VERSION"),
        own: Own::Good {
            id: "spiffe://eu/ns/isthmus-system/sa/operator".into(),
            not_before: Timestamp(NOW - HOUR),
            not_after: Timestamp(NOW + HOUR),
        },
        asked,
    }
}

/// Names of what is wrong.
fn named(findings: &[Finding]) -> Vec<&'static str> {
    let mut names: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level >= Level::Warning)
        .map(|finding| finding.name)
        .collect();
    names.dedup();
    names
}

fn judged(asked: Vec<Asked>) -> Vec<&'static str> {
    let findings = judge(&evidence(asked));
    for finding in findings.iter().filter(|finding| finding.level >= Level::Warning) {
        assert!(
            !finding.name.is_empty() && !finding.seen.is_empty() && !finding.next.is_empty(),
            "{finding:?}"
        );
    }
    named(&findings)
}

/// Three nodes, of which `change` alters the facts of the first.
fn with(change: impl FnOnce(&mut NodeFacts)) -> Vec<&'static str> {
    let mut first = facts(1, 3);
    change(&mut first);
    judged(vec![told(first, 0), told(facts(2, 3), 0), told(facts(3, 3), 0)])
}

fn break_towards(facts: &mut NodeFacts, node: u64) {
    for reach in facts.reach.iter_mut().filter(|reach| reach.target == node.to_string()) {
        reach.fault = "refused".into();
    }
}

fn peer(connected: bool) -> Peer {
    Peer {
        region: "us".into(),
        trust_domain: "us".into(),
        connected,
        last_error: "connection lost".into(),
        age_ms: Some(60_000),
        ..Peer::default()
    }
}

fn towards_peer(fault: &str) -> Reach {
    Reach {
        kind: "peer".into(),
        target: "us".into(),
        port: "federation".into(),
        address: "10.9.0.1:15016".into(),
        fault: fault.into(),
        detail: "why".into(),
        ..Reach::default()
    }
}

#[test]
fn a_healthy_region_has_nothing_wrong_and_every_check_is_told() {
    let findings = judge(&evidence(vec![
        told(facts(1, 3), 20),
        told(facts(2, 3), -40),
        told(facts(3, 3), 0),
    ]));
    assert_eq!(named(&findings), [""; 0], "{findings:#?}");
    for check in [
        "credentials",
        "registry",
        "quorum",
        "clocks",
        "certificates",
        "ports",
        "trust",
        "peers",
        "divergence",
        "dns",
        "disk",
        "versions",
        "catalogue",
    ] {
        assert_eq!(
            findings.iter().filter(|finding| finding.check == check).count(),
            1,
            "{check}"
        );
    }
}

#[test]
fn a_dead_node_is_down_and_its_ports_are_not_blamed() {
    let (mut first, mut second) = (facts(1, 3), facts(2, 3));
    break_towards(&mut first, 3);
    break_towards(&mut second, 3);
    assert_eq!(
        judged(vec![told(first.clone(), 0), told(second, 0), silent(3)]),
        ["node-down"]
    );
    // Others reach it: then only the way from here is closed.
    assert_eq!(
        judged(vec![told(facts(1, 3), 0), told(facts(2, 3), 0), silent(3)]),
        ["port-closed"]
    );
    // It answers here, and another node does not reach it.
    assert_eq!(
        judged(vec![told(first, 0), told(facts(2, 3), 0), told(facts(3, 3), 0)]),
        ["port-closed"]
    );
}

#[test]
fn the_loss_of_a_quorum_is_named_before_its_consequences() {
    let mut only = facts(1, 3);
    only.no_quorum = Some("no leader".into());
    only.peers = vec![peer(false)];
    break_towards(&mut only, 2);
    break_towards(&mut only, 3);
    let names = judged(vec![told(only, 0), silent(2), silent(3)]);
    assert_eq!(names, ["node-down", "no-quorum"]);
    let cut = with(|facts| facts.no_quorum = Some("no leader".into()));
    assert_eq!(cut, ["node-cut-off"], "the others have one");
}

#[test]
fn the_one_clock_that_differs_is_the_wrong_one() {
    let skewed = |ahead: [i64; 3]| {
        let asked = ahead.iter().zip(1..).map(|(ahead, node)| told(facts(node, 3), *ahead));
        let findings = judge(&evidence(asked.collect()));
        let wrong = findings.iter().filter(|finding| finding.level == Level::Fault);
        wrong
            .map(|finding| {
                assert_eq!(finding.name, "clock-skew");
                finding.seen.clone()
            })
            .collect::<Vec<_>>()
    };
    assert!(skewed([29_000, 0, -200])[..].is_empty(), "within the bound");
    let one = skewed([0, 45_000, 100]);
    assert!(one.len() == 1 && one[0].contains("node 2 is 45s ahead"), "{one:?}");
    let own = skewed([-90_000, -90_100, -89_900]);
    assert!(
        own.len() == 1 && own[0].contains("this machine's clock is 90s ahead"),
        "{own:?}"
    );
    let alone = judge(&evidence(vec![told(facts(1, 1), 40_000)]));
    let text = alone.iter().find(|finding| finding.name == "clock-skew").unwrap();
    assert!(text.seen.contains("one of them is wrong"), "{text:?}");
}

#[test]
fn a_region_whose_clock_differs_is_named_and_its_neighbour_is_not() {
    let far = |ahead: i64, own: [i64; 3]| {
        let mut first = facts(1, 3);
        first.peers = vec![Peer {
            clock_ahead_ms: Some(ahead),
            ..peer(true)
        }];
        first.reach.push(towards_peer(""));
        let findings = judge(&evidence(vec![
            told(first, own[0]),
            told(facts(2, 3), own[1]),
            told(facts(3, 3), own[2]),
        ]));
        let wrong = findings.iter().filter(|finding| finding.level == Level::Fault);
        wrong.map(|finding| finding.seen.clone()).collect::<Vec<_>>()
    };
    let us = far(50_000, [0, 0, 0]);
    assert!(us.len() == 1 && us[0].contains("region us"), "{us:?}");
    let own = far(-50_000, [50_000, 0, 0]);
    assert!(own.len() == 1 && own[0].contains("node 1"), "{own:?}");
}

#[test]
fn each_fact_has_its_name() {
    type Change = fn(&mut NodeFacts);
    let cases: [(&str, Change); 19] = [
        ("certificate-expired", |facts| {
            facts.certificates[0].not_after_ms = NOW - 1
        }),
        ("certificate-near-expiry", |facts| {
            facts.certificates[0].not_after_ms = NOW + HOUR / 20;
        }),
        ("authority-expired", |facts| {
            facts.certificates[1].not_after_ms = NOW - 1
        }),
        ("authority-near-expiry", |facts| {
            facts.certificates[1].not_after_ms = NOW + 20 * 24 * HOUR;
        }),
        ("certificate-wrong-ca", |facts| facts.reach[0].fault = "wrong-ca".into()),
        ("certificate-expired", |facts| facts.reach[0].fault = "expired".into()),
        ("port-closed", |facts| facts.reach.push(towards_peer("refused"))),
        ("name-unresolved", |facts| facts.reach.push(towards_peer("name"))),
        ("trust-bundle-unknown", |facts| {
            facts.reach.push(towards_peer("rejected"))
        }),
        ("dns-not-answering", |facts| {
            facts.dns.as_mut().unwrap().udp_error = "refused".into();
        }),
        ("dns-upstream-unreachable", |facts| {
            facts.dns.as_mut().unwrap().upstream_error = "SERVFAIL".into();
        }),
        ("divergence", |facts| facts.nodes[1].diverged = true),
        ("divergence", |facts| {
            facts.reach.push(towards_peer(""));
            facts.peers = vec![Peer {
                divergence: "endpoints since r41".into(),
                ..peer(true)
            }];
        }),
        ("disk-full", |facts| facts.disk.as_mut().unwrap().free_mib = 63),
        ("disk-nearly-full", |facts| facts.disk.as_mut().unwrap().free_mib = 100),
        ("disk-slow", |facts| facts.disk.as_mut().unwrap().sync_us = 700_000),
        ("version-skew", |facts| facts.version = "0.0.9".into()),
        ("mass-loss-held", |facts| facts.unverified_endpoints = 4),
        ("peer-link-down", |facts| facts.peers = vec![peer(false)]),
    ];
    for (name, change) in cases {
        assert_eq!(with(change), [name]);
    }
}

#[test]
fn a_link_that_is_down_is_explained_by_its_cause() {
    for (fault, name) in [
        ("rejected", "trust-bundle-unknown"),
        ("wrong-ca", "trust-bundle-unknown"),
        ("silent", "port-closed"),
        ("expired", "certificate-expired"),
    ] {
        let names = with(|facts| {
            facts.peers = vec![peer(false)];
            facts.reach.push(towards_peer(fault));
        });
        assert_eq!(names, [name], "{fault}");
    }
}

#[test]
fn a_proxy_of_another_version_is_told_by_name() {
    let mut first = facts(1, 1);
    first.subscribers = vec![Subscriber {
        name: "proxy/pay-1".into(),
        version: "0.0.9".into(),
        ..Subscriber::default()
    }];
    let findings = judge(&evidence(vec![told(first, 0)]));
    let skew = findings.iter().find(|finding| finding.name == "version-skew").unwrap();
    assert!(skew.seen.contains("0.0.9: proxy/pay-1"), "{skew:?}");
}

#[test]
fn a_registry_that_nobody_reaches_says_why() {
    let id = || SpiffeId::parse("spiffe://eu/ns/isthmus-system/sa/registry").unwrap();
    let cases = [
        (Unreached::Name("no such name".into()), "name-unresolved"),
        (Unreached::Refused("refused".into()), "port-closed"),
        (Unreached::Silent(std::time::Duration::from_secs(3)), "port-closed"),
        (Unreached::NotTls("eof".into()), "not-tls"),
        (Unreached::Certificate(Fault::WrongCa(id())), "certificate-wrong-ca"),
        (Unreached::Certificate(Fault::Expired(id())), "certificate-expired"),
        (Unreached::Certificate(Fault::NotYetValid(id())), "clock-skew"),
        (Unreached::Rejected("CertificateUnknown".into()), "certificate-rejected"),
    ];
    for (unreached, name) in cases {
        let asked = Asked {
            address: "registry.eu:15012".into(),
            node: None,
            answer: Answer::Unreached(unreached),
        };
        assert_eq!(judged(vec![asked]), [name]);
    }
}
