use std::{collections::BTreeSet, sync::Arc};

use mesh::model::{Audience, EndpointState, Key, Resource};
use proptest::prelude::*;

use super::super::testing::{
    World, drill, endpoint, export, gateway, id, import, import_set, lapse, peer, regions, service, tenant, workload,
};
use crate::catalog::{Applied, Command, ImportSet, Lessee, State};

const REGIONS: [&str; 3] = ["us", "ap", "eu"];
const SERVICES: [&str; 3] = ["pay.shop", "cart.shop", "ledger.bank"];

pub(super) fn commands() -> impl Strategy<Value = Command> {
    let workload_name = (0..6_u8).prop_map(|n| format!("w{n}"));
    let lessee = workload_name.clone().prop_map(|name| Lessee::Workload(id(&name)));
    let picked = prop::sample::subsequence(vec!["pay.shop", "cart.shop"], 0..=2);
    let audience = prop_oneof![
        Just(Audience::Nobody),
        Just(Audience::Everybody),
        Just(regions(&["us"])),
        Just(regions(&["us", "ap"])),
    ];
    let set = (
        any::<bool>(),
        prop::sample::subsequence(SERVICES.to_vec(), 0..=3),
        prop::sample::select(REGIONS.to_vec()),
        0..9_u64,
    );
    let imports = (prop::sample::select(vec!["us", "ap"]), set).prop_map(|(from, (full, names, owner, revision))| {
        import(
            from,
            ImportSet {
                services: names.iter().map(|name| service(name, owner)).collect(),
                endpoints: names.iter().map(|name| endpoint("ep-far", name, owner)).collect(),
                gateways: vec![gateway("gw-far", owner)],
                tenants: vec![tenant("acme", &["shop"], owner, 10.0)],
                tenant_proxies: Some([(id("acme"), 2)].into()),
                removed: vec!["endpoint/pay.shop/ep-far".into(), "service/cart.shop".into()],
                ..import_set(revision, full)
            },
        )
    });
    prop_oneof![
        4 => (workload_name.clone(), picked).prop_map(|(name, services)| {
            Command::AttachWorkload(Arc::new(workload(&name, &services)))
        }),
        1 => (lessee.clone(), 0..20_u64).prop_map(|(lessee, epoch)| Command::Detach { lessee, epoch }),
        2 => (workload_name.clone(), 0..20_u64).prop_map(|(name, epoch)| lapse(&name, epoch)),
        1 => (workload_name, 0..20_u64).prop_map(|(name, epoch)| Command::SetWorkloadState {
            workload: id(&name),
            epoch,
            state: EndpointState::Draining,
        }),
        2 => (prop::sample::select(SERVICES.to_vec()), audience).prop_map(|(name, to)| export(name, to)),
        1 => prop::sample::select(SERVICES.to_vec()).prop_map(|name| Command::RemoveExport(id(name))),
        2 => prop::sample::select(vec!["us", "ap"]).prop_map(|name| Command::PutPeer(peer(name))),
        1 => prop::sample::select(vec!["us", "ap"]).prop_map(|name| Command::RemovePeer(id(name))),
        4 => imports,
        1 => prop::sample::select(vec!["acme", "other"])
            .prop_map(|name| Command::PutTenant(tenant(name, &["shop"], "eu", 30.0))),
        1 => Just(Command::RemoveTenant(id("acme"))),
        1 => Just(Command::StartDrill(drill("d1", "us", "eu"))),
        1 => Just(Command::Sweep),
        1 => Just(Command::ReleaseUnverified),
        1 => Just(Command::AllocateNode),
    ]
}

/// What every state must be, however it came about.
fn check(state: &State) {
    let again = State::from_records(state.records()).unwrap();
    assert!(*state == again, "records give the state back, derived maps included");
    let keys: Vec<Vec<u8>> = state.records().map(|(key, _)| key).collect();
    assert!(keys.is_sorted(), "records come in order of their keys");
    // Each endpoint of this region stands for a lease, and each lease for its endpoints.
    let leased: BTreeSet<_> = state
        .workloads()
        .flat_map(|(_, hold)| hold.lease.services.iter().map(|s| (s.name.clone(), s.endpoint.clone())))
        .collect();
    let own = state
        .all_endpoints()
        .filter(|endpoint| endpoint.locality.region == id("eu"));
    let own: BTreeSet<_> = own
        .map(|endpoint| (endpoint.service.clone(), endpoint.id.clone()))
        .collect();
    assert_eq!(leased, own);
    for (name, _) in &own {
        assert!(
            state.own_definition(name).is_some_and(|d| d.empty_since.is_none()),
            "{name}"
        );
    }
    // Every name has its own address.
    assert_eq!(state.probes.len(), state.definitions.len());
    assert_eq!(state.virtual_v4.len(), state.probes.len());
    for key in state.keys() {
        assert!(state.resource(&key).is_some(), "{key} is listed and is not there");
        check_owner(state, &key);
    }
}

fn check_owner(state: &State, key: &Key) {
    let eu = id("eu");
    match state.exported(key) {
        Some((Resource::Service(service), _)) => assert_eq!(service.origins, [eu]),
        Some((Resource::Endpoint(endpoint), _)) => assert_eq!(endpoint.locality.region, eu),
        Some((Resource::Gateway(gateway), _)) => assert_eq!(gateway.region, eu),
        Some((Resource::Tenant(tenant), _)) => assert_eq!(tenant.region, eu),
        Some((Resource::Share(_), _)) => panic!("a share is for proxies"),
        _ => {}
    }
}

/// The changes name everything that looks different, and the records everything that is.
fn check_applied(before: &State, after: &State, applied: &Applied) {
    let changed: BTreeSet<&Key> = applied.changes.iter().map(|change| &change.key).collect();
    let keys: BTreeSet<Key> = before.keys().chain(after.keys()).collect();
    for key in &keys {
        let differs = before.resource(key) != after.resource(key) || before.exported(key) != after.exported(key);
        assert_eq!(differs, changed.contains(key), "{key}");
    }
    let mut disk: std::collections::BTreeMap<_, _> = before.records().collect();
    for key in &applied.dirty {
        match after.record(key) {
            Some(value) => disk.insert(key.clone(), value),
            None => disk.remove(key),
        };
    }
    assert!(
        disk.into_iter().eq(after.records()),
        "the dirty records bring the disk up to date"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_the_catalogue(
        batches in prop::collection::vec(prop::collection::vec(commands(), 1..5), 1..25),
    ) {
        let mut world = World::new("eu");
        let mut twin = world.clone();
        for commands in batches {
            world.at += 400;
            twin.at += 400;
            let before = world.state.clone();
            let applied = world.apply(commands.clone());
            check_applied(&before, &world.state, &applied);
            prop_assert_eq!(&applied, &twin.apply(commands));
            prop_assert!(world.state == twin.state, "applying is deterministic");
            check(&world.state);
        }
    }
}
