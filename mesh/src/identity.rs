//! Who is who: SPIFFE IDs, trust bundles, and TLS that verifies each peer against its own trust domain's bundle only.

mod bundle;
mod spiffe;

pub use bundle::{Bundle, BundleError};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
