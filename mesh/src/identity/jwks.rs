//! The JSON of SPIFFE bundles: RFC 7517 key sets whose X.509 keys carry one certificate each, and maps of them. Pure.

use std::{collections::BTreeMap, fmt, marker::PhantomData, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::CertificateDer;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use x509_parser::public_key::PublicKey;

const USE_X509: &str = "x509-svid";
/// Kinds of keys that certificates have here; others are ignored, as the standard says.
const KEY_KINDS: [&str; 3] = ["RSA", "EC", "OKP"];

/// One domain's bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_refresh_hint: Option<u64>,
    keys: Vec<Key>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Key {
    #[serde(skip_serializing_if = "Option::is_none")]
    kty: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    x5c: Vec<String>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

impl Document {
    pub(super) fn new<'a>(
        sequence: u64,
        refresh_hint: Duration,
        anchors: impl Iterator<Item = CertificateDer<'a>>,
    ) -> Self {
        Self {
            spiffe_sequence: Some(sequence),
            spiffe_refresh_hint: Some(refresh_hint.as_secs()),
            keys: anchors.map(|der| Key::of(&der)).collect(),
        }
    }

    /// The certificates of its X.509 keys. One that is no base64 comes out empty, and so is refused as an anchor.
    pub(super) fn anchors(&self) -> Vec<Vec<u8>> {
        let known = |key: &&Key| {
            key.usage.as_deref() == Some(USE_X509) && key.kty.as_deref().is_some_and(|kty| KEY_KINDS.contains(&kty))
        };
        self.keys
            .iter()
            .filter(known)
            .filter_map(|key| key.x5c.first())
            .map(|text| STANDARD.decode(text).unwrap_or_default())
            .collect()
    }
}

impl Key {
    fn of(der: &CertificateDer<'_>) -> Self {
        let mut key = Self {
            usage: Some(USE_X509.to_owned()),
            x5c: vec![STANDARD.encode(der)],
            ..Self::default()
        };
        let parsed = x509_parser::parse_x509_certificate(der);
        let public = parsed
            .as_ref()
            .ok()
            .and_then(|(_, cert)| cert.public_key().parsed().ok());
        match public {
            Some(PublicKey::RSA(rsa)) => {
                key.kty = Some("RSA".to_owned());
                key.n = Some(URL_SAFE_NO_PAD.encode(unsigned(rsa.modulus)));
                key.e = Some(URL_SAFE_NO_PAD.encode(unsigned(rsa.exponent)));
            }
            Some(PublicKey::EC(point)) => {
                // Uncompressed: a mark, then both coordinates.
                let (x, y) = point
                    .data()
                    .get(1..)
                    .map_or((&[][..], &[][..]), |both| both.split_at(both.len() / 2));
                key.kty = Some("EC".to_owned());
                key.crv = match x.len() {
                    32 => Some("P-256"),
                    48 => Some("P-384"),
                    66 => Some("P-521"),
                    _ => None,
                };
                key.x = Some(URL_SAFE_NO_PAD.encode(x));
                key.y = Some(URL_SAFE_NO_PAD.encode(y));
            }
            // Ed25519 is the only other one that path validation takes.
            _ => {
                key.kty = Some("OKP".to_owned());
                key.crv = Some("Ed25519");
                key.x = parsed
                    .ok()
                    .map(|(_, cert)| URL_SAFE_NO_PAD.encode(&cert.public_key().subject_public_key.data));
            }
        }
        key
    }
}

/// DER integers have a zero in front when their first bit is set.
fn unsigned(integer: &[u8]) -> &[u8] {
    integer.strip_prefix(&[0]).unwrap_or(integer)
}

/// Bundles of several domains.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Map {
    pub(super) trust_domains: Unique<Document>,
}

/// A map that refuses a key that stands twice: which of two bundles counts must not depend on the reader.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Unique<V>(pub(super) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a bundle for each trust domain")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique<V>, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, V>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("trust domain {key:?} stands twice")));
                    }
                    map.insert(key, value);
                }
                Ok(Unique(map))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}
