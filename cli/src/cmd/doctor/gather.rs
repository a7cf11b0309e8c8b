//! Gathers the doctor's evidence: the operator's own credentials, and what each node of the region says about itself.
//! Judges nothing; a node that does not answer is evidence, not a failure.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use mesh::{
    identity::{Expect, Identity, Role, Svid},
    model::Timestamp,
    net::grpc::{self, Credentials, Unreached},
    runtime::clock,
};
use proto::admin::v1::{DiagnoseRequest, NodeFacts};

use crate::{
    args::Global,
    connect::{Client, addresses, credentials},
    failure::Outcome,
};

/// For each attempt to connect; a node's answer may take as long as the operator waits.
const CONNECT: Duration = Duration::from_secs(3);

/// Everything that is judged.
#[derive(Debug)]
pub(super) struct Evidence {
    /// The operator's clock.
    pub(super) now: Timestamp,
    /// Of this program.
    pub(super) version: &'static str,
    pub(super) own: Own,
    /// Each address that was tried, those that were given first.
    pub(super) asked: Vec<Asked>,
}

/// The operator's own credentials.
#[derive(Debug)]
pub(super) enum Own {
    Good {
        id: String,
        not_before: Timestamp,
        not_after: Timestamp,
    },
    Expired {
        id: String,
        not_after: Timestamp,
    },
    /// No file, or one that is none: the text says which.
    Missing(String),
    /// The certificate and the bundle beside it do not fit.
    Wrong(String),
}

/// One address.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) address: String,
    /// The node that it is of, where a member has told.
    pub(super) node: Option<u64>,
    pub(super) answer: Answer,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    Facts {
        facts: Box<NodeFacts>,
        /// How far its clock is ahead of the operator's.
        ahead_ms: i64,
    },
    Unreached(Unreached),
    /// It answered, and did not tell.
    Refused(String),
    /// The port is open; without credentials nothing more can be asked.
    Open,
}

pub(super) async fn gather(global: &Global) -> Outcome<Evidence> {
    let given = addresses(&global.registry, &global.credentials)?;
    let (own, identity) = own(global);
    let mut asked = ask_all(
        given.into_iter().map(|address| (None, address)),
        identity.as_ref(),
        global,
    )
    .await;
    // Whoever answered names the other nodes.
    let answered: BTreeSet<u64> = asked.iter().filter_map(|asked| asked.node).collect();
    let mut others: BTreeSet<(Option<u64>, String)> = BTreeSet::new();
    for facts in asked.iter().filter_map(Asked::facts) {
        for node in facts.nodes.iter().filter(|node| !answered.contains(&node.id)) {
            match asked.iter().any(|asked| asked.address == node.api_address) {
                true => {}
                false => drop(others.insert((Some(node.id), node.api_address.clone()))),
            }
        }
    }
    let more = ask_all(others.into_iter(), identity.as_ref(), global).await;
    asked.extend(more);
    name_nodes(&mut asked);
    Ok(Evidence {
        now: clock::wall(),
        version: env!("CARGO_PKG_VERSION"),
        own,
        asked,
    })
}

impl Asked {
    pub(super) fn facts(&self) -> Option<&NodeFacts> {
        match &self.answer {
            Answer::Facts { facts, .. } => Some(facts),
            _ => None,
        }
    }
}

/// An address that was given and did not answer is that of the member which advertises it.
fn name_nodes(asked: &mut [Asked]) {
    let known: Vec<(u64, String)> = asked
        .iter()
        .filter_map(Asked::facts)
        .flat_map(|facts| facts.nodes.iter().map(|node| (node.id, node.api_address.clone())))
        .collect();
    for asked in asked.iter_mut().filter(|asked| asked.node.is_none()) {
        let found = known.iter().find(|(_, address)| *address == asked.address);
        asked.node = found.map(|(id, _)| *id);
    }
}

fn own(global: &Global) -> (Own, Option<Identity>) {
    let svid = match Svid::load(&global.credentials) {
        Ok(Some(svid)) => svid,
        Ok(None) => {
            let text = format!("no operator's credentials in {}", global.credentials.display());
            return (Own::Missing(text), None);
        }
        Err(error) => {
            let text = format!("bad credentials in {}: {error}", global.credentials.display());
            return (Own::Missing(text), None);
        }
    };
    let (id, not_after) = (svid.id().to_string(), svid.not_after());
    if not_after <= clock::wall() {
        return (Own::Expired { id, not_after }, None);
    }
    match credentials(&global.credentials) {
        Ok(identity) => {
            let not_before = svid.not_before();
            let good = Own::Good {
                id,
                not_before,
                not_after,
            };
            (good, Some(identity))
        }
        Err(failure) => (Own::Wrong(failure.to_string()), None),
    }
}

async fn ask_all(
    addresses: impl Iterator<Item = (Option<u64>, String)>,
    identity: Option<&Identity>,
    global: &Global,
) -> Vec<Asked> {
    let asking = addresses.map(|(node, address)| async move {
        let answer = match identity {
            Some(identity) => Box::pin(ask(&address, identity, global.timeout)).await,
            None => match grpc::reach_port(&address, CONNECT).await {
                Ok(_) => Answer::Open,
                Err(unreached) => Answer::Unreached(unreached),
            },
        };
        let told = match &answer {
            Answer::Facts { facts, .. } => facts.position.as_ref().map(|position| position.node),
            _ => None,
        };
        Asked {
            address,
            node: told.or(node),
            answer,
        }
    });
    join_all(asking).await
}

async fn ask(address: &str, identity: &Identity, timeout: Duration) -> Answer {
    let expect = Expect::System(Role::Registry, identity.trust_domain());
    let own = Credentials::from(identity.clone());
    if let Err(unreached) = grpc::reach(address, &own, &expect, CONNECT.min(timeout)).await {
        return Answer::Unreached(unreached);
    }
    let client = match Client::dial(&[address.to_owned()], identity.clone(), timeout).await {
        Ok(client) => client,
        Err(failure) => return Answer::Refused(failure.to_string()),
    };
    let told = client
        .call(|mut admin| async move { admin.diagnose(DiagnoseRequest {}).await })
        .await;
    match told {
        Ok(facts) => Answer::Facts {
            // The node read its clock last, so that only the way back lies between.
            ahead_ms: facts.wall_ms.saturating_sub(clock::wall().0),
            facts: Box::new(facts),
        },
        Err(failure) => Answer::Refused(failure.to_string()),
    }
}
