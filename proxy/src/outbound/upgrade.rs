//! WebSocket and other upgrades: inside the mesh they travel as extended CONNECT (RFC 8441) on the same HTTP/2 connections
//! as requests; the far proxy speaks HTTP/1.1 upgrade with its application again.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::{
    ext::Protocol,
    upgrade::{OnUpgrade, on},
};
use hyper_util::rt::TokioIo;
use mesh::runtime::OnExit;
use tracing::debug;

use super::{
    Shared,
    answer::Refusal,
    connect::connect_http,
    dial::chain_text,
    http::{Answer, EXTENDED, empty},
    route::Route,
};
use crate::hop::{body::Carried, headers::strip_hop_by_hop, relay::relay};

/// Forwards a request that wants to become a tunnel of `protocol`. It is sent once: what follows is no request any more.
pub(crate) async fn forward(
    shared: &Arc<Shared>,
    route: &Arc<Route>,
    mut parts: Parts,
    protocol: &str,
) -> Result<Answer, Refusal> {
    let extended = parts.extensions.remove::<Protocol>().is_some();
    let Some(near) = parts.extensions.remove::<OnUpgrade>() else {
        return Err(Refusal::Bad("this connection cannot be upgraded".to_owned()));
    };
    let (lease, member) = connect_http(shared, route).await?;
    if !lease.can_upgrade(shared.settings.connect_timeout).await {
        let text = format!("endpoint {} takes no upgrades (RFC 8441)", member.endpoint.id);
        return Err(Refusal::NoUpgrade(text));
    }
    let in_flight = member.record.begin();
    let began = shared.health.clock.elapsed();
    if parts.method != Method::GET && !extended {
        return Err(Refusal::NoUpgrade("only GET can be upgraded".to_owned()));
    }
    parts.method = EXTENDED;
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut request = Request::from_parts(parts, Carried::empty());
    request.extensions_mut().insert(Protocol::from(protocol));
    let mut response = lease.send(request).await.map_err(|error| Refusal::Broken {
        target: route.label(),
        reason: chain_text(error.error()),
    })?;
    shared.health.succeeded(&member.record, began);
    member.meters.answered(response.status());
    strip_hop_by_hop(response.headers_mut());
    if response.status() != StatusCode::OK {
        let (parts, body) = response.into_parts();
        let guard = super::http::Serving::new(lease, in_flight);
        let mut answer = http::Response::from_parts(parts, Carried::guarded(body, guard));
        // What follows on this connection was never screened.
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Ok(answer);
    }
    let far = on(&mut response);
    let mut answer = empty(if extended {
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    });
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    if !extended {
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let protocol = HeaderValue::from_str(protocol)
            .map_err(|_| Refusal::Bad("the protocol to upgrade to is no token".to_owned()))?;
        answer.headers_mut().insert(header::UPGRADE, protocol);
    }
    let idle = shared.settings.tunnel_idle;
    let (guard, stop) = (shared.drain.guard(), shared.tasks.stop().clone());
    shared.tasks.spawn("outbound-upgrade", OnExit::Ignore, async move {
        let _held = (guard, lease, in_flight);
        let both = async {
            let (near, far) = tokio::try_join!(near, far).map_err(std::io::Error::other)?;
            relay(TokioIo::new(near), TokioIo::new(far), idle).await
        };
        let ended = both.await;
        debug!(?ended, stopping = stop.is_ordered(), "upgraded connection ended");
    });
    Ok(answer)
}
