//! Demand: of which services the view holds the endpoints. A proxy knows all names and uses a few; the first use of a service
//! adds it to the interest of the subscription and waits, bounded, for the view that has its endpoints. What is not used for
//! long is let go of. Asks nobody itself: the subscription carries the interest, and while the registry is away only what was
//! never used is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::{Counter, Gauge};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info};

use super::{Contact, Interest, Views};
use crate::{
    model::ServiceName,
    ops::{Metrics, Section},
    runtime::clock,
};

/// How services are asked for and let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long the first use of a service waits for its endpoints. Default 1 s: a round trip to the registry takes
    /// milliseconds, an election of its leader a second, and a resolver asks again only later.
    pub wait: Duration,
    /// A service that was not used for so long is let go of. Default 1 h.
    pub idle: Duration,
    /// Most services whose endpoints are held; beyond, the one that was not used for longest is let go of. Default 1000.
    pub services_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(1),
            idle: Duration::from_secs(3600),
            services_max: 1000,
        }
    }
}

/// Most that a registry takes.
const SERVICES_MAX: usize = 10_000;

impl Settings {
    /// Reads `wait`, `idle` and `services_max` of a table; the caller finishes it.
    #[must_use]
    pub fn read(section: &Section) -> Self {
        let default = Self::default();
        let settings = Self {
            wait: section.or("wait", default.wait),
            idle: section.or("idle", default.idle),
            services_max: section.or("services_max", default.services_max),
        };
        if settings.wait.is_zero() || settings.wait > Duration::from_secs(5) {
            section.fault(
                "wait",
                "must be more than 0 and at most 5s, after which resolvers give up",
            );
        }
        if settings.idle < Duration::from_secs(1) {
            section.fault("idle", "must be at least 1s");
        }
        if !(1..=SERVICES_MAX).contains(&settings.services_max) {
            section.fault("services_max", format!("must be 1 to {SERVICES_MAX}"));
        }
        settings
    }
}

/// The endpoints of a service are not here, and did not come.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the endpoints of {service} are not known here: {}", self.why())]
pub struct EndpointsUnknown {
    /// Of which.
    pub service: ServiceName,
    /// How long the registry has not been heard; none while its stream stands.
    pub silent_for: Option<Duration>,
}

impl EndpointsUnknown {
    fn why(&self) -> String {
        match self.silent_for {
            Some(silent) => format!(
                "it was not used here before, and the registry has not been reachable for {}",
                humantime::format_duration(Duration::from_secs(silent.as_secs()))
            ),
            None => "it was not used here before, and the registry did not send them in time; try again".to_owned(),
        }
    }
}

/// The services that are in use. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Demand {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    pinned: BTreeSet<ServiceName>,
    views: Views,
    interest: watch::Sender<Interest>,
    contact: Arc<Contact>,
    /// When each wanted service was last used. Taken at a first use and by the housekeeping; whoever publishes views never
    /// takes it.
    used: Mutex<BTreeMap<ServiceName, Instant>>,
    meters: Meters,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Demand")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

struct Meters {
    services: Gauge,
    asked: Counter,
    unknown: Counter,
    idle: Counter,
    bound: Counter,
}

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        let dropped = |reason: &str| {
            let help = "services whose endpoints were let go of";
            metrics.counter("isthmus_demand_dropped_total", help, &[("reason", reason)])
        };
        Self {
            services: metrics.gauge("isthmus_demand_services", "services whose endpoints are wanted", &[]),
            asked: metrics.counter(
                "isthmus_demand_asked_total",
                "services whose endpoints were asked for",
                &[],
            ),
            unknown: metrics.counter(
                "isthmus_demand_unknown_total",
                "uses of a service that failed because its endpoints did not come in time",
                &[],
            ),
            idle: dropped("idle"),
            bound: dropped("bound"),
        }
    }
}

impl Demand {
    /// Wants from the start what the interest names and what is pinned. An interest that is not one in names is left alone:
    /// its view holds all endpoints.
    #[must_use]
    pub fn new(
        settings: Settings,
        pinned: BTreeSet<ServiceName>,
        views: Views,
        interest: watch::Sender<Interest>,
        contact: Arc<Contact>,
        metrics: &Metrics,
    ) -> Self {
        let now = clock::now();
        let wanted = interest
            .borrow()
            .services
            .union(&pinned)
            .cloned()
            .collect::<BTreeSet<_>>();
        let inner = Inner {
            settings,
            pinned,
            views,
            interest,
            contact,
            used: Mutex::new(wanted.into_iter().map(|name| (name, now)).collect()),
            meters: Meters::new(metrics),
        };
        inner.ask(&inner.used());
        Self { inner: Arc::new(inner) }
    }

