//! An X509-SVID with its key: parsed, checked, kept in a directory as PEM. A key that does not fit its certificate is
//! refused here, not in the first handshake.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use thiserror::Error;

use super::{
    SpiffeId,
    tls::provider,
    verify::{Fault, check_leaf},
};
use crate::model::Timestamp;

const CHAIN_FILE: &str = "svid.pem";
const KEY_FILE: &str = "key.pem";
/// PEM's line, in characters.
const PEM_LINE: usize = 64;

/// Why there is no SVID.
#[derive(Debug, Error)]
pub enum SvidError {
    /// The chain is empty.
    #[error("certificate chain is empty")]
    Empty,
    /// The leaf breaks a rule.
    #[error("certificate is no SVID")]
    Leaf(#[source] Fault),
    /// The key is not PKCS#8, of an unknown kind, or another certificate's.
    #[error("private key does not fit the certificate of {0}")]
    Key(SpiffeId, #[source] rustls::Error),
    /// A key could not be made.
    #[error("private key could not be made")]
    Generate(#[source] rcgen::Error),
    /// A file.
    #[error("{path} cannot be {verb}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read or written.
        verb: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is no PEM.
    #[error("{path} is not PEM of the expected kind; remove both files of this directory to start again")]
    Pem {
        /// Which.
        path: PathBuf,
    },
}

/// A certificate chain and its private key. Clones share them.
#[derive(Clone)]
pub struct Svid(Arc<Parts>);

struct Parts {
    certified: Arc<CertifiedKey>,
    key: PrivatePkcs8KeyDer<'static>,
    id: SpiffeId,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key never reaches a log.
        f.debug_struct("Svid")
            .field("id", &self.0.id)
            .field("not_after", &self.0.not_after)
            .finish_non_exhaustive()
    }
}

impl Svid {
    /// Puts a chain (DER, leaf first) and its key (PKCS#8 DER) together. Who signed it is not looked at.
    ///
    /// # Errors
    /// When the leaf is no SVID, or the key is another one's.
    pub fn parse(chain: Vec<Vec<u8>>, key_pkcs8: Vec<u8>) -> Result<Self, SvidError> {
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let leaf = chain.first().ok_or(SvidError::Empty)?;
        let id = check_leaf(leaf).map_err(SvidError::Leaf)?;
        let malformed = |_| SvidError::Leaf(Fault::Malformed);
        let (_, cert) = x509_parser::parse_x509_certificate(leaf).map_err(malformed)?;
        let seconds = |at: i64| Timestamp(at.saturating_mul(1000));
        let not_before = seconds(cert.validity().not_before.timestamp());
        let not_after = seconds(cert.validity().not_after.timestamp());
        let key = PrivatePkcs8KeyDer::from(key_pkcs8);
        let certified = CertifiedKey::from_der(chain, PrivateKeyDer::Pkcs8(key.clone_key()), &provider())
            .map_err(|error| SvidError::Key(id.clone(), error))?;
        Ok(Self(Arc::new(Parts {
            certified: Arc::new(certified),
            key,
            id,
            not_before,
            not_after,
        })))
    }

    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    /// PKCS#8, DER.
    #[must_use]
    pub fn key_pkcs8(&self) -> &[u8] {
        self.0.key.secret_pkcs8_der()
    }

    /// Not good before.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }

    /// Not good after.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// Half of its life: when to ask for the next one.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        let life: Duration = self.0.not_after.since(self.0.not_before);
        self.0.not_before.plus(life / 2)
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.0.certified
    }

    /// Writes `svid.pem` and `key.pem` (mode 0600) into a directory, which is made when missing (mode 0700). Each file is
    /// replaced as a whole; the key goes first, and a torn pair is found by [`Svid::load`]. Blocks.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), SvidError> {
        let chain: String = self.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
        write_private(directory, KEY_FILE, &pem("PRIVATE KEY", self.key_pkcs8()))?;
        write_private(directory, CHAIN_FILE, &chain)
    }

    /// Reads what [`Svid::save`] wrote; none when there is nothing, or when a crash came between the two files. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read or is none of ours.
    pub fn load(directory: &Path) -> Result<Option<Self>, SvidError> {
        let (key_path, chain_path) = (directory.join(KEY_FILE), directory.join(CHAIN_FILE));
        let (Some(key), Some(chain)) = (read(&key_path)?, read(&chain_path)?) else {
            return Ok(None);
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&key).map_err(|_| SvidError::Pem { path: key_path })?;
        let chain = CertificateDer::pem_slice_iter(&chain)
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| SvidError::Pem { path: chain_path })?;
        match Self::parse(chain, key.secret_pkcs8_der().to_vec()) {
            Ok(svid) => Ok(Some(svid)),
            Err(SvidError::Key(..)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One PEM block.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(PEM_LINE) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, SvidError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SvidError::File {
            path: path.to_owned(),
            verb: "read",
            source,
        }),
    }
}

/// Replaces a file of mode 0600 as a whole: readers and crashes see the old text or the new one. Blocks.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_private(directory: &Path, name: &str, text: &str) -> Result<(), SvidError> {
    let path = directory.join(name);
    replace(
        directory,
        &path,
        &directory.join(format!(".{name}.new")),
        text.as_bytes(),
    )
    .map_err(|source| SvidError::File {
        path,
        verb: "written",
        source,
    })
}

fn replace(directory: &Path, path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests;
