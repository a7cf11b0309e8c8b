//! Who is who: SPIFFE IDs, trust bundles, and TLS that verifies each peer against its own trust domain's bundle only.

mod bundle;
pub mod csr;
mod jwks;
mod renew;
pub mod sni;
mod source;
mod spiffe;
mod svid;
pub mod system;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
pub mod token;
mod verify;

pub use bundle::{Bundle, BundleError};
pub use csr::KeyRequest;
pub use renew::{Obtain, ObtainError, obtain};
pub use sni::{ALPN_H2, ALPN_HTTP_CLIENT, ALPN_NONE, ALPN_TCP_CLIENT, Alpn, Sni, SniError, has_istio_token};
pub use source::{Bootstrap, Identity, IdentityError};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::{Svid, SvidError, pem, write_private};
pub use system::Role;
pub use tls::{ClientAuth, Expect};
pub use token::{Secret, Token, TokenError, TokenKind};
pub use verify::{Fault, Side, check_leaf};
