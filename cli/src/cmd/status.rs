//! `isthmus status`: the state of a region's registry on one screen, and what needs an operator.

mod watch;

use proto::admin::v1::{Status, StatusRequest};

use super::{Context, peer};
use crate::{
    connect::Client,
    failure::Outcome,
    render::{Table, count, millis},
};

pub(super) async fn run(context: &Context, watch: bool) -> Outcome {
    if watch {
        return watch::run(context).await;
    }
    let client = context.client().await?;
    let status = ask(&client).await?;
    context.printer.show(&status, text)
}

async fn ask(client: &Client) -> Outcome<Status> {
    let request = StatusRequest { read: client.read() };
    client
        .call(|mut admin| async move { admin.get_status(request).await })
        .await
}

fn text(status: &Status) -> String {
    let position = status.position.clone().unwrap_or_default();
    let consistency = if position.linearizable { "linearizable" } else { "local" };
    let mut text = format!(
        "region {}  trust domain {}  version {}\nrevision {} ({consistency}, {} old, from node {})  {}, {}\n\n",
        position.region,
        status.trust_domain,
        status.version,
        position.revision,
        millis(position.age_ms),
        position.node,
        count(status.services, "service"),
        count(status.endpoints, "endpoint"),
    );
    if status.unverified_endpoints > 0 {
        text.push_str(&format!(
            "{} unverified\n\n",
            count(status.unverified_endpoints, "endpoint")
        ));
    }
    text.push_str(&nodes(status).text("no nodes"));
    text.push('\n');
    text.push_str(&peer::table(&status.peers).text("no peers\n"));
    text.push('\n');
    text.push_str(&gateways(status).text("no gateways\n"));
    text.push('\n');
    text.push_str(&subscribers(status).text("no subscribers on this node\n"));
    for warning in &status.warnings {
        text.push_str(&format!("\n! {warning}"));
    }
    text
}

fn nodes(status: &Status) -> Table {
    let mut table = Table::new(&["NODE", "ROLE", "ZONE", "STATE", "LAG", "API", "RAFT"]);
    for node in &status.nodes {
        let role = match (node.leader, node.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        table.row([
            node.id.to_string(),
            role.to_owned(),
            node.zone.clone(),
            match (node.reachable, node.diverged) {
                (true, false) => "up",
                (true, true) => "up, differs",
                (false, _) => "down",
            }
            .to_owned(),
            node.lag.map(|lag| lag.to_string()).unwrap_or_default(),
            node.api_address.clone(),
            node.raft_address.clone(),
        ]);
    }
    table
}

fn gateways(status: &Status) -> Table {
    let mut table = Table::new(&["GATEWAY", "REGION", "CLUSTER", "ADDRESS", "STATE"]);
    for gateway in &status.gateways {
        let state = gateway
            .state()
            .as_str_name()
            .trim_start_matches("ENDPOINT_STATE_")
            .to_ascii_lowercase();
        table.row([
            gateway.id.clone(),
            gateway.region.clone(),
            gateway.cluster.clone(),
            gateway.address.clone(),
            state,
        ]);
    }
    table
}

fn subscribers(status: &Status) -> Table {
    let mut table = Table::new(&["SUBSCRIBER", "HOLDS", "LAG"]);
    for subscriber in &status.subscribers {
        table.row([
            subscriber.name.clone(),
            format!("r{}", subscriber.acknowledged_revision),
            millis(subscriber.lag_ms),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use proto::admin::v1::{Node, Position};

    use super::*;

    #[test]
    fn status_names_leader_dead_node_and_warnings() {
        let node = |id, leader, reachable| Node {
            id,
            leader,
            reachable,
            voter: true,
            ..Node::default()
        };
        let status = Status {
            position: Some(Position {
                region: "eu".into(),
                revision: 41,
                ..Position::default()
            }),
            nodes: vec![node(1, true, true), node(2, false, false)],
            warnings: vec!["node 2 is down: replace it with `isthmus registry node-token`".into()],
            ..Status::default()
        };
        let text = text(&status);
        assert!(text.starts_with("region eu"), "{text}");
        assert!(text.contains("revision 41 (local"), "{text}");
        let row = |start: &str| {
            text.lines()
                .find(|line| line.trim_start().starts_with(start))
                .unwrap_or_default()
                .to_owned()
        };
        assert!(row("1 ").contains("leader") && row("1 ").contains("up"), "{text}");
        assert!(row("2 ").contains("voter") && row("2 ").contains("down"), "{text}");
        assert!(text.contains("! node 2 is down"), "{text}");
    }
}
