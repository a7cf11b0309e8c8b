//! A change of the region's root: how far it is, and everything that is needed to go on with it after a change of leader.
//! The new root's own key is not among that. Pure.

use mesh::model::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::AuthorityRecord;

/// How far a change of the root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// An operator wants it.
    Ordered,
    /// The new root exists; nobody knows it.
    Made,
    /// Its anchor stands beside the old ones in the region's bundle.
    Published {
        /// That bundle's sequence.
        sequence: u64,
        /// The revision that has it.
        revision: Revision,
        /// Since when.
        at: Timestamp,
    },
    /// It issues.
    Signing {
        /// Since when.
        since: Timestamp,
    },
}

/// The new root, as far as the catalogue knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRoot {
    /// Its certificate, DER.
    pub anchor: Vec<u8>,
    /// The issuing certificate that it signed.
    pub authority: AuthorityRecord,
}

/// A change of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// When it was ordered.
    pub ordered_at: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// From [`Stage::Made`] on.
    pub next: Option<NextRoot>,
}

/// The next step of it. Each is refused where the change is not at the stage before, so that two leaders do it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotateStep {
    /// To [`Stage::Ordered`].
    Order,
    /// To [`Stage::Made`].
    Make(NextRoot),
    /// To [`Stage::Published`]: the bundle gets the new anchor.
    Publish,
    /// To [`Stage::Signing`]: the new root's issuing certificate is used from now on.
    Sign,
    /// The old anchors go; the change is done.
    Withdraw,
}
