//! How the authority's certificates look, and reading those that an operator brings.

use std::time::Duration;

use mesh::{
    identity::{SpiffeId, TrustDomain},
    model::{RegionId, Timestamp},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};
use x509_parser::extensions::GeneralName;

use super::{AuthorityError, rotate::Span};

/// Bytes of a serial number: random, so that two certificates for one key differ.
const SERIAL_BYTES: usize = 16;

/// A signing certificate: the trust domain's own ID, and nothing else that could authenticate.
pub(super) fn signing(
    name: &str,
    region: &RegionId,
    domain: &TrustDomain,
    path_len: u8,
    span: (Timestamp, Timestamp),
) -> Result<CertificateParams, AuthorityError> {
    let mut params = common(&domain.id(), span)?;
    // Names differ between generations: path building and people tell them apart.
    let serial = params
        .serial_number
        .as_ref()
        .map(SerialNumber::to_bytes)
        .unwrap_or_default();
    let tag: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "isthmus");
    subject.push(DnType::CommonName, format!("{region} {name} {tag}"));
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A leaf: one URI name, no subject, good for both ends of a connection.
pub(super) fn leaf(id: &SpiffeId, span: (Timestamp, Timestamp)) -> Result<CertificateParams, AuthorityError> {
    let mut params = common(id, span)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn common(id: &SpiffeId, (from, until): (Timestamp, Timestamp)) -> Result<CertificateParams, AuthorityError> {
    let mut serial = [0; SERIAL_BYTES];
    getrandom::fill(&mut serial).map_err(AuthorityError::Random)?;
    // Positive and of full length.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let name = id.as_str().try_into().map_err(AuthorityError::Sign)?;
    params.subject_alt_names = vec![SanType::URI(name)];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: Timestamp| Duration::from_secs(u64::try_from(at.0 / 1000).unwrap_or(0));
    params.not_before = epoch + seconds(from);
    params.not_after = epoch + seconds(until);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The validity of a certificate; none when it does not parse.
pub(crate) fn span(der: &[u8]) -> Option<Span> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
    Some(Span {
        not_before: at(cert.validity().not_before),
        not_after: at(cert.validity().not_after),
    })
}

/// What matters of a CA certificate.
#[derive(Debug)]
pub(super) struct CaCertificate {
    pub(super) not_after: Timestamp,
    pub(super) self_signed: bool,
    pub(super) public_key: Vec<u8>,
}

impl CaCertificate {
    /// Reads a certificate that is to sign for `domain`.
    pub(super) fn parse(der: &[u8], file: &'static str, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let refuse = |reason| AuthorityError::NotCa {
            file,
            domain: domain.clone(),
            reason,
        };
        let Ok(([], cert)) = x509_parser::parse_x509_certificate(der) else {
            return Err(refuse("it does not parse as X.509"));
        };
        if !cert.is_ca() {
            return Err(refuse("its basic constraints do not say CA"));
        }
        let may_sign = cert
            .key_usage()
            .ok()
            .flatten()
            .is_some_and(|it| it.value.key_cert_sign());
        if !may_sign {
            return Err(refuse("its key usage has no keyCertSign"));
        }
        let names = cert.subject_alternative_name();
        let names = names.map_err(|_| refuse("its alternative names are malformed"))?;
        let names = names.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
        let foreign = names
            .iter()
            .any(|name| matches!(name, GeneralName::URI(uri) if *uri != domain.id().as_str()));
        if foreign {
            return Err(refuse("its URI name is not the trust domain's ID"));
        }
        Ok(Self {
            not_after: Timestamp(cert.validity().not_after.timestamp().saturating_mul(1000)),
            self_signed: cert.subject() == cert.issuer(),
            public_key: cert.public_key().subject_public_key.data.to_vec(),
        })
    }
}
