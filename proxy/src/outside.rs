//! The parsers of outside bytes that this crate keeps to itself, each as one plain function, for fuzzing. Opens no socket.

use http::{HeaderValue, Method, Version, header::HOST};

use crate::{
    hop::{framing::Framing, headers},
    outbound::target::{self, Intent},
};

/// Whom a request is for, from its target and its Host header; none when it is refused.
///
/// # Panics
/// When an authority comes out that has a user name or no text.
#[must_use]
pub fn authority(method: &[u8], uri: &[u8], host: &[u8], version_2: bool) -> Option<String> {
    let version = if version_2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let request = http::Request::builder()
        .method(Method::from_bytes(method).ok()?)
        .uri(uri)
        .version(version)
        .header(HOST, HeaderValue::from_bytes(host).ok()?)
        .body(());
    let mut parts = request.ok()?.into_parts().0;
    headers::strip_hop_by_hop(&mut parts.headers);
    let (Intent::Request(authority) | Intent::Tunnel(authority)) = target::read(&parts, false).ok()?;
    assert!(!authority.is_empty() && !authority.starts_with('@'), "{authority:?}");
    Some(authority)
}

/// Whether a stream of HTTP/1 bytes is framed without ambiguity, however it is cut. True when it is.
///
/// # Panics
/// When the verdict depends on the cut.
#[must_use]
pub fn framing(bytes: &[u8], cut: usize) -> bool {
    let whole = Framing::new().feed(bytes);
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let mut framing = Framing::new();
    let parts = framing.feed(first).and_then(|()| framing.feed(second));
    assert_eq!(whole.is_ok(), parts.is_ok(), "cut at {cut} of {}", bytes.len());
    whole.is_ok()
}
