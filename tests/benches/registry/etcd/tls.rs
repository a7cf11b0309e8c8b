//! Mutual TLS for etcd, as the registry always has it: one root that signs a certificate for all nodes and clients.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What clients need.
pub(super) struct Tls {
    connector: TlsConnector,
}

/// In the folder of the group.
const ROOT: &str = "root.pem";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node-key.pem";

impl Tls {
    /// Makes root and certificate, and leaves them in the folder.
    pub(super) fn make(dir: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        fs::write(dir.join(ROOT), root.pem())?;
        fs::write(dir.join(CERTIFICATE), certificate.pem())?;
        fs::write(dir.join(KEY), key.serialize_pem())?;

        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots);
        let mut config = config.with_client_auth_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// The flags by which a node takes them, for its clients and for the other nodes.
    pub(super) fn flags(dir: &Path) -> Vec<(&'static str, String)> {
        let file = |name: &str| dir.join(name).display().to_string();
        vec![
            ("--trusted-ca-file", file(ROOT)),
            ("--cert-file", file(CERTIFICATE)),
            ("--key-file", file(KEY)),
            ("--client-cert-auth", "true".to_owned()),
            ("--peer-trusted-ca-file", file(ROOT)),
            ("--peer-cert-file", file(CERTIFICATE)),
            ("--peer-key-file", file(KEY)),
            ("--peer-client-cert-auth", "true".to_owned()),
        ]
    }

    /// A connection to a node.
    pub(super) async fn connect(&self, to: SocketAddr) -> anyhow::Result<TokioIo<TlsStream<TcpStream>>> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        let connected = self.connector.connect(ServerName::from(to.ip()), tcp).await;
        Ok(TokioIo::new(connected.context("TLS with etcd")?))
    }
}
