//! Texts that many records repeat, each kept once: a hundred thousand endpoints have a few regions, zones, clusters and
//! identities. What is shared does not show: a record is the same with it or without.

use std::sync::Arc;

use imbl::OrdSet;

/// More than a mesh has regions, zones, clusters, namespaces and accounts that are worth it.
const TEXTS_MAX: usize = 4096;

/// A bounded set of texts. Clones are O(1), as those of a catalogue are.
#[derive(Clone, Debug, Default)]
pub struct Texts(OrdSet<Arc<str>>);

impl Texts {
    /// Puts the known copy in the place of `text`, or makes `text` the known one.
    pub fn share(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.0.get(text.as_ref()) {
            text.clone_from(known);
            return;
        }
        if self.0.len() >= TEXTS_MAX {
            // Who has one keeps it; those that come again are known again.
            self.0 = OrdSet::new();
        }
        self.0.insert(Arc::clone(text));
    }
}

/// Two catalogues are alike whatever their texts have in common.
impl PartialEq for Texts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_there_is_a_bound() {
        let mut texts = Texts::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("eu".into(), "eu".into());
        texts.share(&mut one);
        texts.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for n in 0..10 * TEXTS_MAX {
            texts.share(&mut n.to_string().into());
            assert!(texts.0.len() <= TEXTS_MAX);
        }
    }
}
