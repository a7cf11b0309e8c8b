//! One region's proxies under random delays, losses, lapses and restarts: what all of them may spend at one moment, those
//! included that nobody hears of any more, never exceeds what the region had when the oldest confirmation was given.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use mesh::{
    model::{Incarnation, WorkloadId},
    quota::{Confirmed, Holder, SHARE_TTL},
};
use proptest::prelude::*;

use crate::{
    catalog::{
        Command, State,
        testing::{World, id, lapse, tenant, workload},
    },
    quota::division::ASIDE,
};

const STEP_MS: u64 = 500;
const RATE: f64 = 1000.0;

#[derive(Clone, Debug)]
enum Act {
    Attach(usize),
    Lapse(usize),
    Detach(usize),
    Restart(usize),
    /// Cuts the proxy off from its node, or brings it back.
    Cut(usize, bool),
    /// The node that answers is behind by so many steps from now on.
    Lag(u8),
    Rate(u16),
}

fn acts() -> impl Strategy<Value = Act> {
    let proxy = 0..12_usize;
    prop_oneof![
        4 => proxy.clone().prop_map(Act::Attach),
        2 => proxy.clone().prop_map(Act::Lapse),
        1 => proxy.clone().prop_map(Act::Detach),
        1 => proxy.clone().prop_map(Act::Restart),
        3 => (proxy, any::<bool>()).prop_map(|(proxy, cut)| Act::Cut(proxy, cut)),
        1 => (0..12_u8).prop_map(Act::Lag),
        2 => (1..20_u16).prop_map(Act::Rate),
    ]
}

#[derive(Default)]
struct Proxy {
    holder: Holder,
    is_cut: bool,
    is_running: bool,
}

struct Region {
    world: World,
    /// The newest states, the newest last: a node may be behind.
    states: VecDeque<(u64, Arc<State>)>,
    lag: usize,
    now_ms: u64,
    epochs: BTreeMap<usize, u64>,
}

fn name(proxy: usize) -> String {
    format!("w{proxy}")
}

impl Region {
    fn new() -> Self {
        let mut world = World::new("eu");
        world.run(Command::PutTenant(tenant("acme", &["shop"], "eu", RATE)));
        let states = VecDeque::from([(0, Arc::new(world.state.clone()))]);
        Self {
            world,
            states,
            lag: 0,
            now_ms: 0,
            epochs: BTreeMap::new(),
        }
    }

    fn run(&mut self, command: Command) {
        self.world.run(command);
        self.states.push_back((self.now_ms, Arc::new(self.world.state.clone())));
    }

    /// What the proxy's node has applied; and the time at which that was in force.
    fn node(&self) -> (Duration, Arc<State>) {
        let at = self.now_ms.saturating_sub(self.lag as u64 * STEP_MS);
        let state = self.states.iter().rev().find(|(since, _)| *since <= at);
        let state = state
            .or_else(|| self.states.front())
            .expect("the first is never dropped");
        (Duration::from_millis(at), Arc::clone(&state.1))
    }

    fn hear(&self, number: usize, proxy: &mut Proxy) {
        if proxy.is_cut || !proxy.is_running {
            return;
        }
        let (current_at, state) = self.node();
        let now = Duration::from_millis(self.now_ms);
        let share = state.share(&id("acme")).map(Arc::new);
        proxy.holder.share(share.as_ref(), Incarnation(7), now);
        let workload: WorkloadId = id(&name(number));
        let hold = state.workload(&workload);
        let is_counted = hold.is_some_and(|hold| Some(&hold.epoch) == self.epochs.get(&number));
        if let Some(division) = state.division(&id("acme")).filter(|_| is_counted) {
            let confirmed = Confirmed {
                tenant: id("acme"),
                incarnation: Incarnation(7),
                epoch: division.epoch,
                member: state.member(&workload),
                until: current_at + SHARE_TTL,
            };
            proxy.holder.confirm(confirmed, now);
        }
    }

