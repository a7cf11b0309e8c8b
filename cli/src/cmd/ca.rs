//! `isthmus ca`: the region's certificate authority, and the change of its root.

use proto::admin::v1::{AuthorityStatus, RotateAuthorityRequest};

use super::Context;
use crate::{args::CaCommand, failure::Outcome};

pub(super) async fn run(context: &Context, command: CaCommand) -> Outcome {
    let client = context.client().await?;
    match command {
        CaCommand::Rotate => {
            let request = RotateAuthorityRequest {};
            let done = client
                .call(|mut admin| async move { admin.rotate_authority(request).await })
                .await?;
            context.printer.show(&done, |_| {
                "a new root is ordered; `isthmus ca status` says how far it is, and for whom it waits".to_owned()
            })
        }
        CaCommand::Status => {
            let read = client.read().unwrap_or_default();
            let status = client
                .call(|mut admin| async move { admin.get_authority(read).await })
                .await?;
            context.printer.show(&status, text)
        }
    }
}

fn text(status: &AuthorityStatus) -> String {
    let seconds = u64::try_from(status.issuing_ends_ms / 1000).unwrap_or(0);
    let ends = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let anchors = if status.anchors == 1 { "anchor" } else { "anchors" };
    let mut text = format!(
        "issuing certificate until {}\nbundle {} with {} {anchors}\n",
        humantime::format_rfc3339_seconds(ends),
        status.sequence,
        status.anchors,
    );
    if !status.stage.is_empty() {
        text.push_str(&format!("change of the root: {}\n", status.stage));
    }
    if !status.waits_for.is_empty() {
        text.push_str(&format!("waits for {}\n", status.waits_for.join(", ")));
    }
    text.push_str(&status.next);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_its_stage_and_for_whom_it_waits() {
        let status = AuthorityStatus {
            issuing_ends_ms: 1_800_000_000_000,
            anchors: 2,
            sequence: 7,
            stage: "published".into(),
            waits_for: vec!["us".into()],
            next: "waits".into(),
            ..AuthorityStatus::default()
        };
        let text = text(&status);
        for part in ["2027-01-15", "bundle 7 with 2 anchors", "published", "waits for us"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
