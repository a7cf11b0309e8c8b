//! `isthmus token`: what a workload or gateway proves itself with once, to get its first certificate.

use proto::admin::v1::CreateTokenRequest;

use super::Context;
use crate::{args::TokenArgs, failure::Outcome};

pub(super) async fn run(context: &Context, args: TokenArgs) -> Outcome {
    let request = CreateTokenRequest {
        namespace: args.namespace,
        service_account: args.service_account,
        ttl_seconds: args.ttl.as_secs().max(1),
        uses: args.uses,
    };
    let client = context.client().await?;
    let token = client
        .call(|mut admin| async move { admin.create_token(request).await })
        .await?;
    // One word alone, so that `$(isthmus token …)` is the token.
    context.printer.show(&token, |token| token.token.clone())
}
