//! Opens the connection to the endpoint: to the one that was named, or to up to three in turn, and replays the hello to it.

use std::{collections::BTreeSet, io, net::SocketAddr, time::Duration};

use mesh::{
    identity::Sni,
    model::{ClusterId, Endpoint},
    net::dial::dial_address,
    subscribe::Views,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tracing::debug;

use crate::{load::Place, refusal::Refusal, resolve::resolve};

/// How many endpoints are tried for a client that named none.
const ATTEMPTS_MAX: usize = 3;

/// Connects to an endpoint of `sni` and sends it `hello`. Each attempt looks at the newest view.
pub(crate) async fn dial(
    views: &Views,
    sni: &Sni,
    cluster: &ClusterId,
    place: &mut Place,
    hello: &[u8],
    timeout: Duration,
) -> Result<TcpStream, Refusal> {
    let mut tried = BTreeSet::new();
    loop {
        let view = views.load();
        let chosen = place.choose(
            |tunnels| resolve(&view, sni, cluster, &tried, tunnels, |below| fastrand::usize(..below)),
            |endpoint| &endpoint.id,
        );
        drop(view);
        let endpoint = match chosen {
            Ok(endpoint) => endpoint,
            // All that there are were tried.
            Err(Refusal::NoneReady) if !tried.is_empty() => return Err(Refusal::DialFailed),
            Err(refusal) => return Err(refusal),
        };
        match connect(&endpoint, hello, timeout).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                place.metrics().dial_failed.increment(1);
                debug!(endpoint = %endpoint.id, %error, "endpoint cannot be dialled");
            }
        }
        tried.insert(endpoint.id.clone());
        if sni.subset.is_some() || tried.len() >= ATTEMPTS_MAX {
            return Err(Refusal::DialFailed);
        }
    }
}

async fn connect(endpoint: &Endpoint, hello: &[u8], timeout: Duration) -> io::Result<TcpStream> {
    let address = SocketAddr::new(endpoint.address, endpoint.inbound_port);
    let mut stream = dial_address(address, timeout).await.map_err(io::Error::other)?;
    // A fresh connection takes a hello at once; one that does not is none.
    tokio::time::timeout(timeout, stream.write_all(hello))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(stream)
}
