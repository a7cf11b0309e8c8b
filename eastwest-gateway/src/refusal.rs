//! Why a connection is not relayed, and what its client is told: a TLS alert where it can still read one. Clients tell by it
//! whether the service, the endpoint or the gateway is at fault. Pure.

use mesh::net::hello::Fault;

/// One variant for each number that operators see apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another protocol.
    NotTls,
    /// TLS, but no ClientHello that makes sense.
    Malformed,
    /// The hello is over the bound.
    HelloTooLarge,
    /// The hello was not whole in time.
    HelloTimedOut,
    /// The client left before its hello was whole.
    Gone,
    /// The hello names nobody.
    NoServerName,
    /// The name is none of the mesh.
    ServerName,
    /// No protocol of the mesh is offered.
    Alpn,
    /// The service is unknown here, or not exported.
    NotExported,
    /// The service has no such port.
    Port,
    /// The named endpoint is gone, elsewhere, or does not serve the port.
    Endpoint,
    /// No endpoint takes new work.
    NoneReady,
    /// The endpoint, or all that were tried, could not be dialled.
    DialFailed,
    /// The service has as many tunnels as it may.
    ServiceFull,
    /// The source has as many connections as it may.
    SourceFull,
    /// Too many clients are at their first words.
    HandshakesFull,
    /// A probe, and the gateway has no identity to answer it with, or the prober none that is known.
    Probe,
}

/// A TLS alert's description (RFC 8446, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alert {
    HandshakeFailure = 40,
    DecodeError = 50,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Alert {
    /// The alert as a fatal one, in a plaintext record.
    pub(crate) fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

impl Refusal {
    /// In the order of their declaration; metrics are kept by position.
    pub(crate) const ALL: [Self; 17] = [
        Self::NotTls,
        Self::Malformed,
        Self::HelloTooLarge,
        Self::HelloTimedOut,
        Self::Gone,
        Self::NoServerName,
        Self::ServerName,
        Self::Alpn,
        Self::NotExported,
        Self::Port,
        Self::Endpoint,
        Self::NoneReady,
        Self::DialFailed,
        Self::ServiceFull,
        Self::SourceFull,
        Self::HandshakesFull,
        Self::Probe,
    ];

    /// The value of the metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not-tls",
            Self::Malformed => "malformed-hello",
            Self::HelloTooLarge => "hello-too-large",
            Self::HelloTimedOut => "hello-timed-out",
            Self::Gone => "client-gone",
            Self::NoServerName => "no-server-name",
            Self::ServerName => "foreign-server-name",
            Self::Alpn => "no-mesh-alpn",
            Self::NotExported => "not-exported",
            Self::Port => "no-such-port",
            Self::Endpoint => "no-such-endpoint",
            Self::NoneReady => "none-ready",
            Self::DialFailed => "dial-failed",
            Self::ServiceFull => "service-limit",
            Self::SourceFull => "source-limit",
            Self::HandshakesFull => "handshake-limit",
            Self::Probe => "probe-failed",
        }
    }

    /// What the client is told; none = the connection is reset without a word.
    pub(crate) fn alert(self) -> Option<Alert> {
        match self {
            Self::NotTls | Self::Alpn => Some(Alert::HandshakeFailure),
            Self::Malformed | Self::HelloTooLarge => Some(Alert::DecodeError),
            Self::NoServerName | Self::ServerName | Self::NotExported | Self::Port | Self::Endpoint => {
                Some(Alert::UnrecognizedName)
            }
            Self::NoneReady | Self::DialFailed | Self::ServiceFull => Some(Alert::InternalError),
            // These cost least when nothing more is said, or have heard TLS's own alert.
            Self::HelloTimedOut | Self::Gone | Self::SourceFull | Self::HandshakesFull | Self::Probe => None,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NotTls => Self::NotTls,
            Fault::TooLarge { .. } => Self::HelloTooLarge,
            Fault::NoServerName => Self::NoServerName,
            Fault::Malformed(_) => Self::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_place_and_a_name_of_its_own() {
        for (at, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, at, "{refusal:?}");
        }
        let names: std::collections::BTreeSet<_> = Refusal::ALL.into_iter().map(Refusal::as_str).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
    }

    #[test]
    fn alerts_are_fatal_plaintext_records() {
        assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
    }
}
