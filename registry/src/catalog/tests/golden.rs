//! Samples of everything that the catalogue keeps, for golden bytes.

use std::{sync::Arc, time::Duration};

use mesh::model::{
    Audience, EndpointState, Held, ImportPolicy, Incarnation, LeaseReport, NodeId, Port, Protocol, QuotaLease,
    Revision, Timestamp, Usage,
};

use crate::{
    catalog::{
        AuthorityRecord, Checkpoint, Command, Drill, Finding, Grant, ImportSet, LEVEL, LeaseSet, Lessee, NextRoot,
        Refusal, Reply, RotateStep, State, Subject, TokenRecord, digest::Part, record::RecordKey, testing::*,
    },
    golden::{Book, samples},
    quota::terms::Terms,
};

fn authority() -> AuthorityRecord {
    AuthorityRecord {
        chain: vec![vec![1, 2], vec![3]],
        key: vec![4, 5, 6],
        not_after: Timestamp(1_700_000_000_000),
    }
}

fn token(digest: u8, grant: Grant) -> TokenRecord {
    TokenRecord {
        digest: [digest; 32],
        grant,
        expires_at: Timestamp(1_700_000_000_001),
        uses: 3,
    }
}

fn full_import() -> ImportSet {
    ImportSet {
        services: vec![service("pay.shop", "us")],
        endpoints: vec![endpoint("ep-us-1", "pay.shop", "us")],
        gateways: vec![gateway("us-gateway", "us")],
        bundles: vec![bundle("us", 2)],
        tenants: vec![tenant("globex", &["globex"], "us", 5.0)],
        overrides: vec![drill("d-us", "us", "us").order],
        tenant_proxies: Some([(id("globex"), 2)].into()),
        removed: vec!["endpoint/pay.shop/ep-us-0".into()],
        base: Some(Held {
            incarnation: Incarnation(1),
            revision: Revision(3),
        }),
        ..import_set(4, true)
    }
}

fn loaded_workload() -> crate::catalog::WorkloadLease {
    let mut lease = workload("pay-1", &["pay.shop"]);
    lease.labels = [("app", "pay")].into_iter().collect();
    lease.services[0].ports = [Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tcp]
        .into_iter()
        .zip(80..)
        .map(|(protocol, number)| Port {
            name: protocol.to_string(),
            number,
            protocol,
        })
        .collect();
    lease.capacity_rps = 50;
    lease.hostname = "pay-1".into();
    lease
}

pub(crate) fn grants() -> Vec<(&'static str, Grant)> {
    samples!(crate::catalog::Grant, {
        Workload => Grant::Workload { namespace: id("shop"), service_account: id("pay") },
        Peer => Grant::Peer { for_region: Some(id("us")) },
        Node => Grant::Node,
    })
}

pub(crate) fn commands() -> Vec<(&'static str, Command)> {
    let (pay, epoch) = (Lessee::Workload(id("pay-1")), 7);
    samples!(crate::catalog::Command, {
        Noop => Command::Noop,
        Init => init("eu", 7),
        AttachWorkload => Command::AttachWorkload(Arc::new(loaded_workload())),
        AttachGateway => Command::AttachGateway(Box::new(gateway_lease("eu-gateway", "eu"))),
        SetWorkloadState => Command::SetWorkloadState { workload: id("pay-1"), epoch, state: EndpointState::Draining },
        SetGatewayState => Command::SetGatewayState { gateway: id("eu-gateway"), epoch, state: EndpointState::Maintenance },
        Lapse => Command::Lapse { lessee: pay.clone(), epoch },
        Detach => Command::Detach { lessee: Lessee::Gateway(id("eu-gateway")), epoch },
        ReleaseUnverified => Command::ReleaseUnverified,
        PutExport => export("pay.shop", regions(&["us", "ap"])),
        RemoveExport => Command::RemoveExport(id("pay.shop")),
        PutImportPolicy => Command::PutImportPolicy { peer: id("us"), policy: ImportPolicy::Services([id("pay.shop")].into()) },
        PutTenant => Command::PutTenant(tenant("acme", &["shop"], "eu", 12.5)),
        RemoveTenant => Command::RemoveTenant(id("acme")),
        PutToken => Command::PutToken(token(9, Grant::Node)),
        RedeemToken => Command::RedeemToken { digest: [9; 32], region: Some(id("us")) },
        PutPeer => Command::PutPeer(peer("us")),
        RemovePeer => Command::RemovePeer(id("us")),
        Import => import("us", full_import()),
        PutPeerStatus => Command::PutPeerStatus {
            peer: id("us"),
            connected: true,
            round_trip: Some(Duration::from_micros(1500)),
            heard_at: Timestamp(1_700_000_000_002),
        },
        PutBundle => Command::PutBundle(bundle("eu", 2)),
        PutAuthority => Command::PutAuthority(authority()),
        StartDrill => Command::StartDrill(drill("d-1", "eu", "eu")),
        RenewDrill => Command::RenewDrill(id("d-1")),
        EndDrill => Command::EndDrill(id("d-1")),
        Sweep => Command::Sweep,
        AllocateNode => Command::AllocateNode,
        RaiseLevel => Command::RaiseLevel(2),
        RepairPeer => Command::RepairPeer(id("us")),
        Checkpoint => checkpoint(),
        PutFinding => finding(),
        Rotate => Command::Rotate(Box::new(rotations().swap_remove(1).1)),
        GrantLeases => grant(),
        ImportLeases => lease_import(),
        EndLease => Command::EndLease { tenant: id("globex"), epoch: 3, expires_at: Timestamp(1_700_000_000_004) },
        SettleLease => Command::SettleLease { tenant: id("globex"), epoch: 3 },
        OpenQuotas => Command::OpenQuotas,
        PutDemand => demand(),
    })
}

