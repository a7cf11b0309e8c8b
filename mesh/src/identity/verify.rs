//! Is this certificate chain a good X509-SVID? Follows the SPIFFE validator's rules step by step, then RFC 5280 path
//! validation against the one bundle of the leaf's own trust domain. Bundles are never merged; no bundle means no.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use thiserror::Error;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::{Bundle, SpiffeId, SpiffeIdError, TrustDomain, tls::provider};
use crate::model::Timestamp;

/// Which end of the connection is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The peer accepted the connection.
    Server,
    /// The peer opened the connection.
    Client,
}

/// Why a certificate is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was presented.
    #[error("peer presented no certificate")]
    NoCertificate,
    /// Not DER, or an extension twice or malformed.
    #[error("certificate does not parse as X.509")]
    Malformed,
    /// No URI name: an ordinary TLS certificate.
    #[error("certificate has no URI name, so it is no SVID")]
    NoUri,
    /// An SVID has exactly one.
    #[error("certificate has {0} URI names, an SVID has one")]
    ManyUris(usize),
    /// The URI breaks a rule.
    #[error("certificate's URI name is no SPIFFE ID")]
    Id(#[source] SpiffeIdError),
    /// The ID of a trust domain authenticates nobody.
    #[error("certificate is for {0}, an ID without a path, which is for signing only")]
    NoPath(SpiffeId),
    /// A signing certificate must not authenticate.
    #[error("certificate of {0} is a CA certificate, which must not authenticate")]
    Ca(SpiffeId),
    /// The extension is missing or not critical.
    #[error("certificate of {0} has no critical key usage")]
    NoKeyUsage(SpiffeId),
    /// It cannot sign handshakes.
    #[error("certificate of {0} has no digitalSignature in its key usage")]
    NoDigitalSignature(SpiffeId),
    /// It could sign certificates or CRLs.
    #[error("certificate of {0} has keyCertSign or cRLSign in its key usage")]
    SigningKeyUsage(SpiffeId),
    /// Present, but not for both ends.
    #[error("certificate of {0} has an extended key usage without both serverAuth and clientAuth")]
    ExtendedKeyUsage(SpiffeId),
    /// Without a subject the alternative names must be critical.
    #[error("certificate of {0} has an empty subject and alternative names that are not critical")]
    SanNotCritical(SpiffeId),
    /// A CA certificate of the chain has an ID with a path, or one of another trust domain.
    #[error("signing certificate of {0}'s chain has an ID with a path or of another trust domain")]
    Issuer(SpiffeId),
    /// No federation with it.
    #[error("trust domain {0} is not known here; is the region a peer?")]
    UnknownTrustDomain(TrustDomain),
    /// Its bundle is empty.
    #[error("all keys of trust domain {0} are revoked")]
    Revoked(TrustDomain),
    /// Signed by somebody else.
    #[error("certificate of {0} is not signed by a CA of its own trust domain")]
    WrongCa(SpiffeId),
    /// Too late.
    #[error("certificate of {0} has expired")]
    Expired(SpiffeId),
    /// Too early.
    #[error("certificate of {0} is not valid yet; do the clocks agree?")]
    NotYetValid(SpiffeId),
    /// Another rule of RFC 5280.
    #[error("certificate chain of {id} is not valid: {reason}")]
    Path {
        /// Whose.
        id: SpiffeId,
        /// The rule.
        reason: webpki::Error,
    },
    /// A good certificate of somebody else.
    #[error("peer is {got}, not {expected}")]
    Unexpected {
        /// Who it is.
        got: SpiffeId,
        /// Who was wanted.
        expected: String,
    },
}

impl Fault {
    /// The fault behind a failed handshake, when this end found it.
    #[must_use]
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
            return None;
        };
        other.0.downcast_ref()
    }
}

impl From<Fault> for rustls::Error {
    fn from(fault: Fault) -> Self {
        let other = rustls::OtherError(Arc::new(fault));
        Self::InvalidCertificate(rustls::CertificateError::Other(other))
    }
}

/// Checks everything that a leaf certificate shows by itself, and returns whose it is.
///
/// # Errors
/// The first rule that is broken.
pub fn check_leaf(der: &CertificateDer<'_>) -> Result<SpiffeId, Fault> {
    let cert = parse(der)?;
    let id = uri_id(&cert)?.ok_or(Fault::NoUri)?;
    if id.path().is_empty() {
        return Err(Fault::NoPath(id));
    }
    if cert
        .basic_constraints()
        .map_err(|_| Fault::Malformed)?
        .is_some_and(|it| it.value.ca)
    {
        return Err(Fault::Ca(id));
    }
    let Some(usage) = cert.key_usage().map_err(|_| Fault::Malformed)?.filter(|it| it.critical) else {
        return Err(Fault::NoKeyUsage(id));
    };
    if !usage.value.digital_signature() {
        return Err(Fault::NoDigitalSignature(id));
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(Fault::SigningKeyUsage(id));
    }
    let extended = cert.extended_key_usage().map_err(|_| Fault::Malformed)?;
    if extended.is_some_and(|it| !(it.value.server_auth && it.value.client_auth)) {
        return Err(Fault::ExtendedKeyUsage(id));
    }
    let names = cert.subject_alternative_name().map_err(|_| Fault::Malformed)?;
    if cert.subject().iter().next().is_none() && names.is_some_and(|it| !it.critical) {
        return Err(Fault::SanNotCritical(id));
    }
    Ok(id)
}

