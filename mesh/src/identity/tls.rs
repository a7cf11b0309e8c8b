//! TLS configurations from an identity: TLS 1.3 (1.2 for Istio's peers), post-quantum key exchange first, certificates
//! read at each handshake, peers verified by SPIFFE's rules. No configuration outlives a change of bundles.

mod verifier;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use self::verifier::Verifier;
use super::{
    Alpn, Fault, SpiffeId, Svid, TrustDomain,
    system::{self, Role},
    verify::Trust,
};

/// How many configurations one generation keeps; beyond, it begins to collect them anew.
const CONFIGS_MAX: usize = 1_024;
/// Servers whose sessions a client configuration remembers: room is set aside for all of them at once, and there is a
/// configuration for each service that is called.
const SESSIONS_MAX: usize = 32;

/// The one cryptography of the process, named wherever TLS is set up.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Whether whoever connects must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientAuth {
    /// Yes.
    Required,
    /// No, but one that is shown must be good: newcomers have a token instead.
    Optional,
}

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Versions {
    /// 1.3 only: between our own processes, where there is no renegotiation and no older suite.
    Newest,
    /// 1.3 and 1.2: between workloads, where Istio's peers may have no other.
    Both,
}

const NEWEST: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Versions {
    const fn list(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::Newest => NEWEST,
            Self::Both => rustls::ALL_VERSIONS,
        }
    }
}

/// Who must answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// One of these.
    Ids(Arc<BTreeSet<SpiffeId>>),
    /// Anybody of this trust domain.
    TrustDomain(TrustDomain),
    /// This part of the infrastructure of this trust domain.
    System(Role, TrustDomain),
}

impl Expect {
    /// Exactly one.
    #[must_use]
    pub fn id(id: SpiffeId) -> Self {
        Self::Ids(Arc::new(BTreeSet::from([id])))
    }

    /// Compares, the trust domain always included.
    ///
    /// # Errors
    /// Who it is, and who was expected.
    pub fn check(&self, id: &SpiffeId) -> Result<(), Fault> {
        let met = match self {
            Self::Ids(ids) => ids.contains(id),
            Self::TrustDomain(domain) => id.trust_domain() == *domain,
            Self::System(role, domain) => system::role(id) == Some(*role) && id.trust_domain() == *domain,
        };
        if met {
            return Ok(());
        }
        Err(Fault::Unexpected {
            got: id.clone(),
            expected: self.to_string(),
        })
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ids(ids) => {
                let (first, more) = (ids.first(), ids.len().saturating_sub(1));
                match first {
                    None => f.write_str("anybody (the list of accepted identities is empty)"),
                    Some(id) if more == 0 => id.fmt(f),
                    Some(id) => write!(f, "{id} or {more} more"),
                }
            }
            Self::TrustDomain(domain) => write!(f, "a member of trust domain {domain}"),
            Self::System(role, domain) => write!(f, "{}", role.id(domain)),
        }
    }
}

/// The own SVID, read at each handshake.
#[derive(Debug)]
pub(super) struct Own(ArcSwap<Svid>);

impl Own {
    pub(super) fn new(svid: Svid) -> Self {
        Self(ArcSwap::from_pointee(svid))
    }

    pub(super) fn svid(&self) -> Svid {
        Svid::clone(&self.0.load())
    }

    pub(super) fn replace(&self, svid: Svid) {
        self.0.store(Arc::new(svid));
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.load().certified()))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.load().certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The configurations of one generation. Readers take no lock; two that make the same one at once keep either.
#[derive(Debug, Default)]
pub(super) struct Configs {
    servers: ArcSwap<HashMap<(ClientAuth, Alpn, Versions), Arc<rustls::ServerConfig>>>,
    clients: ArcSwap<HashMap<(Expect, Alpn), Arc<rustls::ClientConfig>>>,
}

impl Configs {
    pub(super) fn server(
        &self,
        key: (ClientAuth, Alpn, Versions),
        make: impl FnOnce() -> rustls::ServerConfig,
    ) -> Arc<rustls::ServerConfig> {
        cached(&self.servers, key, make)
    }

    pub(super) fn client(
        &self,
        key: (Expect, Alpn),
        make: impl FnOnce() -> rustls::ClientConfig,
    ) -> Arc<rustls::ClientConfig> {
        cached(&self.clients, key, make)
    }
}

fn cached<K: Clone + Eq + Hash, V>(map: &ArcSwap<HashMap<K, Arc<V>>>, key: K, make: impl FnOnce() -> V) -> Arc<V> {
    if let Some(known) = map.load().get(&key) {
        return Arc::clone(known);
    }
    let made = Arc::new(make());
    map.rcu(|old| {
        let mut new = if old.len() < CONFIGS_MAX {
            HashMap::clone(old)
        } else {
            HashMap::new()
        };
        new.entry(key.clone()).or_insert_with(|| Arc::clone(&made));
        new
    });
    map.load().get(&key).map_or(made, Arc::clone)
}

pub(super) fn server_config(
    own: &Arc<Own>,
    trust: &Arc<Trust>,
    client_auth: ClientAuth,
    alpn: Alpn,
    versions: Versions,
) -> rustls::ServerConfig {
    let verifier = Verifier {
        trust: Arc::clone(trust),
        expect: None,
        client_auth,
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions.list())
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(own) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    config
}

pub(super) fn client_config(
    own: Option<&Arc<Own>>,
    trust: &Arc<Trust>,
    expect: &Expect,
    alpn: Alpn,
) -> rustls::ClientConfig {
    let verifier = Verifier {
        trust: Arc::clone(trust),
        expect: Some(expect.clone()),
        client_auth: ClientAuth::Required,
    };
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::clone(own) as Arc<dyn ResolvesClientCert>),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    config
}

#[cfg(test)]
mod tests;
