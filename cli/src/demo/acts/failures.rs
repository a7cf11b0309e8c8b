//! Workloads die, a whole region dies, and it comes back. The caller and its proxy stay, on the view that they have.

use std::time::Duration;

use mesh::runtime::clock;

use super::{LOST_WITH_A_REGION_MAX, SHIFT_MAX, Stage};
use crate::{failure::Outcome, render::millis};

/// Served at home again means: nearly all of the last two seconds.
const HOME_AGAIN_PERCENT: f64 = 95.0;
const HOME_AGAIN: Duration = Duration::from_secs(2);

/// First one workload of the home region, then the others; then they come back.
pub(super) async fn workloads(stage: &mut Stage<'_>) -> Outcome {
    let home = stage.home();
    stage
        .display
        .act("workload-killed", &format!("kill -9 of one workload in {home}"));
    let begun = clock::now();
    let region = stage.lab.region(&home)?;
    let (first, others) = region.workloads.split_at_mut(1);
    for workload in first {
        workload.process.kill().await;
    }
    let mut rest = others
        .iter()
        .map(|workload| workload.process.name.clone())
        .collect::<Vec<_>>();
    stage.hold(6).await?;
    let one = stage.tally.window(begun, clock::now());
    stage.report.expect(one.failed == 0, || {
        format!("workload-killed: {} requests failed with one workload", one.failed)
    });
    stage
        .display
        .say(&format!("  {} failed; now the rest: {}", one.failed, rest.join(", ")));
    rest.clear();
    let killed = clock::now();
    let region = stage.lab.region(&home)?;
    for workload in &mut region.workloads {
        workload.process.kill_now();
    }
    for workload in &mut region.workloads {
        workload.process.kill().await;
    }
    stage.hold(8).await?;
    let shift = stage.tally.shift(killed, clock::now(), &home);
    stage
        .display
        .say("  started again; traffic comes home after the hold-down");
    stage.lab.region(&home)?.restart().await?;
    at_home(stage).await?;
    let figures = stage.note("workload-killed", begun, shift);
    stage.report.expect(figures.failed == one.failed, || {
        format!(
            "workload-killed: {} requests failed with all workloads",
            figures.failed - one.failed
        )
    });
    Ok(())
}

/// Everything in the home region at once.
pub(super) async fn region(stage: &mut Stage<'_>) -> Outcome {
    let home = stage.home();
    let text = format!("kill -9 of everything in {home}: workloads, gateway, all registry nodes");
    stage.display.act("region-killed", &text);
    let killed = clock::now();
    stage.lab.region(&home)?.kill().await;
    stage.hold(12).await?;
    let shift = stage.tally.shift(killed, clock::now(), &home);
    let figures = stage.note("region-killed", killed, shift);
    stage.report.expect(figures.failed <= LOST_WITH_A_REGION_MAX, || {
        format!(
            "region-killed: {} requests failed; promised are at most {LOST_WITH_A_REGION_MAX}",
            figures.failed
        )
    });
    let promised = shift.is_some_and(|shift| shift < SHIFT_MAX);
    stage.report.expect(promised, || match shift {
        Some(shift) => format!(
            "region-killed: callers noticed for {}; promised are {SHIFT_MAX:?}",
            millis(u64::try_from(shift.as_millis()).unwrap_or(u64::MAX))
        ),
        None => "region-killed: no region took over".to_owned(),
    });
    Ok(())
}

/// The home region starts from its disks.
pub(super) async fn failback(stage: &mut Stage<'_>) -> Outcome {
    let home = stage.home();
    stage.display.act(
        "failback",
        &format!("{home} starts again from its disks; traffic waits, then ramps"),
    );
    let begun = clock::now();
    stage.lab.region(&home)?.restart().await?;
    at_home(stage).await?;
    let returned = begun.elapsed();
    let figures = stage.note("failback", begun, Some(returned));
    stage.report.expect(figures.failed == 0, || {
        format!("failback: {} requests failed", figures.failed)
    });
    Ok(())
}

async fn at_home(stage: &mut Stage<'_>) -> Outcome {
    let home = stage.home();
    let what = format!("return of the traffic to {home}");
    stage
        .until(&what, HOME_AGAIN, |figures| figures.share(&home) >= HOME_AGAIN_PERCENT)
        .await
}
