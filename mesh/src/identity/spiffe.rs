//! SPIFFE IDs (SPIFFE-ID standard, section 2). Upper case is refused, also in configuration: one rule everywhere.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use crate::model::{Namespace, ServiceAccount, Texts, text::as_text};

/// Longest ID that a validator must support, in bytes.
const ID_BYTES_MAX: usize = 2048;
/// Longest trust domain name, in bytes.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SpiffeIdError {
    /// Not `spiffe://`.
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    /// Longer than 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes")]
    TooLong,
    /// Empty, too long, or a character outside `[a-z0-9.-_]` (which also rules out user, port and percent signs).
    #[error("a trust domain has 1 to 255 characters of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain,
    /// An empty segment, `.` or `..`, a trailing slash, or a character outside `[a-zA-Z0-9.-_]`.
    #[error("a SPIFFE path has segments of letters, digits, '.', '-' and '_', none of them empty, '.' or '..'")]
    Path,
}

/// A trust domain: whose certificates verify only against its own bundle.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks a bare trust domain name.
    ///
    /// # Errors
    /// When it is empty, longer than 255 bytes or has a character outside `[a-z0-9.-_]`.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > TRUST_DOMAIN_BYTES_MAX || !text.bytes().all(good) {
            return Err(SpiffeIdError::TrustDomain);
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of a workload: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn workload(&self, namespace: &Namespace, account: &ServiceAccount) -> SpiffeId {
        self.with_path(&format!("/ns/{namespace}/sa/{account}"))
    }

    /// The trust domain's own ID, which only its signing certificates carry.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        self.with_path("")
    }

    /// `path` is empty or a legal path with its leading slash.
    pub(super) fn with_path(&self, path: &str) -> SpiffeId {
        SpiffeId {
            domain_bytes: self.0.len(),
            text: format!("{SCHEME}{self}{path}").into(),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(text)
    }
}

as_text!(TrustDomain);

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>[/<path>]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_bytes: usize,
}

impl SpiffeId {
    /// Checks `text` by the rules of the SPIFFE-ID standard.
    ///
    /// # Errors
    /// Names the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > ID_BYTES_MAX {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        TrustDomain::parse(domain)?;
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self {
            text: text.into(),
            domain_bytes: domain.len(),
        })
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Keeps the text once for all that have it.
    pub fn share(&mut self, texts: &mut Texts) {
        texts.share(&mut self.text);
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.text[SCHEME.len()..SCHEME.len() + self.domain_bytes].into())
    }

    /// The path with its leading slash; empty for the ID of a trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.domain_bytes..]
    }

    /// Namespace and service account, when the path has the form `/ns/<namespace>/sa/<service account>`.
    #[must_use]
    pub fn workload(&self) -> Option<(Namespace, ServiceAccount)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        Some((Namespace::parse(namespace).ok()?, ServiceAccount::parse(account).ok()?))
    }
}

fn is_segment(segment: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(good)
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::parse(text)
    }
}

as_text!(SpiffeId);

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_standard() {
        for (text, fault) in [
            ("spiffe://eu.example", None),
            ("spiffe://eu.example/ns/shop/sa/pay", None),
            ("spiffe://1.2.3.4/a", None),
            ("spiffe://td/A_b-c.d", None),
            ("https://td/a", Some(SpiffeIdError::Scheme)),
            ("SPIFFE://td/a", Some(SpiffeIdError::Scheme)),
            ("spiffe:///a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://TD/a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://td:80/a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://u@td/a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://t%64/a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://[::1]/a", Some(SpiffeIdError::TrustDomain)),
            ("spiffe://td/", Some(SpiffeIdError::Path)),
            ("spiffe://td/a/", Some(SpiffeIdError::Path)),
            ("spiffe://td//a", Some(SpiffeIdError::Path)),
            ("spiffe://td/./a", Some(SpiffeIdError::Path)),
            ("spiffe://td/../a", Some(SpiffeIdError::Path)),
            ("spiffe://td/a?q", Some(SpiffeIdError::Path)),
            ("spiffe://td/a#f", Some(SpiffeIdError::Path)),
            ("spiffe://td/%41", Some(SpiffeIdError::Path)),
        ] {
            assert_eq!(SpiffeId::parse(text).err(), fault, "{text}");
        }
        assert_eq!(
            SpiffeId::parse(&format!("spiffe://td/{}", "a".repeat(2048))).err(),
            Some(SpiffeIdError::TooLong)
        );
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert!(SpiffeId::parse(&longest).is_ok(), "2048 bytes must be supported");
    }

    #[test]
    fn a_workload_id_gives_its_parts_back() {
        let domain = TrustDomain::parse("eu").expect("valid");
        let (namespace, account) = (
            Namespace::parse("shop").expect("valid"),
            ServiceAccount::parse("pay").expect("valid"),
        );
        let id = domain.workload(&namespace, &account);
        assert_eq!(id, SpiffeId::parse("spiffe://eu/ns/shop/sa/pay").expect("valid"));
        assert_eq!((id.trust_domain(), id.workload()), (domain, Some((namespace, account))));
        assert_eq!(SpiffeId::parse("spiffe://eu/other").expect("valid").workload(), None);
    }
}
