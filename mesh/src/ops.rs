//! What operators see: settings, logs, metrics.

pub mod admin;
mod config;
mod log;
mod metrics;

pub(crate) use config::read_text;
pub use config::{Faults, Section, Setting};
pub use log::{LogFormat, init_log};
pub use metrics::Metrics;
