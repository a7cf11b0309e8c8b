//! `isthmus status --watch` into a pipe: a line for each change, one for the loss of the registry, and a quiet end.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tests::{World, executable};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

async fn until(lines: &mut Lines<BufReader<ChildStdout>>, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let reading = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if is(&value) {
                return value;
            }
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await;
    read.unwrap_or_else(|_| panic!("no line in which {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_a_line_and_the_loss_of_the_registry_is_survived() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    let mut child = Command::new(executable())
        .args([
            "status",
            "--watch",
            "--timeout",
            "2s",
            "--registry",
            &region.addresses()[0],
        ])
        .arg("--credentials")
        .arg(region.node_dir(1).join("operator"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = until(&mut lines, "the region is named", |line| {
        line["position"]["region"] == "west"
    })
    .await;
    let revision = first["position"]["revision"].as_u64().unwrap();

    region.admin().await.tenant("acme", 5.0, 5.0).await.unwrap();
    let newer = |line: &Value| line["position"]["revision"].as_u64().is_some_and(|now| now > revision);
    until(&mut lines, "the revision is newer", newer).await;

    region.registry().part.kill().await;
    let lost = until(&mut lines, "the loss is told", |line| line.get("unreachable").is_some()).await;
    assert!(
        lost["unreachable"].as_str().unwrap().contains("not reachable"),
        "{lost}"
    );
    region.registry().part.start().await;
    until(&mut lines, "it is back", |line| line["position"]["region"] == "west").await;

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), child.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.code(), Some(0), "Ctrl-C is the way to end it");
}
