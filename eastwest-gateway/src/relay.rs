//! Carries a tunnel's bytes until it ends, counted for its service. Sees ciphertext only.

use mesh::net::copy::{Patience, Pool, relay};
use tokio::net::TcpStream;
use tracing::debug;

use crate::{load::Place, metrics::GatewayMetrics};

/// Relays until the tunnel ends. The hello was sent already and is counted here.
pub(crate) async fn carry(
    client: TcpStream,
    endpoint: TcpStream,
    hello_bytes: usize,
    place: &Place,
    patience: Patience,
    pool: &Pool,
    metrics: &GatewayMetrics,
) {
    let service = place.metrics();
    service.tunnels.increment(1);
    service.meters.forth.increment(hello_bytes as u64);
    let outcome = relay(client, endpoint, patience, pool, &service.meters).await;
    metrics.ended(&outcome.end);
    debug!(end = ?outcome.end, bytes_in = outcome.forth_bytes, bytes_out = outcome.back_bytes, "tunnel ended");
}