    /// The views that it fills.
    #[must_use]
    pub fn views(&self) -> &Views {
        &self.inner.views
    }

    /// Returns once the newest view holds the endpoints of a service: at once where it does, which takes no lock that anybody
    /// waits for; else it asks for them, once for all who wait, and waits for at most [`Settings::wait`]. Where the registry
    /// has been away for longer than that it does not wait.
    ///
    /// # Errors
    /// When they did not come. They stay asked for.
    pub async fn ensure(&self, service: &ServiceName) -> Result<(), EndpointsUnknown> {
        let inner = &*self.inner;
        if inner.views.load().holds_endpoints_of(service) {
            // Somebody else's use, seen a moment later, is as good.
            if let Ok(mut used) = inner.used.try_lock()
                && let Some(at) = used.get_mut(service)
            {
                *at = clock::now();
            }
            return Ok(());
        }
        inner.want(service);
        let mut views = inner.views.clone();
        let held = async {
            while !views.load().holds_endpoints_of(service) {
                if views.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        let is_lost = inner.contact.lost_for() > inner.settings.wait;
        if !is_lost && tokio::time::timeout(inner.settings.wait, held).await == Ok(true) {
            return Ok(());
        }
        inner.meters.unknown.increment(1);
        Err(EndpointsUnknown {
            service: service.clone(),
            silent_for: (!inner.contact.is_connected()).then(|| inner.contact.age(clock::wall()).unwrap_or_default()),
        })
    }

    /// Housekeeping, every few seconds: these services were used since the last time. Others that have been idle for too long
    /// are let go of.
    pub fn used(&self, services: impl IntoIterator<Item = ServiceName>) {
        let inner = &*self.inner;
        let now = clock::now();
        let mut used = inner.used();
        let before = used.len();
        let mut is_changed = false;
        for service in services {
            is_changed |= used.insert(service, now).is_none();
        }
        let grown = used.len();
        let idle = inner.settings.idle;
        used.retain(|service, at| now.duration_since(*at) < idle || inner.pinned.contains(service));
        inner.meters.idle.increment((grown - used.len()) as u64);
        is_changed |= used.len() < grown;
        is_changed |= inner.bound(&mut used) > 0;
        if is_changed {
            debug!(before, now = used.len(), "services in use");
            inner.ask(&used);
        }
    }

    /// The services that are wanted.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<ServiceName> {
        self.inner.used().keys().cloned().collect()
    }
}

impl Inner {
    fn used(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Instant>> {
        // Times by name: a panic leaves nothing half done.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, service: &ServiceName) {
        let mut used = self.used();
        if used.insert(service.clone(), clock::now()).is_some() {
            return;
        }
        info!(%service, "first use: asking for its endpoints");
        self.meters.asked.increment(1);
        self.bound(&mut used);
        self.ask(&used);
    }

    /// Lets go of what was not used for longest, beyond the bound; says of how many.
    fn bound(&self, used: &mut BTreeMap<ServiceName, Instant>) -> usize {
        let excess = used.len().saturating_sub(self.settings.services_max);
        if excess == 0 {
            return 0;
        }
        let free = used.iter().filter(|(service, _)| !self.pinned.contains(*service));
        let mut by_age: Vec<(Instant, ServiceName)> = free.map(|(service, at)| (*at, service.clone())).collect();
        by_age.sort();
        let dropped = by_age.into_iter().take(excess);
        let count = dropped.map(|(_, service)| used.remove(&service)).count();
        self.meters.bound.increment(count as u64);
        count
    }

    /// Hands the wish to the subscription.
    fn ask(&self, used: &BTreeMap<ServiceName, Instant>) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge of some thousands at most")]
        self.meters.services.set(used.len() as f64);
        self.interest.send_if_modified(|interest| {
            let is_new = interest.names && !interest.services.iter().eq(used.keys());
            if is_new {
                interest.services = used.keys().cloned().collect();
            }
            is_new
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Coverage, View},
        subscribe::{Publisher, samples},
    };

    struct Fixture {
        demand: Demand,
        publisher: Publisher,
        interest: watch::Receiver<Interest>,
        contact: Arc<Contact>,
    }

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    fn view(names: &[&str], held: &[&str]) -> View {
        let held = held.iter().map(|text| name(text)).collect();
        samples::view(names).covering(Coverage::Of(Arc::new(held)))
    }

    fn fixture(settings: Settings, wanted: &[&str], pinned: &[&str]) -> Fixture {
        let interest = Interest::names(wanted.iter().map(|text| name(text)).collect());
        let (sender, interest) = watch::channel(interest);
        let (publisher, views) = Publisher::new(view(&["pay.shop", "cart.shop"], wanted));
        let contact = Arc::new(Contact::new(None));
        contact.connect(true);
        let pinned = pinned.iter().map(|text| name(text)).collect();
        let metrics = Metrics::default();
        Fixture {
            demand: Demand::new(settings, pinned, views, sender, Arc::clone(&contact), &metrics),
            publisher,
            interest,
            contact,
        }
    }

    impl Fixture {
        fn asked(&mut self) -> Vec<String> {
            let interest = self.interest.borrow_and_update();
            interest.services.iter().map(ToString::to_string).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_use_asks_once_and_waits_for_the_view_that_confirms() {
        let mut fixture = fixture(Settings::default(), &[], &["pinned.shop"]);
        assert_eq!(fixture.asked(), ["pinned.shop"], "wanted from the start");
        let (one, other) = (fixture.demand.clone(), fixture.demand.clone());
        let pay = name("pay.shop");
        let publish = async {
            fixture.interest.changed().await.unwrap();
            assert_eq!(fixture.asked(), ["pay.shop", "pinned.shop"]);
            // A view that says nothing of it is not the answer.
            fixture.publisher.publish(view(&["pay.shop"], &[]));
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!fixture.interest.has_changed().unwrap(), "two first calls ask once");
            fixture.publisher.publish(view(&["pay.shop"], &["pay.shop"]));
        };
        let (first, second, ()) = tokio::join!(one.ensure(&pay), other.ensure(&pay), publish);
        assert_eq!((first, second), (Ok(()), Ok(())));
        assert_eq!(fixture.demand.ensure(&pay).await, Ok(()));
        assert!(!fixture.interest.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_no_longer_than_set_and_not_at_all_once_the_registry_is_lost() {
        let mut fixture = fixture(Settings::default(), &[], &[]);
        let began = clock::now();
        let error = fixture.demand.ensure(&name("pay.shop")).await.unwrap_err();
        assert_eq!((began.elapsed(), error.silent_for), (Duration::from_secs(1), None));
        fixture.contact.connect(false);
        let began = clock::now();
        assert!(fixture.demand.ensure(&name("pay.shop")).await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(1), "it may be back in a moment");
        tokio::time::advance(Duration::from_secs(5)).await;
        let began = clock::now();
        let error = fixture.demand.ensure(&name("cart.shop")).await.unwrap_err();
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(
            error.to_string().contains("cart.shop") && error.to_string().contains("not been reachable"),
            "{error}"
        );
        assert_eq!(
            fixture.asked(),
            ["cart.shop", "pay.shop"],
            "wanted as soon as it is back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_or_too_much_is_let_go_of_but_never_what_is_pinned() {
        let settings = Settings {
            services_max: 3,
            ..Settings::default()
        };
        let mut fixture = fixture(settings, &["old.shop", "busy.shop"], &["pinned.shop"]);
        tokio::time::advance(Duration::from_secs(60)).await;
        fixture.demand.used([name("busy.shop")]);
        assert!(
            fixture.demand.ensure(&name("pay.shop")).await.is_err(),
            "nobody answers here"
        );
        assert_eq!(fixture.asked(), ["busy.shop", "pay.shop", "pinned.shop"], "the bound");
        tokio::time::advance(Duration::from_secs(3590)).await;
        fixture.demand.used([name("busy.shop")]);
        tokio::time::advance(Duration::from_secs(60)).await;
        fixture.demand.used([]);
        assert_eq!(fixture.asked(), ["busy.shop", "pinned.shop"], "idle for an hour");
    }

    #[tokio::test]
    async fn a_view_of_everything_needs_nothing() {
        let (sender, interest) = watch::channel(Interest::everything());
        let (_publisher, views) = Publisher::new(samples::view(&["pay.shop"]));
        let contact = Arc::new(Contact::new(None));
        let demand = Demand::new(
            Settings::default(),
            BTreeSet::new(),
            views,
            sender,
            contact,
            &Metrics::default(),
        );
        assert_eq!(demand.ensure(&name("pay.shop")).await, Ok(()));
        demand.used([name("pay.shop")]);
        assert_eq!(*interest.borrow(), Interest::everything());
    }
}
