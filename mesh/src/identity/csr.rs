//! Asking for an SVID: the key is made here and never leaves; the authority sees only the request.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{Svid, SvidError};

/// A new P-256 key and the PKCS#10 request that proves its possession.
pub struct KeyRequest {
    key: KeyPair,
    der: Vec<u8>,
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

impl KeyRequest {
    /// Makes key and request. The request names nobody: the authority decides who the caller is.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Self, SvidError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(SvidError::Generate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(SvidError::Generate)?;
        let der = request.der().to_vec();
        Ok(Self { key, der })
    }

    /// The request, PKCS#10 DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Puts the answer and the key together.
    ///
    /// # Errors
    /// When the chain is no SVID or belongs to another key.
    pub fn complete(self, chain: Vec<Vec<u8>>) -> Result<Svid, SvidError> {
        Svid::parse(chain, self.key.serialize_der())
    }
}
