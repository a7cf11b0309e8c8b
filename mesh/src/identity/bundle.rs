//! A trust bundle: the anchors of one trust domain. Bundles of different domains are never merged.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::TrustDomain;
use crate::model::RegionId;

/// How often a bundle is polled where nobody pushes it (SPIFFE Federation: 5 minutes when no hint is given).
const REFRESH_HINT_DEFAULT: Duration = Duration::from_secs(300);

/// Why a bundle is refused.
#[derive(Debug, Error)]
pub enum BundleError {
    /// An anchor is no CA certificate.
    #[error("anchor {index} of trust domain {domain} is not a CA certificate")]
    Anchor {
        /// Position in the bundle, from 0.
        index: usize,
        /// Whose bundle.
        domain: TrustDomain,
    },
}

/// The anchors of one trust domain, with the sequence that orders its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    domain: TrustDomain,
    /// Grows with each change of content (SPIFFE Trust Domain and Bundle, `spiffe_sequence`).
    sequence: u64,
    /// DER certificates; empty = all keys revoked: every SVID of the domain is invalid.
    anchors: Vec<Vec<u8>>,
    refresh_hint: Duration,
    region: RegionId,
}

impl Bundle {
    /// Puts a bundle together; `region` owns the record.
    ///
    /// # Errors
    /// When an anchor does not parse as a CA certificate.
    pub fn new(
        domain: TrustDomain,
        region: RegionId,
        sequence: u64,
        anchors: Vec<Vec<u8>>,
    ) -> Result<Self, BundleError> {
        for (index, der) in anchors.iter().enumerate() {
            let is_ca =
                x509_parser::parse_x509_certificate(der).is_ok_and(|(rest, cert)| rest.is_empty() && cert.is_ca());
            if !is_ca {
                return Err(BundleError::Anchor { index, domain });
            }
        }
        Ok(Self {
            domain,
            sequence,
            anchors,
            refresh_hint: REFRESH_HINT_DEFAULT,
            region,
        })
    }

    /// Whose anchors these are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The region that owns the record.
    #[must_use]
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// Orders the versions of a bundle.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often to poll where nobody pushes.
    #[must_use]
    pub fn refresh_hint(&self) -> Duration {
        self.refresh_hint
    }

    /// The anchors, DER.
    pub fn anchors(&self) -> impl ExactSizeIterator<Item = CertificateDer<'_>> {
        self.anchors.iter().map(|der| CertificateDer::from_slice(der))
    }
}
