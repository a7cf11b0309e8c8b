//! A Raft leader dies, and writes go on as soon as another one is elected.

use std::time::Duration;

use mesh::runtime::clock;
use proto::admin::v1::StatusRequest;

use super::Stage;
use crate::{
    demo::lab::{Region, set_tenant},
    failure::{Exit, Failure, Outcome},
};

/// An election takes about a second; a busy machine may need a second one.
const WRITES_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

pub(super) async fn play(stage: &mut Stage<'_>) -> Outcome {
    let Some(region) = stage.lab.regions.get(1) else {
        return Ok(());
    };
    let (name, leader) = (region.name.clone(), leader(region).await?);
    stage.display.act(
        "leader-killed",
        &format!("kill -9 of {name}'s Raft leader; writes go on"),
    );
    let begun = clock::now();
    let region = stage.lab.region(&name)?;
    region.nodes[leader].process.kill().await;
    let died = region.nodes[leader].process.name.clone();
    let resumed = loop {
        // A new connection each time: the last one may have led to the node that died.
        if write(region).await.is_ok() {
            break begun.elapsed();
        }
        if begun.elapsed() > WRITES_WITHIN * 3 {
            return Err(Failure::text(
                Exit::Failed,
                format!("no write in {name} after {died} was killed"),
            ));
        }
        tokio::time::sleep(RETRY).await;
    };
    stage.hold(5).await?;
    // It catches up from its log.
    stage.lab.region(&name)?.restart().await?;
    let figures = stage.note("leader-killed", begun, Some(resumed));
    stage.report.expect(resumed < WRITES_WITHIN, || {
        format!("leader-killed: no write for {resumed:?}")
    });
    stage.report.expect(figures.failed == 0, || {
        format!("leader-killed: {} requests failed", figures.failed)
    });
    Ok(())
}

async fn write(region: &Region) -> Outcome {
    let admin = region.admin().await?;
    set_tenant(&admin, "initech", 100.0).await
}

/// Which of the region's nodes leads.
async fn leader(region: &Region) -> Outcome<usize> {
    let admin = region.admin().await?;
    let request = StatusRequest { read: admin.read() };
    let status = admin
        .call(|mut admin| async move { admin.get_status(request).await })
        .await?;
    let address = status
        .nodes
        .iter()
        .find(|node| node.leader)
        .map(|node| node.api_address.clone());
    let position = region
        .nodes
        .iter()
        .position(|node| Some(node.api.to_string()) == address);
    position.ok_or_else(|| Failure::text(Exit::Failed, format!("{} has no leader among its nodes", region.name)))
}
