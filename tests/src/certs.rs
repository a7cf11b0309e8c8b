//! Certificates that nobody should accept, and handshakes that show whether somebody does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::{
    identity::{ALPN_HTTP_CLIENT, Expect, Identity, Sni, TrustDomain},
    runtime::{OnExit, Tasks, clock},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::PATIENCE;

/// A certificate with its key, and what is between it and a root.
pub struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// Someone who signs.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A root that calls itself the root of `domain`; nobody knows it.
    #[must_use]
    pub fn stranger(domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, domain);
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
        let issuer = Issuer::new(params, KeyPair::generate().unwrap());
        Self { issuer }
    }

    /// The real root of a region, from the file that `init` left for the operator to take away.
    #[must_use]
    pub fn of(region: &crate::Region) -> Self {
        let pem = std::fs::read_to_string(region.node_dir(1).join("root-key.pem")).unwrap();
        let key = &pem[pem.find("-----BEGIN PRIVATE KEY").unwrap()..];
        let key = KeyPair::from_pem(key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        Self { issuer }
    }

    /// A workload's certificate as it should be.
    #[must_use]
    pub fn workload(&self, id: &str) -> Shown {
        self.sign(leaf(vec![uri(id)]))
    }

    /// One that ended a minute ago.
    #[must_use]
    pub fn expired(&self, id: &str) -> Shown {
        let mut params = leaf(vec![uri(id)]);
        params.not_before -= Duration::from_secs(7200);
        params.not_after -= Duration::from_secs(3600 + 60);
        self.sign(params)
    }

    /// One for a DNS name, as web servers have it.
    #[must_use]
    pub fn web(&self, name: &str) -> Shown {
        self.sign(leaf(vec![SanType::DnsName(name.try_into().unwrap())]))
    }

    fn sign(&self, params: CertificateParams) -> Shown {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Shown {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn leaf(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(u64::try_from(clock::wall().0).unwrap());
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(3600);
    params
}

/// Believes every server: what is under test is whether the server believes the client.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
        ]
    }
}

fn config(shown: Option<&Shown>, alpn: &[&[u8]]) -> ClientConfig {
    let mut config = config_of(shown, rustls::ALL_VERSIONS);
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    config
}

fn config_of(shown: Option<&Shown>, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.clone()));
            builder.with_client_auth_cert(shown.chain.clone(), key).unwrap()
        }
    }
}

/// Whether a listener lets a client with this certificate in: the handshake ends well, and the server goes on talking or
/// waiting instead of closing with an alert. `speak` is what the client says first; a server that lets it in answers or
/// waits, one that does not answers with an alert.
pub async fn lets_in(to: SocketAddr, name: &str, shown: Option<&Shown>, alpn: &[&[u8]], speak: &[u8]) -> bool {
    let connector = TlsConnector::from(Arc::new(config(shown, alpn)));
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let work = async {
        let mut stream = connector.connect(name, stream).await?;
        stream.write_all(speak).await?;
        // In TLS 1.3 the client learns of its refusal at its first read.
        let mut first = [0; 1];
        stream.read(&mut first).await
    };
    matches!(tokio::time::timeout(PATIENCE, work).await.expect("an answer comes"), Ok(read) if read > 0)
}

/// The server name of a service's port.
#[must_use]
pub fn server_name(service: &str, port: u16) -> String {
    let service = mesh::model::ServiceName::parse(service).unwrap();
    Sni::new(service, port, None).unwrap().to_string()
}

/// Whether a caller with this identity gets any answer over HTTP/2 from `to` under this server name, and from somebody of
/// the trust domain `domain`.
pub async fn speaks_http(to: SocketAddr, name: &str, caller: &Identity, domain: &str) -> bool {
    let expect = Expect::TrustDomain(TrustDomain::parse(domain).unwrap());
    // North need not know west's bundle for this: it is a peer, and does.
    let connector = TlsConnector::from(caller.client_config(&expect, ALPN_HTTP_CLIENT));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let work = async {
        let stream = TcpStream::connect(to).await.ok()?;
        let stream = connector.connect(name, stream).await.ok()?;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.ok()?;
        Tasks::default().spawn("client", OnExit::Ignore, connection.map(drop));
        let request = Request::get("http://pay.shop/").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.ok()?;
        (response.status() == 200).then_some(())
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("an answer comes")
        .is_some()
}

/// What a gateway says to a TLS client with this server name before it closes: the description of its alert, 0 when it
/// closes without a word, none when it relays.
pub async fn refusal(to: SocketAddr, name: &str) -> Option<u8> {
    let config = config(None, &[b"istio"]);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut heard = [0; 7];
    match tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard))
        .await
        .expect("an answer comes")
    {
        Ok(_) if heard[..6] == [21, 3, 3, 0, 2, 2] => Some(heard[6]),
        Ok(_) => None,
        Err(_) => Some(0),
    }
}

/// A TLS connection as any client makes it, whoever answers; `from` is the client's address on this machine, so that the
/// callers of a test are different sources.
///
/// # Errors
/// When TCP or TLS does not come about.
pub async fn open(
    to: SocketAddr,
    from: std::net::Ipv4Addr,
    name: &str,
    shown: Option<&Shown>,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = connect(to, from).await?;
    let connector = TlsConnector::from(Arc::new(config(shown, alpn)));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector.connect(name, stream).await
}

/// A TCP connection from one of this machine's loopback addresses.
///
/// # Errors
/// When it is not accepted.
pub async fn connect(to: SocketAddr, from: std::net::Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As [`open`] from 127.0.0.1, by TLS 1.2 only.
///
/// # Errors
/// When TCP or TLS does not come about.
pub async fn open_tls12(to: SocketAddr, shown: Option<&Shown>, alpn: &[&[u8]]) -> std::io::Result<()> {
    let mut old = config_of(shown, &[&rustls::version::TLS12]);
    old.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    let stream = connect(to, std::net::Ipv4Addr::LOCALHOST).await?;
    let name = ServerName::try_from("registry.test").unwrap();
    TlsConnector::from(Arc::new(old)).connect(name, stream).await.map(drop)
}
