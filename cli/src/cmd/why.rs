//! `isthmus why`: which endpoints a request could go to, what share each has, and the rule that decided. The answer is
//! computed by the same code that routes.

use proto::admin::v1::{WhyReply, WhyRequest};

use super::{Context, services};
use crate::{args::WhyArgs, failure::Outcome, render::Table};

pub(super) async fn run(context: &Context, args: WhyArgs) -> Outcome {
    let client = context.client().await?;
    let request = WhyRequest {
        read: client.read(),
        source: args.source,
        destination: args.destination,
    };
    let reply = client.call(|mut admin| async move { admin.why(request).await }).await?;
    context.printer.show(&reply, text)
}

fn text(reply: &WhyReply) -> String {
    let mut table = Table::new(&[
        "SHARE",
        "TIER",
        "ENDPOINT",
        "LOCALITY",
        "STATE",
        "VIA GATEWAY",
        "REASON",
    ]);
    for candidate in &reply.candidates {
        let Some(endpoint) = &candidate.endpoint else { continue };
        table.row([
            format!("{:.1}%", candidate.percent),
            candidate
                .tier
                .map_or_else(|| "excluded".to_owned(), |tier| tier.to_string()),
            endpoint.id.clone(),
            services::locality(endpoint),
            services::state(endpoint),
            candidate.via_gateway.clone(),
            candidate.reason.clone(),
        ]);
    }
    let rows = table.text("no candidates");
    let position = reply.position.clone().unwrap_or_default();
    format!(
        "{}\n\n{rows}\nas region {} sees it at revision {}, {} old",
        reply.verdict,
        position.region,
        position.revision,
        crate::render::millis(position.age_ms)
    )
}

#[cfg(test)]
mod tests {
    use proto::{admin::v1::Candidate, registry::v1::Endpoint};

    use super::*;

    #[test]
    fn verdict_comes_first_and_an_excluded_candidate_says_why() {
        let reply = WhyReply {
            verdict: "same region has 2 ready endpoints".into(),
            candidates: vec![Candidate {
                endpoint: Some(Endpoint {
                    id: "ep-1".into(),
                    region: "us".into(),
                    zone: "a".into(),
                    ..Endpoint::default()
                }),
                reason: "region us is evacuated by drill d1".into(),
                ..Candidate::default()
            }],
            ..WhyReply::default()
        };
        let text = text(&reply);
        assert!(text.starts_with("same region has 2 ready endpoints"), "{text}");
        assert!(text.contains("excluded") && text.contains("drill d1"), "{text}");
    }
}