fn grant() -> Command {
    Command::GrantLeases(vec![Terms {
        tenant: id("acme"),
        region: id("us"),
        rate: 2.5,
        floor: 0.5,
        base: 0,
        renews: false,
    }])
}

fn quota_lease(tenant: &str, region: &str) -> QuotaLease {
    QuotaLease {
        tenant: id(tenant),
        region: id(region),
        epoch: 3,
        rate: 2.5,
        floor: 0.5,
        expires_at: Timestamp(1_700_000_000_004),
    }
}

fn lease_import() -> Command {
    Command::ImportLeases {
        peer: id("us"),
        set: Box::new(LeaseSet {
            full: true,
            leases: vec![quota_lease("globex", "eu")],
            reports: vec![LeaseReport {
                settled: quota_lease("acme", "us"),
                usage: Usage {
                    used: 1.5,
                    refused: 0.25,
                },
            }],
            removed: Vec::new(),
        }),
    }
}

fn demand() -> Command {
    Command::PutDemand {
        node: NodeId(1),
        usage: vec![(
            id("acme"),
            Usage {
                used: 1.5,
                refused: 0.25,
            },
        )],
    }
}

fn checkpoint() -> Command {
    Command::Checkpoint(Some(Checkpoint {
        revision: Revision(40),
        sum: 0x0102_0304,
        scheme: 1,
    }))
}

fn finding() -> Command {
    Command::PutFinding {
        subject: Subject::Peer(id("us")),
        finding: Some(Finding {
            revision: Revision(40),
            at: Timestamp(1_700_000_000_003),
            parts: vec![Part::Endpoints, Part::Trust],
        }),
    }
}

pub(crate) fn rotations() -> Vec<(&'static str, RotateStep)> {
    let next = NextRoot {
        anchor: vec![1, 2, 3],
        authority: authority(),
    };
    samples!(crate::catalog::RotateStep, {
        Order => RotateStep::Order,
        Make => RotateStep::Make(next),
        Publish => RotateStep::Publish,
        Sign => RotateStep::Sign,
        Withdraw => RotateStep::Withdraw,
    })
}

pub(crate) fn refusals() -> Vec<(&'static str, Refusal)> {
    samples!(crate::catalog::Refusal, {
        StaleLease => Refusal::StaleLease("workload pay-1".into()),
        NotFound => Refusal::NotFound { what: "peer".into(), id: "us".into() },
        Token => Refusal::Token("expired".into()),
        Conflict => Refusal::Conflict("stands in the way".into()),
        Quota => Refusal::Quota { tenant: id("acme"), what: "services".into(), limit: 3 },
        NotOwner => Refusal::NotOwner { what: "tenant globex".into(), owner: id("us") },
        Initialised => Refusal::Initialised,
    })
}

pub(crate) fn replies() -> Vec<(&'static str, Reply)> {
    let drill: Drill = drill("d-1", "eu", "eu");
    samples!(crate::catalog::Reply, {
        Done => Reply::Done,
        Attached => Reply::Attached { epoch: 7, endpoints: vec![id("ep-1"), id("ep-2")] },
        Granted => Reply::Granted(Grant::Node),
        Drill => Reply::Drill(drill),
        Node => Reply::Node(NodeId(4)),
        Refused => Reply::Refused(Refusal::Initialised),
    })
}

