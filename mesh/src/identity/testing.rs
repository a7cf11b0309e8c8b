//! Certificates for tests: good ones, and any way of bad.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{Bundle, Identity, SpiffeId, Svid, TrustDomain};
use crate::{model::RegionId, runtime::clock};

/// A root of one trust domain.
pub(crate) struct Ca {
    domain: TrustDomain,
    certificate: Vec<u8>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A good leaf's parameters, to be spoilt.
pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = epoch + Duration::from_millis(u64::try_from(clock::wall().0).unwrap());
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(3600);
    params
}

/// A signing certificate's parameters.
pub(crate) fn signing(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Ca {
    pub(crate) fn new(domain: &str) -> Self {
        Self::with(domain, signing(&format!("spiffe://{domain}")))
    }

    pub(crate) fn with(domain: &str, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            domain: TrustDomain::parse(domain).unwrap(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.certificate.clone()
    }

    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        self.bundle_of(1)
    }

    pub(crate) fn bundle_of(&self, sequence: u64) -> Arc<Bundle> {
        let region = RegionId::parse("test").unwrap();
        Arc::new(Bundle::new(self.domain.clone(), region, sequence, vec![self.der()]).unwrap())
    }

    /// A bundle without anchors.
    pub(crate) fn revoked(&self) -> Arc<Bundle> {
        let region = RegionId::parse("test").unwrap();
        Arc::new(Bundle::new(self.domain.clone(), region, 9, vec![]).unwrap())
    }

    /// Signs whatever is asked for; returns certificate and key, DER.
    pub(crate) fn sign(&self, params: &CertificateParams) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    }

    /// An intermediate of this CA: its certificate, and the CA that it is.
    pub(crate) fn intermediate(&self, mut params: CertificateParams) -> Self {
        let name = format!("intermediate {:x}", fastrand::u64(..));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self {
            domain: self.domain.clone(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn svid(&self, id: &str) -> Svid {
        let (certificate, key) = self.sign(&leaf(id));
        Svid::parse(vec![certificate], key).unwrap()
    }

    /// An identity that trusts this CA and `others`.
    pub(crate) fn identity(&self, id: &str, others: &[&Ca]) -> Identity {
        assert_eq!(SpiffeId::parse(id).unwrap().trust_domain(), self.domain);
        let bundles = others.iter().map(|ca| ca.bundle());
        Identity::new(self.svid(id), bundles.chain([self.bundle()])).unwrap()
    }
}
