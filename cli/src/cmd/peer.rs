//! `isthmus peer`: who this region federates with, and what it takes from whom.

use proto::admin::v1::{
    CreatePeerTokenRequest, ImportPolicy, JoinPeerRequest, Peer, PeerList, RemovePeerRequest, RepairPeerRequest,
};

use super::Context;
use crate::{
    args::PeerCommand,
    failure::Outcome,
    render::{Table, millis},
};

pub(super) async fn run(context: &Context, command: PeerCommand) -> Outcome {
    match command {
        PeerCommand::Token { for_region, ttl } => {
            let request = CreatePeerTokenRequest {
                ttl_seconds: ttl.as_secs().max(1),
                for_region,
            };
            let client = context.client().await?;
            let token = client
                .call(|mut admin| async move { admin.create_peer_token(request).await })
                .await?;
            context.printer.show(&token, |token| token.token.clone())
        }
        PeerCommand::Join { token } => {
            let client = context.client().await?;
            let request = JoinPeerRequest { token };
            let peer = client
                .call(|mut admin| async move { admin.join_peer(request).await })
                .await?;
            context.printer.show(&peer, joined)
        }
        PeerCommand::List => {
            let client = context.client().await?;
            let read = client.read().unwrap_or_default();
            let peers = client
                .call(|mut admin| async move { admin.list_peers(read).await })
                .await?;
            context.printer.show(&peers, listed)
        }
        PeerCommand::Remove { region } => {
            let client = context.client().await?;
            let request = RemovePeerRequest { region: region.clone() };
            let done = client
                .call(|mut admin| async move { admin.remove_peer(request).await })
                .await?;
            context.printer.show(&done, |_| {
                format!("{region} is no peer any more; run `isthmus peer remove` there too")
            })
        }
        PeerCommand::Repair { region } => {
            let client = context.client().await?;
            let request = RepairPeerRequest { region: region.clone() };
            let done = client
                .call(|mut admin| async move { admin.repair_peer(request).await })
                .await?;
            context.printer.show(&done, |_| {
                format!("a new snapshot of {region} is asked for; `isthmus status` says when they agree")
            })
        }
        PeerCommand::Accept { region, all, services } => {
            let client = context.client().await?;
            let policy = ImportPolicy {
                peer: region,
                all,
                services,
            };
            let text = format!("{} from {}", imports(&policy), policy.peer);
            let done = client
                .call(|mut admin| async move { admin.put_import_policy(policy).await })
                .await?;
            context.printer.show(&done, |_| format!("this region takes {text}"))
        }
    }
}

fn joined(peer: &Peer) -> String {
    format!(
        "{} (trust domain {}) is a peer now\n\
         nothing is visible to it yet: offer services with `isthmus export SERVICE --to {}`",
        peer.region, peer.trust_domain, peer.region
    )
}

fn listed(list: &PeerList) -> String {
    let mut text = table(&list.peers)
        .text("no peers; make a token with `isthmus peer token` in one region and join with it in another");
    for peer in list.peers.iter().filter(|peer| !peer.divergence.is_empty()) {
        let (region, differs) = (&peer.region, &peer.divergence);
        text.push_str(&format!(
            "\n! {region}: what is held differs from what it shows ({differs}); run isthmus peer repair {region}"
        ));
    }
    text
}

/// Peers with lag and age; also part of `status`.
pub(super) fn table(peers: &[Peer]) -> Table {
    let mut table = Table::new(&[
        "PEER",
        "TRUST DOMAIN",
        "LINK",
        "RTT",
        "HEARD",
        "HOLDS",
        "IMPORTED",
        "TAKES",
    ]);
    for peer in peers {
        let link = if peer.connected {
            "connected".to_owned()
        } else if peer.last_error.is_empty() {
            "down".to_owned()
        } else {
            format!("down: {}", peer.last_error)
        };
        table.row([
            peer.region.clone(),
            peer.trust_domain.clone(),
            match peer.divergence.is_empty() {
                true => link,
                false => format!("{link}, differs: {}", peer.divergence),
            },
            round_trip(peer.round_trip_us),
            peer.age_ms
                .map_or_else(|| "never".to_owned(), |age| format!("{} ago", millis(age))),
            format!("r{}", peer.held_revision),
            peer.imported_endpoints.to_string(),
            peer.import.as_ref().map(imports).unwrap_or_default(),
        ]);
    }
    table
}

fn round_trip(us: u64) -> String {
    match us {
        0 => String::new(),
        1..1_000 => format!("{us}us"),
        _ => format!("{:.1}ms", us as f64 / 1e3),
    }
}

fn imports(policy: &ImportPolicy) -> String {
    match (policy.all, policy.services.as_slice()) {
        (true, _) => "everything".to_owned(),
        (false, []) => "nothing".to_owned(),
        (false, services) => services.join(","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_link_shows_its_age_and_why() {
        let peer = Peer {
            region: "us".into(),
            trust_domain: "us".into(),
            connected: false,
            age_ms: Some(4_200),
            last_error: "connection refused".into(),
            import: Some(ImportPolicy {
                peer: "us".into(),
                all: true,
                services: vec![],
            }),
            ..Peer::default()
        };
        let text = table(&[peer]).text("none");
        assert!(text.contains("down: connection refused"), "{text}");
        assert!(text.contains("4.2s ago") && text.contains("everything"), "{text}");
    }

    #[test]
    fn divergence_is_shown_with_the_command_that_mends_it() {
        let peer = Peer {
            region: "us".into(),
            connected: true,
            divergence: "endpoints since r41".into(),
            ..Peer::default()
        };
        let list = PeerList {
            peers: vec![peer],
            ..PeerList::default()
        };
        let text = listed(&list);
        assert!(text.contains("connected, differs: endpoints since r41"), "{text}");
        assert!(text.contains("run isthmus peer repair us"), "{text}");
    }

    #[test]
    fn peer_never_heard_is_not_zero_milliseconds_old() {
        let text = table(&[Peer::default()]).text("none");
        assert!(text.contains("never"), "{text}");
    }
}
