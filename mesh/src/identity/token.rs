//! Join tokens: one word that tells a newcomer where the registry is, how to know it, and proves that it was invited.
//! Only a digest of the secret is kept by the registry. A word of another kind, or cut off by a copy, is refused by name.

use std::fmt;

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Bootstrap, BundleError, TrustDomain};
use crate::model::{RegionId, Timestamp};

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Longest token that is read, in bytes: three addresses and two anchors take 3 KiB.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// A token that was cut within a group of four characters has loose bits at its end; JSON tells that it was cut.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// What a token invites to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// A workload's or a gateway's agent.
    Workload,
    /// Another region's registry.
    Peer,
    /// A node of this region's registry.
    Node,
}

impl TokenKind {
    const ALL: [Self; 3] = [Self::Workload, Self::Peer, Self::Node];

    /// The name in the token.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Peer => "peer",
            Self::Node => "node",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Workload => "isthmus-workload-v1.",
            Self::Peer => "isthmus-peer-v1.",
            Self::Node => "isthmus-node-v1.",
        }
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a token is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// Some other text.
    #[error("this is no isthmus token; one begins with {}", .wanted.prefix())]
    NoToken {
        /// The kind that is needed.
        wanted: TokenKind,
    },
    /// A token for something else.
    #[error("token is a {got} token, a {wanted} token is needed")]
    Kind {
        /// What it is.
        got: TokenKind,
        /// The kind that is needed.
        wanted: TokenKind,
    },
    /// A newer or older form.
    #[error("token is of another version than v1; use the same release on both sides")]
    Version,
    /// Its end is missing.
    #[error("token is cut off; copy the whole word")]
    CutOff,
    /// Not base64url, or not the fields of a token.
    #[error("token is damaged ({0}); copy it again or ask for a new one")]
    Damaged(String),
    /// Too late.
    #[error("token has expired {ago_seconds} s ago; ask for a new one")]
    Expired {
        /// How long ago.
        ago_seconds: u64,
    },
}

/// The secret of a token. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A new one from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// What the registry keeps and compares.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The secret as it is sent to the registry, over a connection that was verified.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// A secret that was received.
    ///
    /// # Errors
    /// When it has not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let bytes = bytes
            .try_into()
            .map_err(|_| TokenError::Damaged(format!("its secret has {} bytes, not {SECRET_BYTES}", bytes.len())))?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// To what.
    pub kind: TokenKind,
    /// Whose.
    pub region: RegionId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// `host:port` of its registry's nodes.
    pub addresses: Vec<String>,
    /// DER certificates by which its registry is known.
    pub anchors: Vec<Vec<u8>>,
    /// Proof of the invitation.
    pub secret: Secret,
    /// Not good from then on.
    pub expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    region: RegionId,
    trust_domain: TrustDomain,
    addresses: Vec<String>,
    anchors: Vec<String>,
    secret: String,
    expires_at_ms: i64,
}

impl Token {
    /// The word.
    #[must_use]
    pub fn encode(&self) -> String {
        let fields = Fields {
            region: self.region.clone(),
            trust_domain: self.trust_domain.clone(),
            addresses: self.addresses.clone(),
            anchors: self
                .anchors
                .iter()
                .map(|der| general_purpose::STANDARD.encode(der))
                .collect(),
            secret: general_purpose::URL_SAFE_NO_PAD.encode(self.secret.0),
            expires_at_ms: self.expires_at.0,
        };
        let json = serde_json::to_vec(&fields).expect("a struct of strings and numbers has a JSON form");
        format!(
            "{}{}",
            self.kind.prefix(),
            general_purpose::URL_SAFE_NO_PAD.encode(json)
        )
    }

