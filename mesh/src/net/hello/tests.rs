//! Hellos of a real client, cut, re-framed and damaged.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

use super::*;

const NAME: &str = "outbound_.80_.ep-1_.pay.shop.svc.cluster.local";

/// What rustls sends first, by default with a post-quantum key share.
fn real_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn expected() -> Hello {
    Hello {
        server_name: NAME.into(),
        alpn: vec![b"istio-h2".to_vec(), b"istio".to_vec()],
    }
}

fn feed_all(bytes: &[u8]) -> Result<Progress, Fault> {
    HelloReader::new(HELLO_BYTES_MAX).feed(bytes)
}

/// The same message in records of at most `size` bytes.
fn reframed(hello: &[u8], size: usize) -> Vec<u8> {
    let framed = |part: &[u8]| {
        let mut record = vec![22, 3, 1];
        record.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        record.extend_from_slice(part);
        record
    };
    hello[RECORD_HEAD_BYTES..].chunks(size).flat_map(framed).collect()
}

#[test]
fn a_post_quantum_hello_is_read_at_every_split() {
    let bytes = real_hello(NAME, &[b"istio-h2", b"istio"]);
    assert!(bytes.len() > 1200, "{} bytes: no post-quantum share in it", bytes.len());
    for split in 1..bytes.len() {
        let mut reader = HelloReader::new(HELLO_BYTES_MAX);
        assert_eq!(reader.feed(&bytes[..split]), Ok(Progress::NeedMore), "split at {split}");
        assert_eq!(
            reader.feed(&bytes[split..]),
            Ok(Progress::Done(expected())),
            "split at {split}"
        );
        assert_eq!(reader.into_bytes(), bytes);
    }
}

#[test]
fn a_hello_is_read_byte_by_byte_and_over_many_records() {
    let bytes = real_hello(NAME, &[b"istio-h2", b"istio"]);
    for size in [1, 2, 3, 4, 5, 100, 1000] {
        let bytes = reframed(&bytes, size);
        let mut reader = HelloReader::new(HELLO_BYTES_MAX);
        let (last, before) = bytes.split_last().unwrap();
        for byte in before {
            assert_eq!(reader.feed(&[*byte]), Ok(Progress::NeedMore));
        }
        assert_eq!(
            reader.feed(&[*last]),
            Ok(Progress::Done(expected())),
            "records of {size}"
        );
    }
}

#[test]
fn bytes_behind_the_hello_are_kept() {
    let mut bytes = real_hello(NAME, &[b"istio-h2", b"istio"]);
    bytes.extend_from_slice(b"early data");
    let mut reader = HelloReader::new(HELLO_BYTES_MAX);
    assert_eq!(reader.feed(&bytes), Ok(Progress::Done(expected())));
    assert_eq!(reader.bytes(), bytes);
}

#[test]
fn names_are_lower_case_and_alpn_may_be_absent() {
    let Ok(Progress::Done(hello)) = feed_all(&real_hello("Pay.Shop", &[])) else {
        panic!("no hello")
    };
    assert_eq!((hello.server_name.as_str(), hello.alpn.len()), ("pay.shop", 0));
    assert!(!hello.offers(b"istio"));
    assert!(expected().offers(b"istio"));
}

#[test]
fn no_server_name_is_told() {
    // rustls sends no server name for an address.
    assert_eq!(
        feed_all(&real_hello("127.0.0.1", &[b"istio"])),
        Err(Fault::NoServerName)
    );
}

#[test]
fn other_protocols_are_told_by_their_first_byte() {
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"SSH-2.0-x",
        b"\0",
        b"\x16\x02",
        b"PRI * HTTP/2.0",
    ] {
        assert_eq!(feed_all(bytes), Err(Fault::NotTls), "{bytes:?}");
    }
}

#[test]
fn a_hello_over_the_bound_is_refused_before_it_arrived() {
    let bytes = real_hello(NAME, &[b"istio"]);
    let mut reader = HelloReader::new(512);
    assert_eq!(reader.feed(&bytes[..9]), Err(Fault::TooLarge { max: 512 }));
    // Tiny records cost more heads than body.
    let mut reader = HelloReader::new(bytes.len() + 10);
    let fault = reframed(&bytes, 1).iter().find_map(|byte| reader.feed(&[*byte]).err());
    assert_eq!(fault, Some(Fault::TooLarge { max: bytes.len() + 10 }));
    assert!(reader.bytes().len() <= bytes.len() + 10);
}

#[test]
fn damaged_fields_are_named() {
    let bytes = real_hello(NAME, &[b"istio-h2", b"istio"]);
    let sni_at = bytes
        .windows(NAME.len())
        .position(|part| part == NAME.as_bytes())
        .unwrap();
    let alpn_at = bytes.windows(8).position(|part| part == b"istio-h2").unwrap();
    for (at, byte, field) in [
        (3, 0xff, "record length"),
        (5, 2, "handshake type"),
        (43, 33, "session id"),
        (76, 0xff, "cipher suites"),
        (sni_at - 3, 1, "server name"),
        (sni_at - 1, 0, "server name"),
        (sni_at, b' ', "server name"),
        (sni_at + 3, 0xc3, "server name"),
        (alpn_at - 1, 0, "ALPN"),
        (alpn_at - 1, 200, "ALPN"),
    ] {
        let mut damaged = bytes.clone();
        damaged[at] = byte;
        assert_eq!(
            feed_all(&damaged),
            Err(Fault::Malformed(field)),
            "byte {at} set to {byte}"
        );
    }
    let mut empty_record = bytes.clone();
    empty_record.splice(0..0, [22, 3, 1, 0, 0]);
    assert_eq!(feed_all(&empty_record), Err(Fault::Malformed("record length")));
    let mut record_between = reframed(&bytes, 200);
    record_between[205] = 20;
    assert_eq!(feed_all(&record_between), Err(Fault::Malformed("record type")));
}

#[test]
fn random_damage_never_panics_and_never_grows_past_the_bound() {
    let mut random = fastrand::Rng::with_seed(4711);
    let originals = [
        real_hello(NAME, &[b"istio-h2", b"istio"]),
        reframed(&real_hello(NAME, &[b"istio"]), 7),
        real_hello("127.0.0.1", &[]),
    ];
    for _ in 0..20_000 {
        let mut bytes = originals[random.usize(..originals.len())].clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] = bytes[at].wrapping_add(1),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let mut reader = HelloReader::new(4096);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (segment, after) = rest.split_at(random.usize(1..=rest.len()));
            rest = after;
            if !matches!(reader.feed(segment), Ok(Progress::NeedMore)) {
                break;
            }
            assert!(reader.bytes().len() < 4096, "undecided past the bound");
        }
    }
}
