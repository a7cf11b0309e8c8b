//! A trust bundle: the anchors of one trust domain. Bundles of different domains are never merged.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{TrustDomain, jwks};
use crate::model::RegionId;

/// How often a bundle is polled where nobody pushes it (SPIFFE Federation: 5 minutes when no hint is given).
const REFRESH_HINT_DEFAULT: Duration = Duration::from_secs(300);
/// Bounds of a hint that a peer gives: neither a storm nor a revocation that is seen next year.
const REFRESH_HINT_MIN: Duration = Duration::from_secs(60);
const REFRESH_HINT_MAX: Duration = Duration::from_secs(24 * 3600);

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
    /// No SPIFFE bundle document.
    #[error("bundle of trust domain {domain} is no SPIFFE bundle document")]
    Document {
        /// Whose bundle.
        domain: TrustDomain,
        /// What does not parse.
        #[source]
        source: serde_json::Error,
    },
    /// No SPIFFE bundle map.
    #[error("bundle map does not parse")]
    Map(#[source] serde_json::Error),
    /// A key of the map.
    #[error("bundle map has {0:?}, which is no trust domain name")]
    Domain(String),
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
            // Path validation must be able to use it, and its own constraints must say that it signs.
            let is_ca = x509_parser::parse_x509_certificate(der)
                .is_ok_and(|(rest, cert)| rest.is_empty() && cert.is_ca())
                && webpki::anchor_from_trusted_cert(&CertificateDer::from_slice(der)).is_ok();
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

    /// Reads a SPIFFE bundle document (RFC 7517 keys with `x5c`). Keys of other kinds and uses are ignored; none left
    /// means that all are revoked. Without a sequence the bundle has 0: the latest fetch wins.
    ///
    /// # Errors
    /// When the text is no such document, or one of its X.509 keys is no CA certificate.
    pub fn parse_json(domain: TrustDomain, region: RegionId, text: &str) -> Result<Self, BundleError> {
        let document = serde_json::from_str(text).map_err(|source| BundleError::Document {
            domain: domain.clone(),
            source,
        })?;
        Self::from_document(domain, region, document)
    }

    fn from_document(domain: TrustDomain, region: RegionId, document: jwks::Document) -> Result<Self, BundleError> {
        let hint = document.spiffe_refresh_hint.map(Duration::from_secs);
        let mut bundle = Self::new(
            domain,
            region,
            document.spiffe_sequence.unwrap_or(0),
            document.anchors(),
        )?;
        bundle.refresh_hint = hint.map_or(REFRESH_HINT_DEFAULT, |hint| {
            hint.clamp(REFRESH_HINT_MIN, REFRESH_HINT_MAX)
        });
        Ok(bundle)
    }

    /// The SPIFFE bundle document, for a bundle endpoint.
    #[must_use]
    pub fn to_json(&self) -> String {
        let document = jwks::Document::new(self.sequence, self.refresh_hint, self.anchors());
        serde_json::to_string(&document).expect("a struct of strings and numbers has a JSON form")
    }

    /// Reads a SPIFFE bundle map: `{"trust_domains": {"<name>": <bundle>}}`. All or nothing.
    ///
    /// # Errors
    /// When a key stands twice or is no trust domain, or a bundle is wrong.
    pub fn parse_map(region: &RegionId, text: &str) -> Result<Vec<Self>, BundleError> {
        let map: jwks::Map = serde_json::from_str(text).map_err(BundleError::Map)?;
        map.trust_domains
            .0
            .into_iter()
            .map(|(name, document)| {
                let domain = TrustDomain::parse(&name).map_err(|_| BundleError::Domain(name))?;
                Self::from_document(domain, region.clone(), document)
            })
            .collect()
    }

    /// The SPIFFE bundle map of these bundles; of two of one domain the later one counts.
    #[must_use]
    pub fn to_json_map<'a>(bundles: impl IntoIterator<Item = &'a Self>) -> String {
        let documents = bundles.into_iter().map(|bundle| {
            let document = jwks::Document::new(bundle.sequence, bundle.refresh_hint, bundle.anchors());
            (bundle.domain.to_string(), document)
        });
        let map = jwks::Map {
            trust_domains: jwks::Unique(documents.collect()),
        };
        serde_json::to_string(&map).expect("a struct of strings and numbers has a JSON form")
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;
    use crate::identity::testing::Ca;

    fn domain() -> TrustDomain {
        TrustDomain::parse("eu").unwrap()
    }

    fn region() -> RegionId {
        RegionId::parse("eu").unwrap()
    }

    #[test]
    fn a_bundle_reads_back_from_its_document() {
        let (one, other) = (Ca::new("eu"), Ca::new("eu"));
        let bundle = Bundle::new(domain(), region(), 7, vec![one.der(), other.der()]).unwrap();
        let text = bundle.to_json();
        assert_eq!(Bundle::parse_json(domain(), region(), &text).unwrap(), bundle);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["spiffe_sequence"], 7);
        let key = &json["keys"][0];
        assert_eq!(
            (&key["kty"], &key["use"], &key["crv"]),
            (&"EC".into(), &"x509-svid".into(), &"P-256".into())
        );
        assert!(
            key.get("kid").is_none() && key["x"].is_string() && key["y"].is_string(),
            "{key}"
        );
    }

    #[test]
    fn foreign_keys_are_ignored_and_broken_ones_refused() {
        let ca = STANDARD.encode(Ca::new("eu").der());
        let parse = |keys: &str| {
            let text = format!("{{\"spiffe_sequence\":18446744073709551615,\"other\":[],\"keys\":{keys}}}");
            Bundle::parse_json(domain(), region(), &text)
        };
        let x509 = format!(r#"{{"kty":"EC","use":"x509-svid","x5c":["{ca}","ignored"]}}"#);
        for (keys, anchors) in [
            (format!("[{x509}]"), 1),
            ("[]".to_owned(), 0),
            (
                r#"[{"kty":"EC","use":"jwt-svid","kid":"a","x":"","y":""}]"#.to_owned(),
                0,
            ),
            (format!(r#"[{{"kty":"XX","use":"x509-svid","x5c":["{ca}"]}}]"#), 0),
            (format!(r#"[{{"kty":"EC","use":"other","x5c":["{ca}"]}}]"#), 0),
            (format!(r#"[{{"kty":"EC","x5c":["{ca}"]}},{x509}]"#), 1),
            (format!(r#"[{{"use":"x509-svid","x5c":["{ca}"]}}]"#), 0),
            (r#"[{"kty":"EC","use":"x509-svid"}]"#.to_owned(), 0),
            (r#"[{"kty":"EC","use":"x509-svid","x5c":[]}]"#.to_owned(), 0),
        ] {
            let bundle = parse(&keys).unwrap_or_else(|error| panic!("{keys}: {error}"));
            assert_eq!(bundle.anchors().len(), anchors, "{keys}");
            assert_eq!(bundle.sequence(), u64::MAX);
        }
        let leaf = Ca::new("eu").svid("spiffe://eu/a").chain()[0].to_vec();
        for keys in [
            r#"[{"kty":"EC","use":"x509-svid","x5c":["AAAA"]}]"#.to_owned(),
            r#"[{"kty":"EC","use":"x509-svid","x5c":["!"]}]"#.to_owned(),
            format!(
                r#"[{{"kty":"EC","use":"x509-svid","x5c":["{}"]}}]"#,
                STANDARD.encode(leaf)
            ),
        ] {
            assert!(
                matches!(parse(&keys), Err(BundleError::Anchor { index: 0, .. })),
                "{keys}"
            );
        }
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"spiffe_sequence":-1}"#] {
            let error = Bundle::parse_json(domain(), region(), text).expect_err(text);
            assert!(matches!(error, BundleError::Document { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn hints_stay_within_bounds() {
        for (hint, expected) in [
            ("", 300),
            (",\"spiffe_refresh_hint\":1", 60),
            (",\"spiffe_refresh_hint\":2419200", 86_400),
        ] {
            let text = format!("{{\"keys\":[]{hint}}}");
            let bundle = Bundle::parse_json(domain(), region(), &text).unwrap();
            assert_eq!(bundle.refresh_hint(), Duration::from_secs(expected), "{text}");
        }
    }

    #[test]
    fn a_map_holds_each_domain_once() {
        let us = TrustDomain::parse("us").unwrap();
        let bundles = [
            Bundle::new(domain(), region(), 1, vec![Ca::new("eu").der()]).unwrap(),
            Bundle::new(us, region(), 2, vec![]).unwrap(),
        ];
        let text = Bundle::to_json_map(&bundles);
        assert_eq!(Bundle::parse_map(&region(), &text).unwrap(), bundles);
        let twice = r#"{"trust_domains":{"eu":{"keys":[]},"eu":{"keys":[]}}}"#;
        let error = Bundle::parse_map(&region(), twice).expect_err("twice");
        assert!(format!("{:?}", error).contains("twice"), "{error:?}");
        let bad = r#"{"trust_domains":{"EU":{"keys":[]}}}"#;
        assert!(matches!(Bundle::parse_map(&region(), bad), Err(BundleError::Domain(name)) if name == "EU"));
    }
}
