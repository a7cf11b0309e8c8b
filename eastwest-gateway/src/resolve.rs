//! Decides which endpoint a tunnel leads to: the one that the client named, else the less loaded of two random ready ones.
//! Never one of another cluster: a gateway leads into its own network only.
//! Pure.

use std::{collections::BTreeSet, sync::Arc};

use mesh::{
    identity::Sni,
    model::{ClusterId, Endpoint, EndpointId, EndpointState, View},
};

use crate::refusal::Refusal;

/// Chooses among the endpoints of `sni` in the view. `tried` are left out; `tunnels` tells how many an endpoint has;
/// `random` gives a number below the one it is given.
pub(crate) fn resolve(
    view: &View,
    sni: &Sni,
    cluster: &ClusterId,
    tried: &BTreeSet<EndpointId>,
    tunnels: impl Fn(&EndpointId) -> u32,
    mut random: impl FnMut(usize) -> usize,
) -> Result<Arc<Endpoint>, Refusal> {
    let (_, entry) = view.service(&sni.service).ok_or(Refusal::NotExported)?;
    let serves = |endpoint: &Endpoint| endpoint.cluster == *cluster && endpoint.ports.contains(&sni.port);
    if let Some(id) = &sni.subset {
        // Whatever its state: the client has chosen, and its proxy knows the state as well as we do.
        let named = entry.endpoints.get(id).filter(|endpoint| serves(endpoint));
        return named.map(Arc::clone).ok_or(Refusal::Endpoint);
    }
    let in_state = |state: EndpointState| -> Vec<&Arc<Endpoint>> {
        let fits =
            |endpoint: &&Arc<Endpoint>| endpoint.state == state && serves(endpoint) && !tried.contains(&endpoint.id);
        entry.endpoints.values().filter(fits).collect()
    };
    let mut candidates = in_state(EndpointState::Ready);
    if candidates.is_empty() {
        candidates = in_state(EndpointState::Serving);
    }
    match candidates.as_slice() {
        [] => Err(Refusal::NoneReady),
        [only] => Ok(Arc::clone(only)),
        many => {
            let first = random(many.len());
            let second = (first + 1 + random(many.len() - 1)) % many.len();
            Ok(Arc::clone(less_loaded(many[first], many[second], tunnels)))
        }
    }
}

/// The one with fewer tunnels for its weight, the newcomer counted; the first one on a tie.
fn less_loaded<'a>(
    first: &'a Arc<Endpoint>,
    second: &'a Arc<Endpoint>,
    tunnels: impl Fn(&EndpointId) -> u32,
) -> &'a Arc<Endpoint> {
    let load = |endpoint: &Endpoint, other: &Endpoint| {
        u64::from(tunnels(&endpoint.id).saturating_add(1)) * u64::from(other.weight.max(1))
    };
    if load(first, second) <= load(second, first) {
        first
    } else {
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::{cluster, endpoint, service, view_of};

    fn sni(subset: &str) -> Sni {
        format!("outbound_.80_.{subset}_.pay.shop.svc.cluster.local")
            .parse()
            .unwrap()
    }

    fn in_state(id: &str, state: EndpointState) -> Endpoint {
        Endpoint {
            state,
            ..endpoint(id, "pay.shop", 1)
        }
    }

    fn id(text: &str) -> EndpointId {
        EndpointId::parse(text).unwrap()
    }

    fn resolved(endpoints: Vec<Endpoint>, subset: &str, tried: &[&str]) -> Result<EndpointId, Refusal> {
        let view = view_of([service("pay.shop")], endpoints);
        let tried = tried.iter().map(|text| id(text)).collect();
        resolve(&view, &sni(subset), &cluster(), &tried, |_| 0, |_| 0).map(|endpoint| endpoint.id.clone())
    }

    #[test]
    fn a_named_endpoint_is_reached_in_whatever_state_but_only_here() {
        let mut far = endpoint("far", "pay.shop", 1);
        far.cluster = ClusterId::parse("other").unwrap();
        let mut other_port = endpoint("port", "pay.shop", 1);
        other_port.ports = vec![81];
        let all = vec![
            in_state("ready", EndpointState::Ready),
            in_state("drains", EndpointState::Draining),
            far,
            other_port,
        ];
        for (subset, expected) in [
            ("ready", Ok(id("ready"))),
            ("drains", Ok(id("drains"))),
            ("far", Err(Refusal::Endpoint)),
            ("port", Err(Refusal::Endpoint)),
            ("gone", Err(Refusal::Endpoint)),
        ] {
            assert_eq!(resolved(all.clone(), subset, &[]), expected, "{subset}");
        }
    }

    #[test]
    fn unnamed_goes_to_ready_ones_then_to_serving_ones_and_never_twice() {
        use EndpointState::{Draining, Maintenance, Ready, Serving, Unhealthy};
        let all = vec![
            in_state("a", Ready),
            in_state("b", Serving),
            in_state("c", Draining),
            in_state("d", Maintenance),
            in_state("e", Unhealthy),
        ];
        assert_eq!(resolved(all.clone(), "", &[]), Ok(id("a")));
        assert_eq!(resolved(all.clone(), "", &["a"]), Ok(id("b")));
        assert_eq!(resolved(all, "", &["a", "b"]), Err(Refusal::NoneReady));
        assert_eq!(resolved(vec![], "", &[]), Err(Refusal::NoneReady));
    }

    #[test]
    fn the_less_loaded_of_two_takes_it_by_weight() {
        let heavy = Endpoint {
            weight: 300,
            ..endpoint("heavy", "pay.shop", 1)
        };
        let view = view_of([service("pay.shop")], [endpoint("light", "pay.shop", 1), heavy]);
        for (light, heavy, expected) in [(0, 0, "heavy"), (0, 3, "light"), (1, 3, "heavy"), (5, 0, "heavy")] {
            let tunnels = |asked: &EndpointId| if asked.as_str() == "light" { light } else { heavy };
            for draw in 0..2 {
                let random = |below: usize| draw % below;
                let got = resolve(&view, &sni(""), &cluster(), &BTreeSet::new(), tunnels, random).unwrap();
                assert_eq!(got.id.as_str(), expected, "{light} and {heavy}, draw {draw}");
            }
        }
    }
}
