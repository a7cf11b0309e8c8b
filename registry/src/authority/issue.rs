//! Issuing: the public key of a request, the identity that was decided, and this authority's signature. Whatever else a
//! request asks for is ignored.

use std::time::Duration;

use mesh::{
    identity::{Bundle, Identity, KeyRequest, SpiffeId, TrustDomain, system},
    model::{RegionId, Timestamp},
};
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};

use super::{
    AuthorityError, Root,
    attest::TTL_MAX,
    certificate::{self, CaCertificate},
    root::{before, read_key},
};
use crate::catalog::AuthorityRecord;

/// Largest request, in bytes; one with an RSA key of 8192 bits has 2 KiB.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const CHAIN_FILE: &str = "issuing certificate file";
const KEY_FILE: &str = "issuing key file";
const ROOT_FILE: &str = "root certificate file";

/// The issuing certificate of a region, with its key.
pub struct Authority {
    domain: TrustDomain,
    /// Leaf first, without the root.
    chain: Vec<Vec<u8>>,
    /// What callers get behind their own certificate: the chain, unless it is the root itself.
    presented: Vec<Vec<u8>>,
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key never reaches a log.
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a region's root and its first issuing certificate. The root's key goes to the caller only.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn create(region: &RegionId, domain: &TrustDomain, now: Timestamp) -> Result<(Self, Root), AuthorityError> {
        let root = Root::create(region, domain, now)?;
        Ok((root.issuing(now)?, root))
    }

    /// The authority that the catalogue keeps.
    ///
    /// # Errors
    /// When the record is not one of `domain`.
    pub fn from_record(record: &AuthorityRecord, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let key = KeyPair::try_from(record.key.as_slice()).map_err(|_| AuthorityError::Key { file: KEY_FILE })?;
        Self::assemble(record.chain.clone(), key, domain)
    }

    /// An operator's own authority: chain (issuing certificate first), key and root, each PEM. Returns the anchors too.
    /// Proves with a trial certificate that what it signs will verify.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn from_pem(
        region: &RegionId,
        domain: &TrustDomain,
        chain_pem: &str,
        key_pem: &str,
        root_pem: &str,
        now: Timestamp,
    ) -> Result<(Self, Bundle), AuthorityError> {
        let mut chain = read_certificates(chain_pem, CHAIN_FILE)?;
        let anchors = read_certificates(root_pem, ROOT_FILE)?;
        for anchor in &anchors {
            CaCertificate::parse(anchor, ROOT_FILE, domain)?;
        }
        let leaf = chain.first().ok_or(no_certificate(CHAIN_FILE))?.clone();
        let key = read_key(key_pem, KEY_FILE, &CaCertificate::parse(&leaf, CHAIN_FILE, domain)?)?;
        chain.retain(|der| *der == leaf || !anchors.contains(der));
        let authority = Self::assemble(chain, key, domain)?;
        let bundle = Bundle::new(domain.clone(), region.clone(), 1, anchors).map_err(AuthorityError::Anchor)?;
        authority.prove(&bundle, now)?;
        Ok((authority, bundle))
    }

    fn assemble(chain: Vec<Vec<u8>>, key: KeyPair, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let first = chain.first().ok_or(no_certificate(CHAIN_FILE))?;
        let ca = CaCertificate::parse(first, CHAIN_FILE, domain)?;
        if key.public_key_raw() != ca.public_key {
            return Err(AuthorityError::Key { file: KEY_FILE });
        }
        let der = CertificateDer::from_slice(first);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(AuthorityError::Sign)?;
        let presented = if ca.self_signed { vec![] } else { chain.clone() };
        Ok(Self {
            domain: domain.clone(),
            chain,
            presented,
            issuer,
            not_after: ca.not_after,
        })
    }

    /// A certificate of this authority must be accepted by whoever has `bundle`.
    fn prove(&self, bundle: &Bundle, now: Timestamp) -> Result<(), AuthorityError> {
        let request = KeyRequest::generate().map_err(AuthorityError::Svid)?;
        let chain = self.issue(
            request.der(),
            &system::registry(&self.domain),
            Duration::from_secs(60),
            now,
        )?;
        let svid = request.complete(chain).map_err(AuthorityError::Svid)?;
        Identity::new(svid, [std::sync::Arc::new(bundle.clone())]).map_err(AuthorityError::Chain)?;
        Ok(())
    }

    /// For the catalogue.
    #[must_use]
    pub fn record(&self) -> AuthorityRecord {
        AuthorityRecord {
            chain: self.chain.clone(),
            key: self.issuer.key().serialize_der(),
            not_after: self.not_after,
        }
    }

    /// For whom it signs.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// End of the issuing certificate.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs the public key of a request for `id`, for `ttl` at most, never beyond its own end. Returns the chain, DER,
    /// leaf first, without root. The certificate begins a minute ago, for clocks that are behind.
    ///
    /// # Errors
    /// When the request is malformed, the identity is another domain's, or this authority has expired.
    pub fn issue(
        &self,
        request_der: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<Vec<Vec<u8>>, AuthorityError> {
        if id.trust_domain() != self.domain || id.path().is_empty() {
            return Err(AuthorityError::ForeignId {
                id: id.clone(),
                domain: self.domain.clone(),
            });
        }
        if now >= self.not_after {
            return Err(AuthorityError::Expired {
                domain: self.domain.clone(),
                not_after: self.not_after,
            });
        }
        if request_der.len() > REQUEST_BYTES_MAX {
            return Err(AuthorityError::Request);
        }
        // Checks the request's signature: the caller has the private key.
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
            .map_err(|_| AuthorityError::Request)?;
        let until = now.plus(ttl.min(TTL_MAX)).min(self.not_after);
        let certificate = certificate::leaf(id, (before(now), until))?
            .signed_by(&request.public_key, &self.issuer)
            .map_err(AuthorityError::Sign)?;
        let mut chain = vec![certificate.der().to_vec()];
        chain.extend(self.presented.iter().cloned());
        Ok(chain)
    }
}

fn no_certificate(file: &'static str) -> AuthorityError {
    let label = "CERTIFICATE";
    AuthorityError::Pem { file, label }
}

fn read_certificates(text: &str, file: &'static str) -> Result<Vec<Vec<u8>>, AuthorityError> {
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| no_certificate(file))?;
    if certificates.is_empty() {
        return Err(no_certificate(file));
    }
    Ok(certificates)
}