    fn act(&mut self, act: &Act, proxies: &mut [Proxy]) {
        match act {
            Act::Attach(number) => {
                let (epoch, _) = self.world.attach(workload(&name(*number), &[]));
                self.run(Command::Noop);
                self.epochs.insert(*number, epoch);
                proxies[*number].is_running = true;
            }
            Act::Lapse(number) => {
                if let Some(epoch) = self.epochs.get(number) {
                    self.run(lapse(&name(*number), *epoch));
                }
            }
            Act::Detach(number) => {
                if let Some(epoch) = self.epochs.remove(number) {
                    let lessee = crate::catalog::Lessee::Workload(id(&name(*number)));
                    self.run(Command::Detach { lessee, epoch });
                }
            }
            Act::Restart(number) => {
                let mut holder = Holder::default();
                // The view on disk.
                let share = self.node().1.share(&id("acme")).map(Arc::new);
                holder.share(share.as_ref(), Incarnation(7), Duration::from_millis(self.now_ms));
                proxies[*number].holder = holder;
            }
            Act::Cut(number, cut) => proxies[*number].is_cut = *cut,
            Act::Lag(steps) => self.lag = usize::from(*steps),
            Act::Rate(rate) => self.run(Command::PutTenant(tenant(
                "acme",
                &["shop"],
                "eu",
                f64::from(*rate) * 100.0,
            ))),
        }
    }

    /// What the region had between now and the oldest confirmation that may still count.
    fn whole(&self) -> f64 {
        let since = self
            .now_ms
            .saturating_sub(u64::try_from(SHARE_TTL.as_millis()).unwrap());
        let first = self.states.iter().rposition(|(at, _)| *at <= since).unwrap_or(0);
        let recent = self.states.iter().skip(first);
        let had = recent.map(|(_, state)| {
            let holding = state.holding(&id("acme")).unwrap();
            holding
                .total()
                .min(state.tenant(&id("acme")).unwrap().quota.requests_per_second)
        });
        had.fold(0.0, f64::max)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn proxies_together_never_spend_more_than_their_region(
        schedule in prop::collection::vec(prop::collection::vec(acts(), 0..3), 1..120),
        order in any::<u64>(),
    ) {
        let mut region = Region::new();
        let mut proxies: Vec<Proxy> = (0..12).map(|_| Proxy::default()).collect();
        for (step, some) in schedule.iter().enumerate() {
            region.now_ms += STEP_MS;
            region.world.at += i64::try_from(STEP_MS).unwrap();
            for act in some {
                region.act(act, &mut proxies);
            }
            for (number, proxy) in proxies.iter_mut().enumerate() {
                // Not every proxy hears at every step.
                if (order.rotate_left(u32::try_from(step * 7 + number * 13).unwrap())) & 1 == 0 {
                    region.hear(number, proxy);
                }
            }
            let now = Duration::from_millis(region.now_ms);
            let spends = proxies.iter().filter_map(|proxy| {
                let allowance = proxy.holder.allowance(now)?;
                Some(if now < allowance.until { allowance.rate } else { 0.0 })
            });
            let sum: f64 = spends.sum();
            let whole = region.whole();
            prop_assert!(sum <= whole + 1e-6, "{sum} of {whole} at step {step}");
        }
    }
}

#[test]
fn floors_of_all_that_may_be_alive_fit_into_what_is_set_aside() {
    let mut region = Region::new();
    let mut given: Vec<f64> = Vec::new();
    let mut epochs = Vec::new();
    for number in 0..200 {
        region
            .epochs
            .insert(number, region.world.attach(workload(&name(number), &[])).0);
        epochs.push(region.epochs[&number]);
        region.world.at += 60_000;
        let share = region.world.state.share(&id("acme")).unwrap();
        given.push(share.floor);
        if number % 3 == 0 {
            // It is cut off here, and lapses.
            region.world.run(lapse(&name(number), epochs[number]));
        }
    }
    let holding = region.world.state.holding(&id("acme")).unwrap();
    let cut_off: f64 = given.iter().step_by(3).sum();
    assert!(cut_off <= holding.lease.floor * ASIDE, "{cut_off}");
    assert!(given.iter().all(|floor| *floor > 0.0));
}

#[test]
fn a_lone_proxy_has_the_whole_part_after_one_span() {
    let mut region = Region::new();
    let mut proxies = [Proxy::default()];
    region.act(&Act::Attach(0), &mut proxies);
    for _ in 0..=(u64::try_from(SHARE_TTL.as_millis()).unwrap() / STEP_MS) {
        region.hear(0, &mut proxies[0]);
        region.now_ms += STEP_MS;
    }
    region.hear(0, &mut proxies[0]);
    let now = Duration::from_millis(region.now_ms);
    let allowance = proxies[0].holder.allowance(now).unwrap();
    assert!(now < allowance.until && allowance.rate > RATE * 0.98, "{allowance:?}");
}
