//! Who may call what: the one table of all gRPC methods and HTTP pages of a registry node. A method that is not in it is
//! denied to everybody. What a handler checks beyond its line (a proxy registers its own workload only) the line says in
//! words. Pure.

use std::fmt;

use mesh::identity::{Role, SpiffeId, TrustDomain, system};
use thiserror::Error;

/// What a caller is to this region, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Showed no certificate: it may have a token.
    Newcomer,
    /// A workload of this region.
    Workload,
    /// A gateway of this region.
    Gateway,
    /// Who runs this region.
    Operator,
    /// A registry node of this region.
    Registry,
    /// A registry node of another region that is trusted.
    Peer,
    /// Any other certificate that is good: of another region, or none of the kinds above.
    Foreigner,
}

impl Who {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Newcomer,
        Self::Workload,
        Self::Gateway,
        Self::Operator,
        Self::Registry,
        Self::Peer,
        Self::Foreigner,
    ];

    /// What the holder of this identity is to the region of trust domain `own`.
    #[must_use]
    pub fn of(id: Option<&SpiffeId>, own: &TrustDomain) -> Self {
        let Some(id) = id else { return Self::Newcomer };
        match (id.trust_domain() == *own, system::role(id)) {
            (true, Some(Role::Registry)) => Self::Registry,
            (true, Some(Role::Gateway)) => Self::Gateway,
            (true, Some(Role::Operator)) => Self::Operator,
            (false, Some(Role::Registry)) => Self::Peer,
            (true, None) if is_workload(id) => Self::Workload,
            (true, None) | (false, Some(Role::Gateway | Role::Operator) | None) => Self::Foreigner,
        }
    }

    /// Its name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Newcomer => "newcomer",
            Self::Workload => "workload",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
            Self::Registry => "registry",
            Self::Peer => "peer",
            Self::Foreigner => "foreigner",
        }
    }
}

/// The namespace of the infrastructure has no workloads.
fn is_workload(id: &SpiffeId) -> bool {
    id.workload()
        .is_some_and(|(namespace, _)| namespace.as_str() != system::NAMESPACE)
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Changes nothing and shows no secret.
    Read,
    /// Everything else.
    Change,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// `/package.Service/Method`.
    pub method: &'static str,
    /// Who may.
    pub who: &'static [Who],
    /// What it does.
    pub act: Act,
    /// What the handler holds the caller to, for people.
    pub within: &'static str,
}

macro_rules! rules {
    ($($service:literal { $($method:literal $act:ident [$($who:ident)*] $within:literal)* })*) => {
        &[$($(Rule {
            method: concat!("/isthmus.", $service, "/", $method),
            who: &[$(Who::$who),*],
            act: Act::$act,
            within: $within,
        },)*)*]
    };
}

