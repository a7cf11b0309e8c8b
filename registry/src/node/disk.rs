//! What a node keeps beside its replica: who it is, its certificate, and after init the operator's credentials. Promises
//! that a node is either made completely or not at all: its card is written last, and nothing is overwritten.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use mesh::{
    identity::{Bundle, TrustDomain, write_private},
    model::{NodeId, RegionId},
};
use serde::{Deserialize, Serialize};

use super::Error;

const CARD: &str = "node.json";
const REPLICA: &str = "raft";
const IDENTITY: &str = "identity";
const OPERATOR: &str = "operator";
const ROOT_KEY: &str = "root-key.pem";
/// A new root, until it is the only one.
const NEXT_ROOT_KEY: &str = "root-next-key.pem";
const OPERATOR_BUNDLE: &str = "bundle.pem";

/// Who a node is; written once, when it is made or has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Its region.
    pub region: RegionId,
    /// The region's trust domain.
    pub trust_domain: TrustDomain,
    /// Its id in the Raft group.
    pub node: NodeId,
    /// The anchors that it was made with, base64 of DER: enough to reach the other nodes before it has a catalogue.
    anchors: Vec<String>,
}

impl Card {
    pub(crate) fn new(region: RegionId, trust_domain: TrustDomain, node: NodeId, anchors: &[Vec<u8>]) -> Self {
        Self {
            region,
            trust_domain,
            node,
            anchors: anchors.iter().map(|der| STANDARD.encode(der)).collect(),
        }
    }

    /// The region's own bundle as the node first knew it; the catalogue's replaces it. None when the card was spoiled.
    pub(crate) fn bundle(&self) -> Option<Bundle> {
        let anchors: Option<Vec<_>> = self.anchors.iter().map(|der| STANDARD.decode(der).ok()).collect();
        Bundle::new(self.trust_domain.clone(), self.region.clone(), 1, anchors?).ok()
    }
}

/// The files of one data directory.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Where the node's certificate and key are.
    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.join(IDENTITY)
    }

    /// Where init leaves the operator's credentials.
    pub(crate) fn operator(&self) -> PathBuf {
        self.dir.join(OPERATOR)
    }

    /// Leaves the root, with its key, to be taken away from the machine. Returns where.
    pub(crate) fn write_root(&self, pem: &str) -> Result<PathBuf, Error> {
        write_private(&self.dir, ROOT_KEY, pem)?;
        Ok(self.dir.join(ROOT_KEY))
    }

    /// The root that was left here; none when it was taken away, as it should be.
    pub(crate) fn root(&self) -> Option<String> {
        fs::read_to_string(self.dir.join(ROOT_KEY)).ok()
    }

    /// The root that is to follow, where this node made it.
    pub(crate) fn next_root(&self) -> Option<String> {
        fs::read_to_string(self.dir.join(NEXT_ROOT_KEY)).ok()
    }

    /// Leaves a new root beside the old one.
    pub(crate) fn write_next_root(&self, pem: &str) -> Result<PathBuf, Error> {
        write_private(&self.dir, NEXT_ROOT_KEY, pem)?;
        Ok(self.dir.join(NEXT_ROOT_KEY))
    }

    /// The new root takes the place of the old one.
    pub(crate) fn adopt_root(&self, pem: &str) -> Result<PathBuf, Error> {
        let path = self.write_root(pem)?;
        let next = self.dir.join(NEXT_ROOT_KEY);
        match fs::remove_file(&next) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Disk { path: next, source }),
            _ => Ok(path),
        }
    }

    /// The anchors among the operator's credentials; none when the credentials were taken away.
    pub(crate) fn operator_bundle(&self) -> Option<String> {
        fs::read_to_string(self.operator().join(OPERATOR_BUNDLE)).ok()
    }

    /// Renews them.
    pub(crate) fn write_operator_bundle(&self, pem: &str) -> Result<(), Error> {
        Ok(write_private(&self.operator(), OPERATOR_BUNDLE, pem)?)
    }

    /// Who this node is; none while it is nobody yet.
    pub(crate) fn card(&self) -> Result<Option<Card>, Error> {
        let path = self.dir.join(CARD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Disk { path, source }),
        };
        let spoiled = |source: serde_json::Error| Error::Disk {
            path: path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, source),
        };
        serde_json::from_slice(&text).map(Some).map_err(spoiled)
    }

    /// Refuses a folder that holds a node, or the remains of one whose making was interrupted.
    pub(crate) fn prepare(&self) -> Result<(), Error> {
        for name in [CARD, REPLICA, IDENTITY, OPERATOR, ROOT_KEY] {
            if self.dir.join(name).exists() {
                return Err(Error::Taken {
                    dir: self.dir.clone(),
                    found: name,
                });
            }
        }
        Ok(())
    }

    /// Completes a node.
    pub(crate) fn write_card(&self, card: &Card) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(card).map_err(|source| Error::Disk {
            path: self.dir.join(CARD),
            source: source.into(),
        })?;
        Ok(write_private(&self.dir, CARD, &text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_read_back_and_keeps_its_folder_taken() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let disk = Disk::new(&folder.path().join("data"));
        disk.prepare().expect("fresh");
        assert_eq!(disk.card().expect("readable"), None);
        let card = Card::new(
            RegionId::parse("eu").expect("valid"),
            TrustDomain::parse("eu").expect("valid"),
            NodeId(3),
            &[],
        );
        disk.write_card(&card).expect("written");
        assert_eq!(disk.card().expect("readable"), Some(card));
        assert!(matches!(disk.prepare(), Err(Error::Taken { found: CARD, .. })));
    }
}
