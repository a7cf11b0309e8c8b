//! On behalf of the application: asks it how it is, and keeps its endpoints in the registry.

pub mod probe;
pub(crate) mod register;