/// A catalogue with a record of every kind.
fn everything() -> State {
    let mut world = World::new("eu");
    world.run(Command::RaiseLevel(LEVEL));
    world.state = world.state.with_incarnation(Incarnation(8));
    let commands = vec![
        Command::AttachWorkload(Arc::new(loaded_workload())),
        Command::AttachGateway(Box::new(gateway_lease("eu-gateway", "eu"))),
        export("pay.shop", Audience::Everybody),
        Command::PutTenant(tenant("acme", &["shop"], "eu", 12.5)),
        Command::PutToken(token(9, Grant::Node)),
        Command::PutPeer(peer("us")),
        import(
            "us",
            ImportSet {
                base: None,
                removed: Vec::new(),
                // It is not its own to give.
                endpoints: vec![
                    endpoint("ep-us-1", "pay.shop", "us"),
                    endpoint("ep-ap-1", "pay.shop", "ap"),
                ],
                ..full_import()
            },
        ),
        Command::StartDrill(drill("d-1", "eu", "eu")),
        checkpoint(),
        finding(),
        Command::Rotate(Box::new(RotateStep::Order)),
        Command::OpenQuotas,
        grant(),
        lease_import(),
        demand(),
        Command::AttachWorkload(Arc::new(workload("counted", &[]))),
    ];
    for command in commands {
        let reply = world.run(command.clone());
        assert!(!matches!(reply, Reply::Refused(_)), "{command:?}: {reply:?}");
    }
    world.state
}

/// The kind of a record. No catch-all arm: a new kind needs a sample in [`everything`].
fn kind(key: &RecordKey) -> &'static str {
    match key {
        RecordKey::Meta => "Meta",
        RecordKey::Definition(..) => "Definition",
        RecordKey::Endpoint(..) => "Endpoint",
        RecordKey::Workload(_) => "Workload",
        RecordKey::Gateway(_) => "Gateway",
        RecordKey::GatewayLease(_) => "GatewayLease",
        RecordKey::Export(_) => "Export",
        RecordKey::Peer(_) => "Peer",
        RecordKey::Tenant(_) => "Tenant",
        RecordKey::Token(_) => "Token",
        RecordKey::Bundle(_) => "Bundle",
        RecordKey::Authority => "Authority",
        RecordKey::Drill(_) => "Drill",
        RecordKey::Override(_) => "Override",
        RecordKey::Region(_) => "Region",
        RecordKey::Probe(_) => "Probe",
        RecordKey::Level => "Level",
        RecordKey::Refused(_) => "Refused",
        RecordKey::Finding(_) => "Finding",
        RecordKey::Checkpoint => "Checkpoint",
        RecordKey::Rotation => "Rotation",
        RecordKey::Grant(..) => "Grant",
        RecordKey::Holding(_) => "Holding",
        RecordKey::Report(..) => "Report",
        RecordKey::Division(_) => "Division",
        RecordKey::Demand(_) => "Demand",
        RecordKey::Member(_) => "Member",
        RecordKey::Fence => "Fence",
    }
}

const KINDS: usize = 28;

fn book() -> Book {
    let mut book = Book::open("records");
    let mut found = std::collections::BTreeMap::new();
    for record in everything().records() {
        let key = RecordKey::decode(&record.0).unwrap();
        found.entry(kind(&key)).or_insert(record);
    }
    assert_eq!(
        found.len(),
        KINDS,
        "a kind has no record in `everything`: {:?}",
        found.keys().collect::<Vec<_>>()
    );
    for (name, record) in found {
        let today = postcard::to_stdvec(&record).unwrap();
        book.sample(name, today, |bytes| {
            let (key, value): (Vec<u8>, Vec<u8>) = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
            let state = State::from_records([(&key, &value)]).map_err(|error| format!("{error}: {error:?}"))?;
            let again = state.record(&key).ok_or("the record is gone")?;
            postcard::to_stdvec(&(key, again)).map_err(|error| error.to_string())
        });
    }
    book
}

#[test]
fn records_of_every_version_are_read() {
    book().check();
}

#[test]
#[ignore = "writes the files"]
fn bless_golden_bytes() {
    book().bless();
}