    /// Reads a word of the kind that is needed; surrounding white space is ignored. The time is not checked.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(text: &str, wanted: TokenKind) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = Self::body(text, wanted)?;
        let json = LENIENT.decode(body).map_err(|error| match error {
            base64::DecodeError::InvalidLength(_) => TokenError::CutOff,
            other => TokenError::Damaged(other.to_string()),
        })?;
        let fields: Fields = serde_json::from_slice(&json).map_err(|error| {
            if error.is_eof() {
                TokenError::CutOff
            } else {
                TokenError::Damaged(error.to_string())
            }
        })?;
        let damaged = |what: &'static str| move |_: base64::DecodeError| TokenError::Damaged(what.to_owned());
        let anchors = fields
            .anchors
            .iter()
            .map(|text| general_purpose::STANDARD.decode(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(damaged("an anchor is not base64"))?;
        let secret = general_purpose::URL_SAFE_NO_PAD
            .decode(&fields.secret)
            .map_err(damaged("its secret is not base64url"))?;
        if fields.addresses.is_empty() || anchors.is_empty() {
            return Err(TokenError::Damaged("it names no address or no anchor".to_owned()));
        }
        Ok(Self {
            kind: wanted,
            region: fields.region,
            trust_domain: fields.trust_domain,
            addresses: fields.addresses,
            anchors,
            secret: Secret::from_bytes(&secret)?,
            expires_at: Timestamp(fields.expires_at_ms),
        })
    }

    fn body(text: &str, wanted: TokenKind) -> Result<&str, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Damaged(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
        }
        for kind in TokenKind::ALL {
            if let Some(body) = text.strip_prefix(kind.prefix()) {
                if kind != wanted {
                    return Err(TokenError::Kind { got: kind, wanted });
                }
                return Ok(body);
            }
            if text.len() > "isthmus-".len() && kind.prefix().starts_with(text) {
                return Err(TokenError::CutOff);
            }
            if text.starts_with(kind.prefix().trim_end_matches("1.")) {
                return Err(TokenError::Version);
            }
        }
        Err(TokenError::NoToken { wanted })
    }

    /// Whether it is still good at `now`; the registry decides by its own clock, so this only saves the way there.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_time(&self, now: Timestamp) -> Result<(), TokenError> {
        if now >= self.expires_at {
            let ago_seconds = now.since(self.expires_at).as_secs();
            return Err(TokenError::Expired { ago_seconds });
        }
        Ok(())
    }

    /// TLS for the first call, by the token's own anchors.
    ///
    /// # Errors
    /// When an anchor is no CA certificate.
    pub fn bootstrap(&self) -> Result<Bootstrap, BundleError> {
        Bootstrap::new(self.trust_domain.clone(), &self.region, self.anchors.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            kind: TokenKind::Workload,
            region: RegionId::parse("eu").unwrap(),
            trust_domain: TrustDomain::parse("eu.example").unwrap(),
            addresses: vec!["registry.eu:15012".to_owned()],
            anchors: vec![vec![1, 2, 3], vec![4; 500]],
            secret: Secret::generate().unwrap(),
            expires_at: Timestamp(1_000_000),
        }
    }

    #[test]
    fn a_token_is_one_word_and_reads_back() {
        let token = token();
        let word = token.encode();
        assert!(
            word.starts_with("isthmus-workload-v1.") && !word.contains(char::is_whitespace),
            "{word}"
        );
        assert_eq!(Token::decode(&format!("  {word}\n"), TokenKind::Workload), Ok(token));
    }

    #[test]
    fn every_cut_is_called_a_cut() {
        let word = token().encode();
        for bytes in 9..word.len() {
            assert_eq!(
                Token::decode(&word[..bytes], TokenKind::Workload),
                Err(TokenError::CutOff),
                "{bytes} of {} bytes",
                word.len()
            );
        }
    }

    #[test]
    fn faults_have_names() {
        let word = Token {
            kind: TokenKind::Peer,
            ..token()
        }
        .encode();
        let error = Token::decode(&word, TokenKind::Workload).expect_err("another kind");
        assert_eq!(error.to_string(), "token is a peer token, a workload token is needed");
        assert_eq!(
            Token::decode("isthmus-peer-v2.abc", TokenKind::Peer),
            Err(TokenError::Version)
        );
        assert!(matches!(
            Token::decode("hello", TokenKind::Peer),
            Err(TokenError::NoToken { .. })
        ));
        let damaged = word.replacen("v1.e", "v1.!", 1);
        assert!(
            matches!(Token::decode(&damaged, TokenKind::Peer), Err(TokenError::Damaged(_))),
            "{damaged}"
        );
        let empty = Token {
            addresses: vec![],
            ..token()
        }
        .encode();
        assert!(matches!(
            Token::decode(&empty, TokenKind::Workload),
            Err(TokenError::Damaged(_))
        ));
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let token = token();
        assert_eq!(token.check_time(Timestamp(999_999)), Ok(()));
        assert_eq!(
            token.check_time(Timestamp(1_060_000)),
            Err(TokenError::Expired { ago_seconds: 60 })
        );
    }

    #[test]
    fn the_secret_is_kept_from_logs_and_differs_each_time() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_ne!(one.digest(), other.digest());
        assert_eq!(format!("{one:?}"), "Secret(..)");
        assert_eq!(Secret::from_bytes(one.as_bytes()).unwrap().digest(), one.digest());
        assert!(Secret::from_bytes(&[1; 31]).is_err());
    }
}
