//! The region's certificate authority: a root that stays out of the catalogue, an issuing certificate that every node can
//! use, and the rules who gets which identity. It signs only for its own trust domain.

pub mod attest;
mod certificate;
mod issue;
mod root;
pub mod rotate;

pub use attest::{Denial, Proof, Warrant};
pub(crate) use certificate::span;
pub use issue::Authority;
pub use root::Root;

use mesh::identity::{BundleError, IdentityError, SpiffeId, SvidError, TrustDomain};
use mesh::model::Timestamp;
use thiserror::Error;

/// Why nothing was signed, or an authority is refused.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The request does not parse, or is not signed by its own key.
    #[error("certificate request is malformed, of an unknown kind of key, or not signed by its own key")]
    Request,
    /// The identity is not this authority's to give.
    #[error("{id} is not an identity of trust domain {domain}, for which this authority signs")]
    ForeignId {
        /// Whose was asked for.
        id: SpiffeId,
        /// For whom this authority signs.
        domain: TrustDomain,
    },
    /// Too late.
    #[error("issuing certificate of {domain} has expired at {not_after:?}; rotate it")]
    Expired {
        /// For whom this authority signs.
        domain: TrustDomain,
        /// Its end.
        not_after: Timestamp,
    },
    /// An operator's file is no PEM of its kind.
    #[error("{file} has no PEM block of the kind {label}")]
    Pem {
        /// Which file.
        file: &'static str,
        /// What is looked for.
        label: &'static str,
    },
    /// An operator's certificate cannot sign SVIDs.
    #[error("{file} is no CA certificate for {domain}: {reason}")]
    NotCa {
        /// Which file.
        file: &'static str,
        /// For whom.
        domain: TrustDomain,
        /// The rule.
        reason: &'static str,
    },
    /// The key is another certificate's, or not PKCS#8.
    #[error("{file} does not fit the certificate; is it its key, as unencrypted PKCS#8?")]
    Key {
        /// Which file.
        file: &'static str,
    },
    /// What it signs does not verify against the anchors.
    #[error("certificates of this authority do not verify against the root certificate")]
    Chain(#[source] IdentityError),
    /// What it signs is no SVID.
    #[error("certificates of this authority are no SVIDs")]
    Svid(#[source] SvidError),
    /// An anchor is no CA certificate.
    #[error("root certificate cannot be an anchor")]
    Anchor(#[source] BundleError),
    /// Random numbers or the signature failed.
    #[error("cannot sign")]
    Sign(#[source] rcgen::Error),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

#[cfg(test)]
mod tests;
