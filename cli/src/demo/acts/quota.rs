//! A tenant goes over its quota and is refused; another one does not notice.

use mesh::runtime::clock;

use super::Stage;
use crate::{
    demo::{LIMITED, LIMITED_RATE, URL, load::Load},
    failure::Outcome,
};

/// Times the quota that the limited tenant tries.
const GREED: u32 = 4;

pub(super) async fn play(stage: &mut Stage<'_>) -> Outcome {
    let asked = LIMITED_RATE * GREED;
    stage.display.act(
        "quota",
        &format!("{LIMITED} may send {LIMITED_RATE} requests/s and sends {asked}; the other tenant goes on"),
    );
    let begun = clock::now();
    let greed = Load {
        proxy: stage.lab.caller(LIMITED)?.outbound,
        url: URL,
        rate: asked,
    };
    let stop = stage.stop.child();
    let limited = greed.start(&stage.tasks, &stop);
    stage.hold(8).await?;
    stop.order();
    let took = begun.elapsed();
    let limited = limited.total(clock::now());
    let figures = stage.note("quota", begun, None);
    let served: u64 = limited.served.values().sum();
    stage.display.say(&format!(
        "  {LIMITED}: {served} served, {} refused with 429, {} failed",
        limited.refused, limited.failed
    ));
    if let Some(act) = stage.report.acts.last_mut() {
        act.refused = Some(limited.refused);
    }
    // The rate, and a second's worth of burst; a tenth for the edges of the measurement.
    let most = f64::from(LIMITED_RATE) * (took.as_secs_f64() + 1.0) * 1.1;
    stage.report.expect((served as f64) <= most, || {
        format!("quota: {LIMITED} got {served}; at most {most:.0} were allowed")
    });
    stage.report.expect(limited.refused > 0, || {
        format!("quota: nothing of {LIMITED} was refused")
    });
    stage.report.expect(limited.failed == 0, || {
        format!("quota: {} of {LIMITED} failed", limited.failed)
    });
    stage.report.expect(figures.failed + figures.refused == 0, || {
        format!(
            "quota: the other tenant lost {} requests",
            figures.failed + figures.refused
        )
    });
    Ok(())
}
