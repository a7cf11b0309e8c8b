//! Logs: one line an event on standard error, as text or JSON. Called by `main` only.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

/// Installs the process-wide subscriber. `filter` has the form of `RUST_LOG`, for example `info,mesh=debug`.
///
/// # Errors
/// When `filter` does not parse.
pub fn init_log(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
