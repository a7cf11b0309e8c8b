//! Answers probes: the one conversation in which the gateway itself is the server. Tells only about services that the
//! prober named and this cluster exports to the prober's region.

use std::{collections::BTreeMap, io, time::Duration};

use mesh::{
    identity::{ClientAuth, Identity, Side},
    model::{ClusterId, EndpointState, RegionId, ServiceName, View},
    net::probe::{ALPN_PROBE, Health, QUESTION_BYTES_MAX, Question, ServiceHealth},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

/// Where the gateway stands.
pub(crate) struct Place<'a> {
    pub(crate) region: &'a RegionId,
    pub(crate) cluster: &'a ClusterId,
    pub(crate) state: EndpointState,
}

/// Shakes hands (beginning with the hello that was read), hears the question, answers, closes.
pub(crate) async fn answer(
    stream: TcpStream,
    hello: Vec<u8>,
    identity: &Identity,
    view: &View,
    place: Place<'_>,
    timeout: Duration,
) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let replayed = join(io::Cursor::new(hello).chain(read), write);
    let config = identity.server_config(ClientAuth::Required, ALPN_PROBE);
    let talk = async {
        let mut stream = TlsAcceptor::from(config).accept(replayed).await?;
        let prober = identity
            .peer(stream.get_ref().1, Side::Client)
            .map_err(io::Error::other)?;
        let Some(prober) = prober else {
            return Err(io::Error::other("the prober has no certificate"));
        };
        let mut question = Vec::new();
        let bound = QUESTION_BYTES_MAX as u64 + 1;
        (&mut stream).take(bound).read_to_end(&mut question).await?;
        if question.len() > QUESTION_BYTES_MAX {
            return Err(io::Error::other("the question is too long"));
        }
        let question: Question = serde_json::from_slice(&question)?;
        let (own, asking) = (identity.trust_domain(), prober.trust_domain());
        let may_see = |name: &ServiceName| asking == own || view.is_exported_to(name, &asking);
        let answer = serde_json::to_vec(&health(&question, &may_see, view, place))?;
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(timeout, Box::pin(talk))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

fn health(question: &Question, may_see: &dyn Fn(&ServiceName) -> bool, view: &View, place: Place<'_>) -> Health {
    let mut services = BTreeMap::new();
    for name in question.services.iter().filter(|name| may_see(name)) {
        let Some((_, entry)) = view.service(name) else {
            continue;
        };
        let mut health = ServiceHealth::default();
        for endpoint in entry
            .endpoints
            .values()
            .filter(|endpoint| endpoint.cluster == *place.cluster)
        {
            health.total += 1;
            health.ready += u32::from(endpoint.state == EndpointState::Ready);
        }
        services.insert(name.clone(), health);
    }
    Health {
        cluster: place.cluster.clone(),
        region: place.region.clone(),
        state: place.state,
        services,
    }
}
