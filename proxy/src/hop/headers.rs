//! Headers that end at a hop (RFC 9110, 7.6.1), and those that only we may set. Pure.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

/// Who called: set by the inbound proxy only.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Names a request on its way; kept when the application set it.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How many proxies of ours a request went through.
pub(crate) const HOPS: HeaderName = HeaderName::from_static("x-isthmus-hops");
/// Why a proxy answered instead of an application.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-isthmus-reason");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// More proxies than any sane path has.
const HOPS_MAX: u32 = 16;

/// Removes what belongs to one connection: the headers that Connection names, and those that always do. `te: trailers` is
/// kept, because it is true of all of our hops.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // Naming TE is how it is sent; naming a framing or routing header must not remove it.
            .filter(|name: &HeaderName| {
                *name != TE && *name != http::header::HOST && *name != http::header::CONTENT_LENGTH
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    if headers.remove(TE).is_some() && trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The protocol that a request wants to switch to: Connection must say so, too.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> Option<&str> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(UPGRADE)?.to_str().ok()?;
    // h2c is an offer to talk otherwise to us; it is declined by going on.
    (named && !protocol.eq_ignore_ascii_case("h2c")).then_some(protocol)
}

/// Whether errors must take gRPC's form.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Counts this proxy; false when the request must have gone round in a circle.
pub(crate) fn count_hop(headers: &mut HeaderMap) -> bool {
    let hops = headers
        .get(HOPS)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u32>().ok())
        .unwrap_or(0);
    headers.insert(HOPS, HeaderValue::from(hops.saturating_add(1)));
    hops < HOPS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut map = headers(&[
            ("connection", "close, x-secret, TE"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, trailers"),
            ("trailer", "x-sum"),
            ("authorization", "Bearer y"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut left: Vec<_> = map
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                ("authorization", b"Bearer y".as_slice()),
                ("te", b"trailers"),
                ("trailer", b"x-sum"),
            ]
        );
    }

    #[test]
    fn connection_cannot_remove_what_routes_or_frames() {
        let mut map = headers(&[
            ("connection", "host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map.len(), 2, "{map:?}");
    }

    #[test]
    fn an_upgrade_must_be_named_twice() {
        let upgrade = |lines: &[(&'static str, &'static str)]| wants_upgrade(&headers(lines)).map(str::to_owned);
        assert_eq!(
            upgrade(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]).as_deref(),
            Some("websocket")
        );
        assert_eq!(upgrade(&[("upgrade", "websocket")]), None);
        assert_eq!(upgrade(&[("connection", "upgrade"), ("upgrade", "h2c")]), None);
    }

    #[test]
    fn a_circle_is_noticed() {
        let mut map = HeaderMap::new();
        let hops = (0..100).take_while(|_| count_hop(&mut map)).count();
        assert_eq!(hops, HOPS_MAX as usize);
    }
}
