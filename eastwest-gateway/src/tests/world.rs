//! What the tests stand on: nouns, a certificate authority, a gateway with a published view, clients and endpoints.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mesh::{
    identity::{
        ALPN_NONE, ALPN_TCP_CLIENT, Bundle, ClientAuth, Expect, Identity, KeyRequest, SpiffeId, Svid, TrustDomain,
    },
    model::{
        ClusterId, Endpoint, EndpointId, EndpointState, Held, Incarnation, Labels, Locality, Port, Protocol, RegionId,
        Resource, Revision, Service, ServiceName, Timestamp, Update, View, Zone,
    },
    net::listen::listen,
    runtime::Stop,
    subscribe::Publisher,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateSigningRequestDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    app::{Addresses, DataPath, Ground},
    config::Config,
};

/// Room for a busy machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn cluster() -> ClusterId {
    ClusterId::parse("eu-1").unwrap()
}

pub(crate) fn region() -> RegionId {
    RegionId::parse("eu").unwrap()
}

pub(crate) fn service(name: &str) -> Service {
    Service {
        name: ServiceName::parse(name).unwrap(),
        ports: vec![Port {
            name: String::new(),
            number: 80,
            protocol: Protocol::Tcp,
        }],
        virtual_ips: Vec::new(),
        origins: vec![region()],
        created_at: Timestamp(1),
        conflict: String::new(),
        exported_to: mesh::model::Audience::Everybody,
        headless: false,
    }
}

pub(crate) fn endpoint(id: &str, service: &str, inbound_port: u16) -> Endpoint {
    Endpoint {
        id: EndpointId::parse(id).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        locality: Locality {
            region: region(),
            zone: Zone::parse("a").unwrap(),
        },
        cluster: cluster(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        inbound_port,
        state: EndpointState::Ready,
        weight: 100,
        capacity_rps: 0,
        labels: Labels::default(),
        identity: workload_id("eu"),
        ports: vec![80],
        unverified: false,
        hostname: String::new(),
    }
}

pub(crate) fn view_of(
    services: impl IntoIterator<Item = Service>,
    endpoints: impl IntoIterator<Item = Endpoint>,
) -> View {
    let services = services.into_iter().map(Resource::Service);
    let upserts = services.chain(endpoints.into_iter().map(Resource::from)).collect();
    View::default().updated(Update {
        region: region(),
        held: Held {
            incarnation: Incarnation(1),
            revision: Revision(1),
        },
        full: true,
        upserts,
        removed: Vec::new(),
        committed_at: None,
    })
}

fn workload_id(domain: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{domain}/ns/shop/sa/pay")).unwrap()
}

/// A trust domain with its authority.
pub(crate) struct Domain {
    name: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    bundle: Arc<Bundle>,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        let name = TrustDomain::parse(name).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{name}").try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let bundle = Bundle::new(name.clone(), region(), 1, vec![root.der().to_vec()]).unwrap();
        Self {
            name,
            issuer: Issuer::new(params, key),
            bundle: Arc::new(bundle),
        }
    }

    pub(crate) fn name(&self) -> &TrustDomain {
        &self.name
    }

    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.bundle)
    }

    pub(crate) fn svid(&self, account: &str) -> Svid {
        let request = KeyRequest::generate().unwrap();
        let chain = vec![self.sign(request.der(), account)];
        request.complete(chain).unwrap()
    }

    /// A leaf certificate, DER.
    pub(crate) fn sign(&self, csr: &[u8], account: &str) -> Vec<u8> {
        let der = CertificateSigningRequestDer::from(csr.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI(
            format!("spiffe://{}{account}", self.name).try_into().unwrap(),
        )];
        csr.params.is_ca = IsCa::ExplicitNoCa;
        csr.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// Somebody of this domain who trusts it and `others`.
    pub(crate) fn identity(&self, account: &str, others: &[&Self]) -> Identity {
        let bundles = others.iter().map(|other| other.bundle()).chain([self.bundle()]);
        Identity::new(self.svid(account), bundles).unwrap()
    }

    pub(crate) fn workload(&self) -> Identity {
        self.identity("/ns/shop/sa/pay", &[])
    }
}

/// A gateway under test.
pub(crate) struct World {
    pub(crate) domain: Domain,
    pub(crate) identity: Identity,
    pub(crate) publisher: Publisher,
    pub(crate) addresses: Addresses,
    pub(crate) ground: Ground,
    pub(crate) data_path: DataPath,
}

impl World {
    /// Starts a gateway with `view` and more settings than those that a test always needs.
    pub(crate) fn start(view: View, settings: &str) -> Self {
        let text = format!(
            "region = 'eu'\ncluster = 'eu-1'\nid = 'gateway-1'\nlisten = '127.0.0.1:0'\nadvertise = 'localhost:15443'\n\
             registry = ['127.0.0.1:1']\ndata_dir = '/nowhere'\n\
             [admin]\nready = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\npages = '127.0.0.1:0'\n{settings}"
        );
        let config = Config::parse(&text).unwrap();
        let domain = Domain::new("eu");
        let (publisher, views) = Publisher::new(view);
        let ground = Ground::new(Stop::default());
        let identity = domain.identity("/ns/isthmus-system/sa/gateway", &[]);
        let admin = ground.open_pages(&config).unwrap();
        let data_path = DataPath::start(&config, admin, views, identity.clone(), ground.clone()).unwrap();
        Self {
            domain,
            identity,
            publisher,
            addresses: data_path.addresses,
            ground,
            data_path,
        }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addresses.tunnels).await.unwrap()
    }

    /// The value of a metric, by its name and labels as they are written; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.ground.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }

    /// Connects by mutual TLS through the gateway as an outbound proxy would.
    pub(crate) async fn tunnel(&self, name: &str) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let identity = self.domain.workload();
        let expect = Expect::TrustDomain(self.domain.name().clone());
        let connector = TlsConnector::from(identity.client_config(&expect, ALPN_TCP_CLIENT));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        connector.connect(name, self.connect().await).await
    }
}

/// The first flight of a real client.
pub(crate) fn client_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Reads what the gateway says before it closes: an alert's description, or none.
pub(crate) async fn alert(stream: &mut TcpStream) -> Option<u8> {
    let mut heard = Vec::new();
    // A reset instead of a goodbye says nothing either.
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
    let _ = read.expect("the gateway closes");
    match heard.as_slice() {
        [] => None,
        [21, 3, 3, 0, 2, 2, description] => Some(*description),
        other => panic!("no alert: {other:?}"),
    }
}

/// A plain listener in an endpoint's place.
pub(crate) fn backend() -> (TcpListener, u16) {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port on which nobody listens.
pub(crate) fn dead_port() -> u16 {
    backend().1
}

/// Accepts one mutual TLS connection as an inbound proxy would.
pub(crate) async fn accept_tls(
    listener: &TcpListener,
    identity: &Identity,
) -> tokio_rustls::server::TlsStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Required, ALPN_NONE));
    acceptor.accept(stream).await.unwrap()
}

/// Polls until `met`, and fails with `what` when that takes too long.
pub(crate) async fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let waiting = async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// `GET` on an admin page.
pub(crate) async fn page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
