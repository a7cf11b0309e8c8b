//! A process' own identity: its SVID and the bundles it trusts, both replaced while it runs. Handshakes read the newest
//! of each. A change of bundles begins a new generation, whose TLS configurations know no session of an older one.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;

use super::{
    ALPN_H2, Alpn, Bundle, BundleError, ClientAuth, Expect, Fault, Side, SpiffeId, Svid, TrustDomain,
    tls::{self, Configs, Own, Versions},
    verify::{self, Trust},
};
use crate::{
    model::{RegionId, Timestamp},
    runtime::clock,
};

/// Why an identity is refused.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The bundle of the SVID's trust domain is missing.
    #[error("bundle of trust domain {0} is missing, to which the own certificate belongs")]
    NoBundle(TrustDomain),
    /// A renewed SVID must be the same one's.
    #[error("new certificate is for {got}, the own identity is {own}")]
    OtherId {
        /// Whose it is.
        got: SpiffeId,
        /// Who this process is.
        own: SpiffeId,
    },
    /// The certificate is expired, or not signed by its own trust domain.
    #[error("own certificate is not good")]
    Svid(#[source] Fault),
}

/// Who this process is and whom it trusts. Clones are the same identity.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Arc<Own>,
    trust: Arc<Trust>,
    configs: ArcSwap<Configs>,
    changed: watch::Sender<u64>,
    /// Replacing takes turns; readers never touch it.
    turn: Mutex<()>,
}

impl Identity {
    /// Starts with an SVID and the bundles known so far.
    ///
    /// # Errors
    /// When the bundle of the SVID's own trust domain is missing or does not vouch for it now.
    pub fn new(svid: Svid, bundles: impl IntoIterator<Item = Arc<Bundle>>) -> Result<Self, IdentityError> {
        let trust = Arc::new(Trust::default());
        trust.replace(bundles, None);
        check_own(&trust, &svid)?;
        let (changed, _) = watch::channel(0);
        Ok(Self(Arc::new(Inner {
            own: Arc::new(Own::new(svid)),
            trust,
            configs: ArcSwap::default(),
            changed,
            turn: Mutex::new(()),
        })))
    }

    /// The newest SVID.
    #[must_use]
    pub fn svid(&self) -> Svid {
        self.0.own.svid()
    }

