//! Names: what a view answers, over UDP and TCP. The name that resolves is the name that routes: both read one view.
//!
//! Two zones are answered: `clusterset.local` as the Multi-Cluster Services specification says, and `region.isthmus`, whose
//! `<service>.<namespace>.svc.<region>.region.isthmus` names the endpoints of one region only. Everything else is forwarded
//! to upstream servers, or refused where there is none.

mod answer;
mod askers;
mod forward;
mod server;
mod source;
mod zone;

pub use answer::{Resolved, reply, resolve_text};
pub use forward::{Upstreams, fits, system_upstreams};
pub use server::{ServeError, Serving, Settings, serve};
pub use source::Names;
pub use zone::Asker;

#[cfg(test)]
mod tests;
