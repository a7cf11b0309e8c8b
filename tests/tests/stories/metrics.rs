//! The reference of metrics is what the daemons show: names, kinds, labels and help texts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use tests::{Plan, World, eventually, http};

const PAGE: &str = "docs/reference/metrics.md";
const HEAD: &str = "\
# Metrics

What each daemon shows on `/metrics`, in Prometheus' text format. Generated from running daemons and compared with them by
`cargo test --workspace --test stories -- metrics`. Times are in seconds; histograms of times that compare the clocks of two
machines say so. From a change's proposal to its use:

`isthmus_raft_queue_seconds` → `isthmus_raft_sync_seconds` → `isthmus_raft_commit_seconds` → `isthmus_raft_apply_seconds` →
`isthmus_watch_commit_to_published_seconds` → `isthmus_watch_commit_to_sent_seconds` →
`isthmus_watch_commit_to_applied_seconds` (as the registry measures it; `isthmus_view_commit_to_applied_seconds` in the proxy).
Towards another region: `isthmus_federation_commit_to_exported_seconds`, then there `isthmus_federation_import_seconds` and
`isthmus_federation_commit_to_imported_seconds`, then here `isthmus_federation_acknowledge_seconds`; what follows there are the
steps above. From a far region's commit to its use in a proxy is the sum of `isthmus_federation_commit_to_imported_seconds` and
`isthmus_view_commit_to_applied_seconds` there, as exact as the clocks of the two regions agree.

| metric | kind | labels | shown by | what |
|---|---|---|---|---|
";

/// One metric as the pages show it.
#[derive(Default)]
struct Shown {
    kind: String,
    labels: BTreeSet<String>,
    by: BTreeSet<&'static str>,
    help: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Reads a page into the table.
fn read(page: &str, by: &'static str, shown: &mut BTreeMap<String, Shown>) {
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        }
    }
    for (name, kind) in &kinds {
        let entry = shown.entry((*name).to_owned()).or_default();
        (*kind).clone_into(&mut entry.kind);
        entry.by.insert(by);
        helps.get(name).copied().unwrap_or_default().clone_into(&mut entry.help);
        let is_of = |line: &&str| {
            let full = line.split(['{', ' ']).next().unwrap_or_default();
            full.strip_prefix(name)
                .is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        for line in page.lines().filter(is_of) {
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            let labels = labels.map(|(labels, _)| labels.split("\",")).into_iter().flatten();
            let names = labels.filter_map(|label| Some(label.split_once('=')?.0.trim().to_owned()));
            entry.labels.extend(names.filter(|label| label != "le"));
        }
    }
}

fn row(name: &str, shown: &Shown) -> String {
    let labels: Vec<_> = shown.labels.iter().map(|label| format!("`{label}`")).collect();
    let by: Vec<_> = shown.by.iter().copied().collect();
    format!(
        "| `{name}` | {} | {} | {} | {} |",
        shown.kind,
        labels.join(", "),
        by.join(", "),
        shown.help
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_of_metrics_is_what_daemons_show() {
    let world = World::regions(["west", "east"]).await;
    let (west, east) = (world.west(), world.east());
    let pay = west.workload(Plan::http("pay-1")).await;
    west.admin().await.export("pay.shop", &[]).await;
    let web = east.caller(Plan::new("web")).await;
    eventually("a request crosses the regions", async || {
        web.call("pay.shop").await.map(drop)
    })
    .await;
    // What is counted only when it happens.
    let _ = web.get("no-such-service.shop").await;
    east.admin().await.tenant("shop", 0.02, 1.0).await.unwrap();
    eventually("the quota is spent", async || {
        web.get("pay.shop").await.is_ok_and(|reply| reply.status == 429)
    })
    .await;

    let pages = [
        ("registry", west.registry().http),
        ("registry", east.registry().http),
        ("gateway", west.gateway().pages),
        ("proxy", web.pages),
        ("proxy", pay.pages),
    ];
    let mut shown = BTreeMap::new();
    for (by, address) in pages {
        let (status, page) = http::page(address, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{by}");
        read(&page, by, &mut shown);
    }
    assert!(shown.len() > 40, "{:?}", shown.keys());
    let odd: Vec<_> = shown
        .iter()
        .filter(|(name, shown)| is_odd(name, shown))
        .map(|(name, _)| name)
        .collect();
    assert!(
        odd.is_empty(),
        "not named or described as Prometheus' users expect: {odd:?}"
    );

    let mut rows: BTreeMap<String, String> = shown
        .iter()
        .map(|(name, shown)| (name.clone(), row(name, shown)))
        .collect();
    let old = fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    // A row of what did not happen in this story stays.
    for line in old.lines().filter(|line| line.starts_with("| `isthmus_")) {
        let name = line.split('`').nth(1).unwrap().to_owned();
        rows.entry(name).or_insert_with(|| line.to_owned());
    }
    let mut page = HEAD.to_owned();
    for row in rows.values() {
        writeln!(page, "{row}").unwrap();
    }
    if page != old {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.md");
        fs::write(&new, page).unwrap();
        panic!(
            "{PAGE} is not what daemons show: look at it, then cp {} {PAGE}",
            new.display()
        );
    }
}

fn is_odd(name: &str, shown: &Shown) -> bool {
    let counter = shown.kind == "counter";
    let histogram = shown.kind == "histogram";
    !name.starts_with("isthmus_")
        || counter != name.ends_with("_total")
        || histogram && !name.ends_with("_seconds")
        || shown.help.is_empty()
}
