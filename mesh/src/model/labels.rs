//! Labels of workloads and endpoints. Made once and then shared by all that carry them: a lease, its endpoints and the
//! views that show them hold one copy. Written as the map that they are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

/// Free text by key; a key has one value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<[Label]>>);

type Label = (Box<str>, Box<str>);

impl Labels {
    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let all = self.all();
        let at = all.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(&all[at].1)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.all().iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Keeps the text once for both, where it is the same.
    pub fn share(&mut self, other: &Self) {
        if self == other {
            self.0.clone_from(&other.0);
        }
    }

    /// Whether both are the same piece of memory.
    #[must_use]
    pub fn ptr_eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    fn all(&self) -> &[Label] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Of a key that comes twice, the last counts.
    fn made_of(mut all: Vec<Label>) -> Self {
        // Writers send them in order; the sort is stable and does nothing then.
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            if is_same {
                std::mem::swap(&mut next.1, &mut kept.1);
            }
            is_same
        });
        Self((!all.is_empty()).then(|| all.into()))
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(labels: T) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        Self::made_of(labels.collect())
    }
}

impl From<&Labels> for BTreeMap<String, String> {
    fn from(labels: &Labels) -> Self {
        let labels = labels.iter();
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                // The length is not believed: every entry that there is takes bytes.
                let mut all = Vec::with_capacity(map.size_hint().unwrap_or(0).min(8));
                while let Some(label) = map.next_entry()? {
                    all.push(label);
                }
                Ok(Labels::made_of(all))
            }
        }

        from.deserialize_map(Map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_and_read_as_a_map_is() {
        for pairs in [
            &[][..],
            &[("app", "pay")],
            &[("version", "v1"), ("app", "pay"), ("b", "")],
        ] {
            let map: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            let labels: Labels = pairs.iter().copied().collect();
            assert_eq!(BTreeMap::from(&labels), map);
            let bytes = postcard::to_stdvec(&labels).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&map).unwrap());
            assert_eq!(postcard::from_bytes::<Labels>(&bytes).unwrap(), labels);
            let text = serde_json::to_string(&labels).unwrap();
            assert_eq!(text, serde_json::to_string(&map).unwrap());
            assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
        }
    }

    #[test]
    fn a_key_has_one_value_the_last() {
        let labels: Labels = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "4")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "4")]);
        assert_eq!((labels.get("b"), labels.get("c"), labels.len()), (Some("4"), None, 2));
    }

    #[test]
    fn what_is_alike_is_kept_once() {
        let made = |value: &str| -> Labels { [("app", value)].into_iter().collect() };
        let (pay, cart) = (made("pay"), made("cart"));
        let (mut same, mut other) = (made("pay"), made("pay"));
        same.share(&pay);
        other.share(&cart);
        assert!(same.ptr_eq(&pay) && !other.ptr_eq(&cart) && other == pay);
    }
}
