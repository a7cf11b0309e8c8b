//! Opaque bytes: a tunnel asked for by CONNECT, or a connection to a listener of its own. Balanced once, when it begins;
//! each tunnel has a TLS connection of its own to its endpoint.

use std::sync::Arc;

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mesh::{net::listen::reset_on_close, runtime::OnExit};
use tokio::net::TcpStream;
use tracing::{debug, info};

use super::{
    Shared,
    answer::Refusal,
    connect::connect_bytes,
    dial::Opened,
    http::{Answer, empty},
    record::InFlight,
};
use crate::hop::relay::relay;

/// Opens a tunnel for CONNECT. The answer comes when the endpoint is connected.
pub(crate) async fn tunnel(shared: &Arc<Shared>, authority: &str, upgrade: OnUpgrade) -> Result<Answer, Refusal> {
    let (opened, in_flight) = open(shared, authority).await?;
    let idle = shared.settings.tunnel_idle;
    let guard = shared.drain.guard();
    shared.tasks.spawn("outbound-tunnel", OnExit::Ignore, async move {
        let _held = (guard, in_flight);
        let near = match upgrade.await {
            Ok(near) => near,
            Err(error) => return debug!(%error, "the application left before its tunnel stood"),
        };
        let ended = relay(TokioIo::new(near), opened.stream, idle).await;
        debug!(?ended, "tunnel ended");
    });
    Ok(empty(StatusCode::OK))
}

/// Serves one connection to a listener of its own.
pub(crate) async fn serve(shared: &Arc<Shared>, near: TcpStream, authority: &str) {
    match open(shared, authority).await {
        Ok((opened, _in_flight)) => {
            let ended = relay(near, opened.stream, shared.settings.tunnel_idle).await;
            debug!(?ended, %authority, "tunnel ended");
        }
        Err(refusal) => {
            // There are no words for it in a protocol that we do not know; the log has them.
            shared.meters.refused(&refusal);
            info!(%authority, ?refusal, "connection refused");
            reset_on_close(&near);
        }
    }
}

async fn open(shared: &Arc<Shared>, authority: &str) -> Result<(Opened, InFlight), Refusal> {
    let now = shared.health.clock.elapsed();
    shared
        .meter
        .admit(now)
        .map_err(|(after, tenant)| Refusal::OverQuota { after, tenant })?;
    let route = shared.route(authority).await?;
    route.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let (opened, member) = connect_bytes(shared, &route).await?;
    shared.health.succeeded(&member.record, now);
    member.meters.answered(StatusCode::OK);
    Ok((opened, member.record.begin()))
}
