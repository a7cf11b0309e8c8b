//! Under kills, pauses, cuts and full disks the region's reads and writes are those of one register each.

use std::time::Duration;

use tests::{
    executable,
    linear::{Outcome, Plan, Program, run},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_under_faults_is_linearizable() {
    let target = executable().parent().unwrap().join("linear-runs");
    let plan = Plan {
        program: Program {
            path: executable(),
            prefix: Vec::new(),
        },
        span: Duration::from_secs(25),
        seed: fastrand::u64(..1 << 32),
        target,
        clients: 6,
        stale: false,
    };
    match Box::pin(run(&plan)).await.unwrap() {
        Outcome::Skipped(why) => eprintln!("skipped: {why}"),
        Outcome::Judged { good, report, folder } => {
            eprintln!("{report}");
            assert!(good, "see {}:\n{report}", folder.display());
        }
    }
}
