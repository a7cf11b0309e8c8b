//! Whether what is held of a peer is what the peer shows: digests as they travel, and where two of them differ. Pure.

use std::collections::BTreeMap;

use mesh::model::{Held, ImportPolicy, ServiceName, WireError};
use proto::federation::v1 as pb;

use crate::catalog::digest::{Part, Parts};

/// Most parts of one digest: this version knows six.
const PARTS_MAX: usize = 64;
/// Most services that a peer may name as taken.
const TAKES_MAX: usize = 100_000;

/// What a peer says that it shows at a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// The position in its exports.
    pub(super) held: Held,
    sums: BTreeMap<String, u128>,
}

/// A digest for the wire.
pub(super) fn outward(held: Held, parts: &Parts) -> pb::Digest {
    let parts = Part::ALL.into_iter().map(|part| pb::DigestPart {
        tag: part.tag().to_owned(),
        sum: parts.get(part).to_be_bytes().to_vec().into(),
    });
    pb::Digest {
        held: Some(held.into()),
        parts: parts.collect(),
    }
}

impl TryFrom<pb::Digest> for Shown {
    type Error = WireError;
    fn try_from(digest: pb::Digest) -> Result<Self, WireError> {
        if digest.parts.len() > PARTS_MAX {
            return Err(WireError::new(
                "digest.parts",
                format!("has more than {PARTS_MAX} entries"),
            ));
        }
        let mut sums = BTreeMap::new();
        for part in digest.parts {
            let sum: [u8; 16] = part
                .sum
                .as_ref()
                .try_into()
                .map_err(|_| WireError::new("digest.parts", "has a sum that is not of 16 bytes"))?;
            sums.insert(part.tag, u128::from_be_bytes(sum));
        }
        let held = digest.held.ok_or_else(|| WireError::new("digest.held", "is missing"))?;
        Ok(Self {
            held: held.into(),
            sums,
        })
    }
}

impl Shown {
    /// The parts in which what is held differs; parts that only one side knows are not compared.
    pub(super) fn differing(&self, held: &Parts) -> Vec<Part> {
        let differs = |part: &Part| self.sums.get(part.tag()).is_some_and(|sum| *sum != held.get(*part));
        Part::ALL.into_iter().filter(differs).collect()
    }
}

/// What is taken, for the wire.
pub(super) fn takes(policy: &ImportPolicy) -> pb::Takes {
    match policy {
        ImportPolicy::All => pb::Takes {
            all: true,
            services: Vec::new(),
        },
        ImportPolicy::Services(names) => pb::Takes {
            all: false,
            services: names.iter().map(ToString::to_string).collect(),
        },
    }
}

/// What a peer takes.
pub(super) fn policy(takes: &pb::Takes) -> Result<ImportPolicy, WireError> {
    if takes.all {
        return Ok(ImportPolicy::All);
    }
    if takes.services.len() > TAKES_MAX {
        return Err(WireError::new(
            "hello.takes",
            format!("has more than {TAKES_MAX} entries"),
        ));
    }
    let parse = |name: &String| name.parse::<ServiceName>();
    let names = takes.services.iter().map(parse).collect::<Result<_, _>>();
    Ok(ImportPolicy::Services(
        names.map_err(|fault| WireError::new("hello.takes", fault))?,
    ))
}

/// Names of parts, for people.
pub fn names(parts: &[Part]) -> String {
    let names: Vec<_> = parts.iter().map(|part| part.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{World, id, region};

    #[test]
    fn a_digest_travels_and_faults_are_named() {
        let world = World::new("eu");
        let parts = world.state.shown_to(&region("us"), &ImportPolicy::All);
        let sent = outward(Held::default(), &parts);
        let shown = Shown::try_from(sent.clone()).unwrap();
        assert_eq!(shown.differing(&parts), []);
        assert_eq!(shown.differing(&Parts::default()), [Part::Trust]);
        // A newer version hashes a part otherwise: not compared.
        let mut newer = sent.clone();
        for part in &mut newer.parts {
            part.tag = part.tag.replace("/1", "/2");
        }
        assert_eq!(Shown::try_from(newer).unwrap().differing(&Parts::default()), []);
        let mut short = sent.clone();
        short.parts[0].sum = vec![1].into();
        let mut nowhere = sent;
        nowhere.held = None;
        for (bad, name) in [(short, "digest.parts"), (nowhere, "digest.held")] {
            let text = Shown::try_from(bad).unwrap_err().to_string();
            assert!(text.starts_with(name), "{text}");
        }
        for wanted in [ImportPolicy::All, ImportPolicy::Services([id("pay.shop")].into())] {
            assert_eq!(policy(&takes(&wanted)).unwrap(), wanted);
        }
    }
}
