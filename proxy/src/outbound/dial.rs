//! Opens a TLS connection to one chosen endpoint: directly on the own network, else through a gateway of its cluster, which
//! sees the endpoint's id in the server name and nothing else. Tells a gateway that is down from an endpoint that is.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh::{
    identity::{ALPN_HTTP_CLIENT, ALPN_TCP_CLIENT, Expect, Identity, Side, sni::Sni},
    model::ServiceName,
    net::dial::{dial, dial_address},
    route::eject::Fault,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    balance::Health,
    route::{GatewayRef, Member},
};

/// How many gateways one try may ask.
const GATEWAYS_PER_TRY: usize = 2;

/// What travels inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// HTTP/2.
    Http,
    /// Opaque bytes.
    Bytes,
}

/// Why there is no connection. Nothing was sent, so that the request may go elsewhere.
#[derive(Clone, Debug, Error)]
pub(crate) enum DialFault {
    /// No gateway into the endpoint's cluster took a connection: says nothing of the endpoint.
    #[error("no gateway into its cluster could be reached: {0}")]
    Gateway(String),
    /// The endpoint did not take it, or is not who it should be.
    #[error("endpoint {0}")]
    Endpoint(String),
    /// The bound on connections and requests to it is met.
    #[error("endpoint {0}: too many requests are under way")]
    Full(String),
}

/// An open connection.
pub(crate) struct Opened {
    pub(crate) stream: TlsStream<TcpStream>,
    /// What the far side showed, to be checked again when bundles change.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// The gateway in between.
    pub(crate) gateway: Option<GatewayRef>,
}

/// What dialling needs.
pub(crate) struct Dialer {
    pub(crate) identity: Identity,
    pub(crate) timeout: Duration,
    pub(crate) health: Arc<Health>,
}

impl Dialer {
    /// Opens a connection to the service port at this endpoint. Evidence is noted.
    pub(crate) async fn open(
        &self,
        member: &Member,
        service: &ServiceName,
        port: u16,
        carries: Carries,
    ) -> Result<Opened, DialFault> {
        let opened = self.try_open(member, service, port, carries).await;
        if let Err(DialFault::Endpoint(_)) = &opened {
            self.health.failed(&member.record, Fault::Connect, member.has_others);
        }
        opened
    }

    async fn try_open(
        &self,
        member: &Member,
        service: &ServiceName,
        port: u16,
        carries: Carries,
    ) -> Result<Opened, DialFault> {
        let id = &member.endpoint.id;
        let endpoint_fault = |text: String| DialFault::Endpoint(format!("{id}: {text}"));
        let (tcp, gateway) = if member.gateways.is_empty() {
            let address = SocketAddr::new(member.endpoint.address, member.endpoint.inbound_port);
            let tcp = dial_address(address, self.timeout).await;
            (tcp.map_err(|error| endpoint_fault(chain_text(&error)))?, None)
        } else {
            let (tcp, gateway) = self.through_gateway(&member.gateways).await?;
            (tcp, Some(gateway))
        };
        let name = Sni::new(service.clone(), port, Some(id.clone()))
            .and_then(|sni| sni.server_name())
            .map_err(|error| endpoint_fault(error.to_string()))?;
        let alpn = match carries {
            Carries::Http => ALPN_HTTP_CLIENT,
            Carries::Bytes => ALPN_TCP_CLIENT,
        };
        let expect = Expect::id(member.endpoint.identity.clone());
        let config = self.identity.client_config(&expect, alpn);
        let handshake = TlsConnector::from(config).connect(name, tcp);
        let stream = tokio::time::timeout(self.timeout, handshake)
            .await
            .map_err(|_| {
                if let Some(gateway) = &gateway {
                    // Perhaps it is the gateway that fell silent; a trial will tell.
                    gateway.record.suspect();
                    self.health.wake.notify_one();
                }
                endpoint_fault(format!("no TLS handshake within {:?}", self.timeout))
            })?
            .map_err(|error| endpoint_fault(format!("TLS: {}", chain_text(&error))))?;
        let session = stream.get_ref().1;
        // A resumed session has not seen the verifier.
        let peer = self
            .identity
            .peer(session, Side::Server)
            .map_err(|fault| endpoint_fault(fault.to_string()))?;
        if peer.as_ref() != Some(&member.endpoint.identity) {
            return Err(endpoint_fault(format!("is not {}", member.endpoint.identity)));
        }
        if carries == Carries::Http && session.alpn_protocol() != Some(b"h2") {
            return Err(endpoint_fault("does not speak HTTP/2".to_owned()));
        }
        let chain = session
            .peer_certificates()
            .map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect())
            .unwrap_or_default();
        Ok(Opened { stream, chain, gateway })
    }

    async fn through_gateway(&self, gateways: &[GatewayRef]) -> Result<(TcpStream, GatewayRef), DialFault> {
        let mut asked: Vec<usize> = Vec::new();
        let mut last = String::from("none is known");
        while asked.len() < GATEWAYS_PER_TRY {
            let Some(at) = choose_gateway(gateways, &asked) else {
                break;
            };
            asked.push(at);
            let gateway = &gateways[at];
            match dial(&gateway.gateway.address, self.timeout).await {
                Ok(tcp) => {
                    self.health.reached(&gateway.record);
                    return Ok((tcp, gateway.clone()));
                }
                Err(error) => {
                    last = format!("{}: {}", gateway.gateway.id, chain_text(&error));
                    self.health.failed(&gateway.record, Fault::Connect, true);
                }
            }
        }
        Err(DialFault::Gateway(last))
    }

    /// Whether a gateway takes connections, for a trial.
    pub(crate) async fn try_gateway(&self, gateway: &GatewayRef) -> bool {
        dial(&gateway.gateway.address, self.timeout).await.is_ok()
    }
}

/// Power of two choices by open connections; gateways that are out only when nobody else is left.
fn choose_gateway(gateways: &[GatewayRef], asked: &[usize]) -> Option<usize> {
    for with_out in [false, true] {
        let weights = gateways.iter().enumerate().map(|(at, gateway)| {
            let usable = !asked.contains(&at) && (with_out || !gateway.record.is_out());
            f64::from(u8::from(usable))
        });
        let dice = [fastrand::f64(), fastrand::f64()];
        #[expect(clippy::cast_precision_loss, reason = "a count of connections")]
        let load = |at: usize| gateways[at].connections() as f64;
        let chosen = mesh::route::pick::two_choices(weights, dice, load);
        // Those that are out are asked once a try, not in turn: each may be a black hole.
        if chosen.is_some() && (!with_out || asked.is_empty()) {
            return chosen;
        }
    }
    None
}

/// An error with its sources, in one line.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
