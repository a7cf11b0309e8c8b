//! Whom a request is for: origin-form by Host, absolute-form and HTTP/2 by their authority, CONNECT as a tunnel. A request
//! that says two different things is refused. Pure.

use http::{Method, Version, header::HOST, request::Parts, uri::Scheme};

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// To be forwarded as a request, to this authority.
    Request(String),
    /// A tunnel of opaque bytes, to this authority.
    Tunnel(String),
}

/// Reads it. `extended` says that a CONNECT names a protocol (RFC 8441): then it is an upgrade, not a tunnel.
///
/// # Errors
/// What is wrong, for the 400 that follows.
pub(crate) fn read(parts: &Parts, extended: bool) -> Result<Intent, &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err("more than one Host header"),
        (Some(host), None) => Some(host.to_str().map_err(|_| "Host header is not plain text")?),
        (None, None) => None,
    };
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err("user name in the authority");
    }
    if authority.is_some_and(|authority| authority.is_empty() || authority.starts_with(':')) {
        return Err("no host in the authority");
    }
    if parts.method == Method::CONNECT && !extended {
        let authority = authority.ok_or("CONNECT without host:port")?;
        return match parts.uri.port_u16() {
            Some(_) => Ok(Intent::Tunnel(authority.to_owned())),
            None => Err("CONNECT without port; write host:port"),
        };
    }
    if parts.uri.scheme() == Some(&Scheme::HTTPS) && parts.version < Version::HTTP_2 {
        return Err("an https request sent in the clear; use CONNECT, or http: the mesh encrypts");
    }
    if parts.version == Version::HTTP_11 && host.is_none() {
        return Err("HTTP/1.1 without Host header");
    }
    match (authority, host) {
        (Some(authority), Some(host)) if parts.version >= Version::HTTP_2 && !host.eq_ignore_ascii_case(authority) => {
            Err(":authority and Host differ")
        }
        // In absolute-form the target wins over Host (RFC 9112, 3.2.2).
        (Some(authority), _) => Ok(Intent::Request(authority.to_owned())),
        (None, Some(host)) if host.is_empty() || host.contains(['@', '/', '?', '#', ' ', ',']) => {
            Err("Host header is no host")
        }
        (None, Some(host)) => Ok(Intent::Request(host.to_owned())),
        (None, None) => Err("neither Host header nor absolute target; whom is it for?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(method: Method, uri: &str, version: Version, hosts: &[&'static str]) -> Result<Intent, &'static str> {
        let mut builder = http::Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        read(&builder.body(()).expect("valid").into_parts().0, false)
    }

    #[test]
    fn each_form_names_its_authority() {
        let request = |authority: &str| Ok(Intent::Request(authority.to_owned()));
        let (get, one, two) = (Method::GET, Version::HTTP_11, Version::HTTP_2);
        assert_eq!(intent(get.clone(), "/a", one, &["pay.shop"]), request("pay.shop"));
        assert_eq!(
            intent(get.clone(), "http://pay.shop:81/a", one, &["other"]),
            request("pay.shop:81")
        );
        assert_eq!(intent(get.clone(), "http://pay.shop/", two, &[]), request("pay.shop"));
        assert_eq!(
            intent(get.clone(), "/a", Version::HTTP_10, &["pay.shop"]),
            request("pay.shop")
        );
        assert_eq!(
            intent(Method::CONNECT, "pay.shop:5432", one, &["pay.shop:5432"]),
            Ok(Intent::Tunnel("pay.shop:5432".to_owned()))
        );
        for (method, uri, version, hosts) in [
            (&get, "/a", one, &[][..]),
            (&get, "/a", one, &["a", "a"]),
            (&get, "/a", one, &[""]),
            (&get, "/a", one, &["a/b"]),
            (&get, "/a", one, &["u@a"]),
            (&get, "/a", Version::HTTP_10, &[]),
            (&get, "http://u@pay.shop/", one, &["a"]),
            (&get, "https://pay.shop/", one, &["pay.shop"]),
            (&get, "http://pay.shop/", two, &["other"]),
            (&Method::CONNECT, "pay.shop", one, &["pay.shop"]),
            (&Method::CONNECT, "u@pay.shop:81", one, &["pay.shop"]),
            (&Method::CONNECT, "@:18886", one, &["a"]),
            (&Method::CONNECT, ":18886", one, &["a"]),
        ] {
            assert!(
                intent(method.clone(), uri, version, hosts).is_err(),
                "{method} {uri} {hosts:?}"
            );
        }
    }
}