/// The table.
pub const RULES: &[Rule] = rules! {
    "registry.v1.Register" {
        "Attach" Change [Workload Gateway] "its own namespace, service account and workload id; a gateway itself"
    }
    "registry.v1.Watch" {
        "Subscribe" Read [Workload Gateway Operator] "what this region shows; a gateway what its cluster exports"
    }
    "registry.v1.Certificates" {
        "Issue" Change [Newcomer Workload Gateway Operator] "the identity of its token, or its own again"
    }
    "admin.v1.Admin" {
        "GetStatus" Read [Operator] ""
        "Diagnose" Read [Operator] ""
        "ListServices" Read [Operator] ""
        "ListEndpoints" Read [Operator] ""
        "Resolve" Read [Operator] ""
        "Why" Read [Operator] ""
        "ListTenants" Read [Operator] ""
        "PutTenant" Change [Operator] ""
        "RemoveTenant" Change [Operator] ""
        "ListExports" Read [Operator] ""
        "PutExport" Change [Operator] ""
        "RemoveExport" Change [Operator] ""
        "PutImportPolicy" Change [Operator] ""
        "CreateToken" Change [Operator] ""
        "CreatePeerToken" Change [Operator] ""
        "CreateNodeToken" Change [Operator] ""
        "JoinPeer" Change [Operator] ""
        "ListPeers" Read [Operator] ""
        "RemovePeer" Change [Operator] ""
        "RepairPeer" Change [Operator] ""
        "RotateAuthority" Change [Operator] ""
        "GetAuthority" Read [Operator] ""
        "RemoveNode" Change [Operator] ""
        "StartDrill" Change [Operator] ""
        "RenewDrill" Change [Operator] ""
        "EndDrill" Change [Operator] ""
        "ListDrills" Read [Operator] ""
        "ReleaseUnverified" Change [Operator] ""
        "SaveSnapshot" Change [Operator] "it holds the authority's key, so it is no mere read"
    }
    "raft.v1.Raft" {
        "AppendEntries" Change [Registry] "of the same life of the region"
        "Vote" Change [Registry] "of the same life of the region"
        "InstallSnapshot" Change [Registry] "of the same life of the region"
        "Propose" Change [Registry] "of the same life of the region"
        "ReadIndex" Read [Registry] "of the same life of the region"
        "Join" Change [Newcomer Registry] "with a node token"
    }
    "federation.v1.Federation" {
        "Accept" Change [Newcomer Peer] "with a peering token"
        "Exchange" Change [Peer] "what is exported to it; its own records only"
    }
};

/// The pages of the HTTP listener: plain, on loopback unless `listen.http` says otherwise, `GET` only, for whoever reaches it.
pub const PAGES: &[(&str, &str)] = &[
    ("/", "the list of pages"),
    ("/healthz", "whether the process is alive"),
    ("/healthz/ready", "readiness, where Istio's users look"),
    ("/readyz", "readiness"),
    ("/ready", "readiness"),
    ("/metrics", "Prometheus"),
    ("/view", "what proxies of this region route by"),
    ("/v1/status", "as `GetStatus`"),
    ("/v1/services", "as `ListServices`"),
    ("/v1/services/{service}/endpoints", "as `ListEndpoints`"),
    ("/v1/tenants", "as `ListTenants`"),
    ("/v1/exports", "as `ListExports`"),
    ("/v1/peers", "as `ListPeers`"),
    ("/v1/drills", "as `ListDrills`"),
    ("/v1/resolve", "as `Resolve`"),
    ("/v1/why", "as `Why`"),
];

/// A call that is not let through.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Denied {
    /// No line in the table.
    #[error("{0} is no method of this registry; is the caller's version newer?")]
    Unknown(String),
    /// The line names others.
    #[error("{} may not call {method}; it is for {needs}", shown(.caller.as_ref(), *.who))]
    NotYours {
        /// Who asked.
        caller: Option<SpiffeId>,
        /// What it is.
        who: Who,
        /// For what.
        method: &'static str,
        /// Who may.
        needs: String,
    },
}

fn shown(caller: Option<&SpiffeId>, who: Who) -> String {
    caller.map_or_else(
        || "a caller without certificate".to_owned(),
        |id| format!("{id} ({who})"),
    )
}

/// Decides about a call, and gives its line.
///
/// # Errors
/// Why not.
pub fn judge(caller: Option<&SpiffeId>, own: &TrustDomain, method: &str) -> Result<&'static Rule, Denied> {
    let rule = RULES.iter().find(|rule| rule.method == method);
    let rule = rule.ok_or_else(|| Denied::Unknown(method.chars().take(100).collect()))?;
    let who = Who::of(caller, own);
    if rule.who.contains(&who) {
        return Ok(rule);
    }
    let needs: Vec<_> = rule.who.iter().map(|who| needed(*who)).collect();
    Err(Denied::NotYours {
        caller: caller.cloned(),
        who,
        method: rule.method,
        needs: needs.join(" and "),
    })
}

