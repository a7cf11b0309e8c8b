//! Ids in serde: written as their text and read by their own parser, with no copy of the text on either way: entries of the
//! log and records of the catalogue are full of them.
//! Pure.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserializer, de};

/// Reads a text by a type's own parser.
pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    struct Text<T>(PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    from.deserialize_str(Text(PhantomData))
}

/// `Serialize` as the text that `as_str` gives, `Deserialize` by `FromStr`.
macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        $crate::model::text::from_text!($name);
    };
}
pub(crate) use as_text;

/// `Deserialize` by `FromStr`.
macro_rules! from_text {
    ($name:ident) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::model::text::deserialize(from)
            }
        }
    };
}
pub(crate) use from_text;

#[cfg(test)]
mod tests {
    use crate::{identity::SpiffeId, model::ServiceName};

    #[test]
    fn an_id_is_its_text_and_a_bad_one_is_refused() {
        let name: ServiceName = "pay.shop".parse().unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"pay.shop\"");
        assert_eq!(serde_json::from_str::<ServiceName>("\"pay.shop\"").unwrap(), name);
        let bytes = postcard::to_stdvec(&name).unwrap();
        assert_eq!(bytes, postcard::to_stdvec("pay.shop").unwrap());
        assert_eq!(postcard::from_bytes::<ServiceName>(&bytes).unwrap(), name);
        let error = serde_json::from_str::<ServiceName>("\"pay\"").unwrap_err();
        assert!(error.to_string().contains("has no namespace"), "{error}");
        assert!(serde_json::from_str::<SpiffeId>("\"http://eu\"").is_err());
    }
}
