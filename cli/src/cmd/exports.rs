//! `isthmus exports`, `export` and `unexport`: what this region offers to its peers. Nothing is offered by default.

use proto::admin::v1::{Export, ExportList, RemoveExportRequest};

use super::{Context, services::audience};
use crate::{
    args::ExportArgs,
    failure::{Exit, Failure, Outcome},
    render::Table,
};

pub(super) async fn list(context: &Context) -> Outcome {
    let client = context.client().await?;
    let read = client.read().unwrap_or_default();
    let exports = client
        .call(|mut admin| async move { admin.list_exports(read).await })
        .await?;
    context.printer.show(&exports, |list: &ExportList| {
        let mut table = Table::new(&["SERVICE", "TO"]);
        for export in &list.exports {
            table.row([export.service.clone(), audience(export)]);
        }
        table.text("nothing is exported; offer a service with `isthmus export SERVICE --to all`")
    })
}

pub(super) async fn put(context: &Context, args: ExportArgs) -> Outcome {
    let export = export(args)?;
    let text = format!("{} is offered to {}", export.service, audience(&export));
    let client = context.client().await?;
    let done = client
        .call(|mut admin| async move { admin.put_export(export).await })
        .await?;
    context.printer.show(&done, |_| text)
}

fn export(args: ExportArgs) -> Outcome<Export> {
    let to_all = args.to.iter().any(|to| to == "all");
    if to_all && args.to.len() > 1 {
        return Err(Failure::text(
            Exit::Usage,
            "--to: give either `all` or regions, not both",
        ));
    }
    Ok(Export {
        service: args.service,
        to_all,
        to: if to_all { Vec::new() } else { args.to },
        // The registry dates it.
        created_at_ms: 0,
    })
}

pub(super) async fn remove(context: &Context, service: String) -> Outcome {
    let client = context.client().await?;
    let request = RemoveExportRequest {
        service: service.clone(),
    };
    let done = client
        .call(|mut admin| async move { admin.remove_export(request).await })
        .await?;
    context
        .printer
        .show(&done, |_| format!("{service} is offered to nobody"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(regions: &[&str]) -> Outcome<Export> {
        export(ExportArgs {
            service: "pay.shop".into(),
            to: regions.iter().map(|&region| region.to_owned()).collect(),
        })
    }

    #[test]
    fn all_means_every_peer_and_excludes_names() {
        assert!(to(&["all"]).unwrap().to_all);
        assert_eq!(to(&["us", "ap"]).unwrap().to, ["us", "ap"]);
        assert_eq!(to(&["all", "us"]).unwrap_err().exit, Exit::Usage);
    }
}