const fn needed(who: Who) -> &'static str {
    match who {
        Who::Newcomer => "whoever has a token for it",
        Who::Workload => "workloads of this region",
        Who::Gateway => "gateways of this region",
        Who::Operator => {
            "the operator's certificate of this region (registry init wrote it below operator/ in its data_dir)"
        }
        Who::Registry => "registry nodes of this region",
        Who::Peer => "registry nodes of peers",
        Who::Foreigner => "anybody",
    }
}

/// The table as it stands in SECURITY.md.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| method | who may call it | what it is held to |\n|---|---|---|\n");
    for rule in RULES {
        let who: Vec<_> = rule.who.iter().map(|who| who.as_str()).collect();
        let method = rule.method.trim_start_matches("/isthmus.");
        text += &format!("| `{method}` | {} | {} |\n", who.join(", "), rule.within);
    }
    text += "\n| page | what it shows |\n|---|---|\n";
    for (path, what) in PAGES {
        text += &format!("| `{path}` | {what} |\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).expect("valid")
    }

    #[test]
    fn every_method_of_every_service_has_one_line() {
        for method in proto::METHODS {
            let lines = RULES.iter().filter(|rule| rule.method == *method).count();
            assert_eq!(lines, 1, "{method} needs a line in registry/src/api/rules.rs");
        }
        for rule in RULES {
            assert!(
                proto::METHODS.contains(&rule.method),
                "{} is no method any more",
                rule.method
            );
            assert!(
                !rule.who.is_empty() && !rule.who.contains(&Who::Foreigner),
                "{}",
                rule.method
            );
        }
    }

    #[test]
    fn an_identity_is_what_its_trust_domain_and_name_say() {
        let own = TrustDomain::parse("eu").expect("valid");
        assert_eq!(Who::of(None, &own), Who::Newcomer);
        for (text, who) in [
            ("spiffe://eu/ns/shop/sa/pay", Who::Workload),
            ("spiffe://eu/ns/shop/sa/operator", Who::Workload),
            ("spiffe://eu/ns/isthmus-system/sa/gateway", Who::Gateway),
            ("spiffe://eu/ns/isthmus-system/sa/operator", Who::Operator),
            ("spiffe://eu/ns/isthmus-system/sa/registry", Who::Registry),
            ("spiffe://us/ns/isthmus-system/sa/registry", Who::Peer),
            ("spiffe://us/ns/isthmus-system/sa/operator", Who::Foreigner),
            ("spiffe://us/ns/isthmus-system/sa/gateway", Who::Foreigner),
            ("spiffe://us/ns/shop/sa/pay", Who::Foreigner),
            ("spiffe://eu/ns/isthmus-system/sa/operator2", Who::Foreigner),
            ("spiffe://eu/isthmus-system/operator", Who::Foreigner),
            ("spiffe://eu", Who::Foreigner),
        ] {
            assert_eq!(Who::of(Some(&id(text)), &own), who, "{text}");
        }
    }

    #[test]
    fn only_operators_administer_and_only_registries_speak_raft() {
        let own = TrustDomain::parse("eu").expect("valid");
        for rule in RULES {
            if rule.method.contains(".admin.") {
                assert_eq!(rule.who, [Who::Operator], "{}", rule.method);
            }
            let for_registries = rule.method.contains(".raft.") || rule.method.contains(".federation.");
            let names_registries = rule.who.contains(&Who::Registry) || rule.who.contains(&Who::Peer);
            assert_eq!(for_registries, names_registries, "{}", rule.method);
        }
        let operator = id("spiffe://eu/ns/isthmus-system/sa/operator");
        let write = "/isthmus.admin.v1.Admin/PutExport";
        assert!(judge(Some(&operator), &own, write).is_ok());
        let denied = judge(Some(&id("spiffe://eu/ns/shop/sa/pay")), &own, write).expect_err("a workload");
        let text = denied.to_string();
        assert!(
            text.contains("spiffe://eu/ns/shop/sa/pay (workload)") && text.contains("operator's"),
            "{text}"
        );
        let unknown = judge(Some(&operator), &own, "/isthmus.admin.v1.Admin/Explode");
        assert!(matches!(unknown, Err(Denied::Unknown(_))));
    }
}
