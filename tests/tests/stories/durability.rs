//! What was acknowledged is there after the sudden death of every node.

use cli::demo::lab::{Lab, Spec};
use mesh::runtime::clock;
use std::time::Duration;
use tests::{Admin, executable};

/// Writes under way while the nodes die.
const SPAN: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_write_survives_kill_9_of_every_node() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec {
        executable: executable(),
        regions: vec!["west".to_owned()],
        nodes: 3,
        workloads: 0,
        callers: Vec::new(),
        log: "warn".to_owned(),
        settings: String::new(),
    };
    let mut lab = Lab::plan(&folder.path().join("lab"), &spec).unwrap();
    lab.form(|_| {}).await.unwrap();

    let admin = Admin::new(lab.regions[0].admin().await.unwrap());
    let begun = clock::now();
    let mut acknowledged = Vec::new();
    let writing = async {
        loop {
            let name = format!("tenant-{}", acknowledged.len());
            if admin.tenant(&name, 10.0, 10.0).await.is_err() {
                break;
            }
            acknowledged.push(name);
        }
    };
    let region = &mut lab.regions[0];
    let killing = async {
        // At a time that no write knows of.
        tokio::time::sleep_until(begun + SPAN).await;
        for node in &mut region.nodes {
            node.process.kill_now();
        }
        for node in &mut region.nodes {
            node.process.kill().await;
        }
    };
    futures_util::future::join(writing, killing).await;
    assert!(!acknowledged.is_empty(), "nothing was acknowledged in time");

    lab.regions[0].restart().await.unwrap();
    let admin = Admin::new(lab.regions[0].admin().await.unwrap());
    let tenants = admin.tenants().await.unwrap();
    let there: Vec<_> = tenants
        .into_iter()
        .filter_map(|row| row.tenant)
        .map(|tenant| tenant.id)
        .collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
    assert!(
        lost.is_empty(),
        "of {} acknowledged writes these are lost: {lost:?}",
        acknowledged.len()
    );
    lab.end().await;
}
