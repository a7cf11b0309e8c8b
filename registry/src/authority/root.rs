//! The root: signs issuing certificates, a few times in ten years. Its key is never in the catalogue; whoever made it
//! keeps it in a file that only the registry's user can read.

use std::time::Duration;

use mesh::{
    identity::{Bundle, TrustDomain, pem},
    model::{RegionId, Timestamp},
};
use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{
    Authority, AuthorityError,
    certificate::{self, CaCertificate},
};
use crate::catalog::AuthorityRecord;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Life of a root.
const ROOT_LIFE: Duration = DAY.saturating_mul(3650);
/// Life of an issuing certificate.
const ISSUING_LIFE: Duration = DAY.saturating_mul(365);
/// Clocks of other machines may be that far behind.
pub(super) const SKEW: Duration = Duration::from_secs(60);
const FILE: &str = "root file";

/// A root certificate and its key.
pub struct Root {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    not_after: Timestamp,
    region: RegionId,
    domain: TrustDomain,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key never reaches a log.
        f.debug_struct("Root")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Root {
    /// Makes a root of ten years.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn create(region: &RegionId, domain: &TrustDomain, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let not_after = now.plus(ROOT_LIFE);
        let params = certificate::signing("root", region, domain, 1, (before(now), not_after))?;
        let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?.into();
        Ok(Self {
            certificate,
            key,
            not_after,
            region: region.clone(),
            domain: domain.clone(),
        })
    }

    /// Signs a new issuing certificate of one year, with a new key.
    ///
    /// # Errors
    /// When the system gives no random numbers, or the root has expired.
    pub fn issuing(&self, now: Timestamp) -> Result<Authority, AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired {
                domain: self.domain.clone(),
                not_after: self.not_after,
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Sign)?;
        let not_after = now.plus(ISSUING_LIFE).min(self.not_after);
        let params = certificate::signing("issuing", &self.region, &self.domain, 0, (before(now), not_after))?;
        let root = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(AuthorityError::Sign)?;
        let certificate = params.signed_by(&key, &root).map_err(AuthorityError::Sign)?;
        let record = AuthorityRecord {
            chain: vec![certificate.der().to_vec()],
            key: key.serialize_der(),
            not_after,
        };
        Authority::from_record(&record, &self.domain)
    }

    /// The anchor that peers and workloads need, DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// End of the root.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The region's bundle with this root as its only anchor.
    ///
    /// # Errors
    /// Never for a root that was made or read here.
    pub fn bundle(&self, sequence: u64) -> Result<Bundle, AuthorityError> {
        let anchors = vec![self.certificate.to_vec()];
        Bundle::new(self.domain.clone(), self.region.clone(), sequence, anchors).map_err(AuthorityError::Anchor)
    }

    /// Certificate and key as one PEM text, for `mesh::identity::write_private`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut text = pem("CERTIFICATE", &self.certificate);
        text.push_str(&pem("PRIVATE KEY", &self.key.serialize_der()));
        text
    }

    /// Reads what [`Root::to_pem`] wrote, or an operator's root of the same form.
    ///
    /// # Errors
    /// When the text is no root of this trust domain with its key.
    pub fn from_pem(text: &str, region: &RegionId, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|_| AuthorityError::Pem {
            file: FILE,
            label: "CERTIFICATE",
        })?;
        let ca = CaCertificate::parse(&certificate, FILE, domain)?;
        let key = read_key(text, FILE, &ca)?;
        Ok(Self {
            certificate,
            key,
            not_after: ca.not_after,
            region: region.clone(),
            domain: domain.clone(),
        })
    }
}

/// A key that is the certificate's.
pub(super) fn read_key(text: &str, file: &'static str, ca: &CaCertificate) -> Result<KeyPair, AuthorityError> {
    let der =
        rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| AuthorityError::Pem {
            file,
            label: "PRIVATE KEY",
        })?;
    let key = KeyPair::try_from(&der).map_err(|_| AuthorityError::Key { file })?;
    if key.public_key_raw() != ca.public_key {
        return Err(AuthorityError::Key { file });
    }
    Ok(key)
}

/// A moment that every clock has passed.
pub(super) fn before(now: Timestamp) -> Timestamp {
    let skew = i64::try_from(SKEW.as_millis()).unwrap_or(0);
    Timestamp(now.0.saturating_sub(skew))
}
