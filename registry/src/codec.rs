//! postcard into vectors. The crate's own flavour for them copies byte by byte; this one copies slices, and each write of
//! the region encodes the same kilobyte many times.

use postcard::{
    Result,
    ser_flavors::{Flavor, Size},
    serialize_with_flavor,
};
use serde::Serialize;

/// More than most records need.
const CAPACITY: usize = 1024;

struct Onto(Vec<u8>);

impl Flavor for Onto {
    type Output = Vec<u8>;

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The value behind what is in `out`.
pub(crate) fn encode_onto<T: Serialize + ?Sized>(out: Vec<u8>, value: &T) -> Result<Vec<u8>> {
    serialize_with_flavor(value, Onto(out))
}

/// A version and the value.
pub(crate) fn encode_versioned<T: Serialize + ?Sized>(version: u8, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(CAPACITY);
    out.push(version);
    encode_onto(out, value)
}

/// How long the value is when it is encoded.
pub(crate) fn encoded_len<T: Serialize + ?Sized>(value: &T) -> Result<usize> {
    serialize_with_flavor(value, Size::default())
}