    /// Who this process is.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.svid().id().clone()
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.svid().id().trust_domain()
    }

    /// The bundle that is trusted for a domain.
    #[must_use]
    pub fn bundle(&self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        self.0.trust.bundle(domain)
    }

    /// Every handshake from now on presents this SVID.
    ///
    /// # Errors
    /// When it is another one's, or not good now.
    pub fn replace_svid(&self, svid: Svid) -> Result<(), IdentityError> {
        let own = self.id();
        if *svid.id() != own {
            let got = svid.id().clone();
            return Err(IdentityError::OtherId { got, own });
        }
        check_own(&self.0.trust, &svid)?;
        self.0.own.replace(svid);
        Ok(())
    }

    /// Every verification from now on uses these bundles. The own trust domain's stays when it is not among them. Returns
    /// whether anchors changed; if so a new generation begins.
    pub fn replace_bundles(&self, bundles: impl IntoIterator<Item = Arc<Bundle>>) -> bool {
        // Nothing behind this lock can be left half done by a panic.
        let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.0.trust.replace(bundles, Some(&self.trust_domain()));
        if changed {
            self.0.configs.store(Arc::default());
            self.0.changed.send_modify(|generation| *generation += 1);
        }
        changed
    }

    /// The generation: grows with each change of bundles. Whoever holds connections then checks their peers again.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// TLS for accepting. Cheap: made once a generation.
    #[must_use]
    pub fn server_config(&self, client_auth: ClientAuth, alpn: Alpn) -> Arc<rustls::ServerConfig> {
        self.accepting(client_auth, alpn, Versions::Both)
    }

    /// TLS for accepting our own processes: 1.3 and HTTP/2 only. Cheap: made once a generation.
    #[must_use]
    pub fn control_config(&self, client_auth: ClientAuth) -> Arc<rustls::ServerConfig> {
        self.accepting(client_auth, ALPN_H2, Versions::Newest)
    }

    fn accepting(&self, client_auth: ClientAuth, alpn: Alpn, versions: Versions) -> Arc<rustls::ServerConfig> {
        let configs = self.0.configs.load();
        configs.server((client_auth, alpn, versions), || {
            tls::server_config(&self.0.own, &self.0.trust, client_auth, alpn, versions)
        })
    }

    /// TLS for opening. Cheap: made once a generation for each expectation.
    #[must_use]
    pub fn client_config(&self, expect: &Expect, alpn: Alpn) -> Arc<rustls::ClientConfig> {
        let configs = self.0.configs.load();
        configs.client((expect.clone(), alpn), || {
            tls::client_config(Some(&self.0.own), &self.0.trust, expect, alpn)
        })
    }

    /// Checks a peer's chain (leaf first) again, with the newest bundles and time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, chain: &[CertificateDer<'_>], side: Side) -> Result<SpiffeId, Fault> {
        let (leaf, intermediates) = chain.split_first().ok_or(Fault::NoCertificate)?;
        let now = verify::unix_time(clock::wall());
        self.0.trust.verify(leaf, intermediates, side, now)
    }

    /// Whether the newest bundles still vouch for the peer of a connection whose handshake was at `since`. Its certificate
    /// may have expired meanwhile: the peer has another one by now, and shows it when it connects again.
    ///
    /// # Errors
    /// Why not.
    pub fn still_trusts(&self, chain: &[CertificateDer<'_>], side: Side, since: Timestamp) -> Result<(), Fault> {
        let (leaf, intermediates) = chain.split_first().ok_or(Fault::NoCertificate)?;
        let since = verify::unix_time(since);
        self.0.trust.verify(leaf, intermediates, side, since).map(drop)
    }

    /// Who the peer of a finished handshake is; none when it presented no certificate. A resumed session is verified here,
    /// because TLS itself does not do it again.
    ///
    /// # Errors
    /// What is wrong with its certificate by now.
    pub fn peer(&self, connection: &rustls::CommonState, side: Side) -> Result<Option<SpiffeId>, Fault> {
        let Some(chain) = connection.peer_certificates() else {
            return Ok(None);
        };
        if connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            return self.verify(chain, side).map(Some);
        }
        verify::check_leaf(chain.first().ok_or(Fault::NoCertificate)?).map(Some)
    }
}

fn check_own(trust: &Trust, svid: &Svid) -> Result<(), IdentityError> {
    let domain = svid.id().trust_domain();
    if trust.bundle(&domain).is_none() {
        return Err(IdentityError::NoBundle(domain));
    }
    let (leaf, intermediates) = svid.chain().split_first().expect("an SVID has a leaf");
    // The clock of whoever signed it may run ahead of this one; peers decide for themselves.
    let now = verify::unix_time(clock::wall().max(svid.not_before()));
    trust
        .verify(leaf, intermediates, Side::Server, now)
        .map_err(IdentityError::Svid)?;
    Ok(())
}

/// Trust without an identity: what a newcomer with a token has before its first SVID.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    trust: Arc<Trust>,
    domain: TrustDomain,
}

impl Bootstrap {
    /// Trusts the anchors (DER) of one trust domain.
    ///
    /// # Errors
    /// When one is no CA certificate.
    pub fn new(domain: TrustDomain, region: &RegionId, anchors: Vec<Vec<u8>>) -> Result<Self, BundleError> {
        let bundle = Bundle::new(domain.clone(), region.clone(), 0, anchors)?;
        let trust = Arc::new(Trust::default());
        trust.replace([Arc::new(bundle)], None);
        Ok(Self { trust, domain })
    }

    /// The one domain that is trusted.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// TLS for opening, without a certificate of one's own. Not cached: a newcomer calls once.
    #[must_use]
    pub fn client_config(&self, expect: &Expect, alpn: Alpn) -> Arc<rustls::ClientConfig> {
        Arc::new(tls::client_config(None, &self.trust, expect, alpn))
    }
}