/// A signing certificate may have no ID, or its trust domain's.
fn check_issuer(der: &CertificateDer<'_>, leaf: &SpiffeId) -> Result<(), Fault> {
    let id = uri_id(&parse(der)?)?;
    if id.is_some_and(|id| !id.path().is_empty() || id.trust_domain() != leaf.trust_domain()) {
        return Err(Fault::Issuer(leaf.clone()));
    }
    Ok(())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Fault> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(Fault::Malformed),
    }
}

/// The SPIFFE ID in the one URI name; none without a URI name.
fn uri_id(cert: &X509Certificate<'_>) -> Result<Option<SpiffeId>, Fault> {
    let names = cert.subject_alternative_name().map_err(|_| Fault::Malformed)?;
    let names = names.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(Fault::Malformed);
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let Some(uri) = uris.next() else {
        return Ok(None);
    };
    match uris.count() {
        0 => SpiffeId::parse(uri).map(Some).map_err(Fault::Id),
        more => Err(Fault::ManyUris(more + 1)),
    }
}

/// One domain's anchors in the form that path validation takes.
#[derive(Debug)]
struct Anchors {
    bundle: Arc<Bundle>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Anchors {
    fn of(bundle: Arc<Bundle>) -> Self {
        let anchors = bundle
            .anchors()
            // A bundle holds CA certificates; one that path validation cannot use vouches for nobody.
            .filter_map(|der| Some(webpki::anchor_from_trusted_cert(&der).ok()?.to_owned()))
            .collect();
        Self { bundle, anchors }
    }
}

type Domains = HashMap<TrustDomain, Arc<Anchors>>;

/// The bundles by trust domain. Readers take no lock.
#[derive(Debug, Default)]
pub(super) struct Trust {
    domains: ArcSwap<Domains>,
}

impl Trust {
    /// Takes over `bundles`; the one of `kept` stays when it is not among them. Returns whether anything changed.
    /// Callers take turns.
    pub(super) fn replace(&self, bundles: impl IntoIterator<Item = Arc<Bundle>>, kept: Option<&TrustDomain>) -> bool {
        let old = self.domains.load();
        let mut new = Domains::new();
        for bundle in bundles {
            let domain = bundle.trust_domain().clone();
            let anchors = match old.get(&domain) {
                Some(known) if known.bundle == bundle => Arc::clone(known),
                _ => Arc::new(Anchors::of(bundle)),
            };
            new.insert(domain, anchors);
        }
        if let Some((domain, anchors)) = kept.and_then(|domain| old.get_key_value(domain)) {
            new.entry(domain.clone()).or_insert_with(|| Arc::clone(anchors));
        }
        let same = |domain: &TrustDomain, anchors: &Arc<Anchors>| {
            old.get(domain)
                .is_some_and(|known| known.bundle.anchors().eq(anchors.bundle.anchors()))
        };
        let changed = new.len() != old.len() || !new.iter().all(|(domain, anchors)| same(domain, anchors));
        self.domains.store(Arc::new(new));
        changed
    }

    /// The bundle of a domain.
    pub(super) fn bundle(&self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        Some(Arc::clone(&self.domains.load().get(domain)?.bundle))
    }

    /// All rules, for a chain with the leaf first.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
        now: UnixTime,
    ) -> Result<SpiffeId, Fault> {
        let id = check_leaf(leaf)?;
        for der in intermediates {
            check_issuer(der, &id)?;
        }
        let domain = id.trust_domain();
        let domains = self.domains.load();
        let Some(own) = domains.get(&domain) else {
            return Err(Fault::UnknownTrustDomain(domain));
        };
        if own.anchors.is_empty() {
            return Err(Fault::Revoked(domain));
        }
        let usage = match side {
            Side::Server => webpki::KeyUsage::server_auth(),
            Side::Client => webpki::KeyUsage::client_auth(),
        };
        let algorithms = provider().signature_verification_algorithms;
        let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|_| Fault::Malformed)?;
        leaf.verify_for_usage(algorithms.all, &own.anchors, intermediates, now, usage, None, None)
            .map_err(|reason| path_fault(id.clone(), reason))?;
        Ok(id)
    }
}

fn path_fault(id: SpiffeId, reason: webpki::Error) -> Fault {
    match reason {
        webpki::Error::CertExpired { .. } => Fault::Expired(id),
        webpki::Error::CertNotValidYet { .. } => Fault::NotYetValid(id),
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Fault::WrongCa(id),
        reason => Fault::Path { id, reason },
    }
}

/// Wall-clock time as path validation takes it.
pub(super) fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.0).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
