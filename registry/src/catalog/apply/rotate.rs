//! The change of the region's root, step by step. Pure.

use mesh::identity::Bundle;

use super::{Outcome, Transaction};
use crate::catalog::{NextRoot, Refusal, Reply, RotateStep, Rotation, Stage};

impl Transaction<'_> {
    pub(super) fn rotate(&mut self, step: &RotateStep) -> Outcome {
        self.own_region()?;
        let under_way = self.state.rotation.as_deref().cloned();
        let next = match (step, under_way) {
            (RotateStep::Order, None) => Some(Rotation {
                ordered_at: self.at,
                stage: Stage::Ordered,
                next: None,
            }),
            (RotateStep::Order, Some(_)) => return Err(conflict("a change of the root is under way already")),
            (RotateStep::Make(root), Some(rotation)) if rotation.stage == Stage::Ordered => Some(Rotation {
                stage: Stage::Made,
                next: Some(root.clone()),
                ..rotation
            }),
            (RotateStep::Publish, Some(rotation)) if rotation.stage == Stage::Made => {
                let sequence = self.publish(true, &rotation)?;
                let (revision, at) = (self.revision, self.at);
                let stage = Stage::Published { sequence, revision, at };
                Some(Rotation { stage, ..rotation })
            }
            (RotateStep::Sign, Some(rotation)) if matches!(rotation.stage, Stage::Published { .. }) => {
                self.set_authority(root_of(&rotation)?.authority.clone());
                let stage = Stage::Signing { since: self.at };
                Some(Rotation { stage, ..rotation })
            }
            (RotateStep::Withdraw, Some(rotation)) if matches!(rotation.stage, Stage::Signing { .. }) => {
                self.publish(false, &rotation)?;
                None
            }
            _ => {
                return Err(conflict(
                    "the change of the root is not at the stage before; look again",
                ));
            }
        };
        self.set_rotation(next);
        Ok(Reply::Done)
    }

    /// A bundle of the next sequence with the new anchor, beside the old ones or alone. Gives the sequence.
    fn publish(&mut self, keeps_old: bool, rotation: &Rotation) -> Result<u64, Refusal> {
        let anchor = &root_of(rotation)?.anchor;
        let own = self.state.own_bundle().cloned();
        let own = own.ok_or_else(|| conflict("the region has no bundle"))?;
        let old = own.anchors().filter(|_| keeps_old).map(|der| der.to_vec());
        let mut anchors: Vec<Vec<u8>> = old.filter(|der| der != anchor).collect();
        anchors.push(anchor.clone());
        let sequence = own.sequence() + 1;
        let bundle = Bundle::new(own.trust_domain().clone(), own.region().clone(), sequence, anchors);
        let bundle = bundle.map_err(|error| Refusal::Conflict(error.to_string()))?;
        self.put_bundle(bundle);
        Ok(sequence)
    }
}

fn root_of(rotation: &Rotation) -> Result<&NextRoot, Refusal> {
    let next = rotation.next.as_ref();
    next.ok_or_else(|| conflict("the change of the root has no new root; order it again"))
}

fn conflict(text: &str) -> Refusal {
    Refusal::Conflict(text.to_owned())
}
