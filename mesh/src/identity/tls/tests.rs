use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::{
    identity::{
        ALPN_H2, ALPN_HTTP_CLIENT, ALPN_NONE, ALPN_TCP_CLIENT, Bootstrap, Identity, IdentityError, Side,
        testing::{Ca, leaf},
    },
    model::RegionId,
};

const PAY: &str = "spiffe://eu/ns/shop/sa/pay";
const CART: &str = "spiffe://us/ns/shop/sa/cart";

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// What one end learnt.
#[derive(Debug)]
struct Seen {
    kind: HandshakeKind,
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    group: String,
    leaf: Option<Vec<u8>>,
    peer: Result<Option<SpiffeId>, Fault>,
}

impl Seen {
    fn of(state: &CommonState, peer: Result<Option<SpiffeId>, Fault>) -> Self {
        Self {
            kind: state.handshake_kind().unwrap(),
            version: state.protocol_version().unwrap(),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            group: format!("{:?}", state.negotiated_key_exchange_group().map(|group| group.name())),
            leaf: state.peer_certificates().map(|chain| chain[0].to_vec()),
            peer,
        }
    }
}

fn text(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    inner
        .and_then(Fault::of)
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// One handshake and a byte each way, so that both ends know how it ended.
async fn shake(
    (server, server_config): (&Identity, Arc<rustls::ServerConfig>),
    (client, client_config): (Option<&Identity>, Arc<rustls::ClientConfig>),
) -> (Result<Seen, String>, Result<Seen, String>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut tls = TlsAcceptor::from(server_config).accept(far).await?;
        tls.write_all(b"!").await?;
        tls.flush().await?;
        let peer = server.peer(tls.get_ref().1, Side::Client);
        Ok::<_, std::io::Error>(Seen::of(tls.get_ref().1, peer))
    };
    let connect = async {
        let name = ServerName::try_from("server.test").unwrap();
        let mut tls = TlsConnector::from(client_config).connect(name, near).await?;
        let mut byte = [0];
        tls.read_exact(&mut byte).await?;
        let peer = client.map_or(Ok(None), |client| client.peer(tls.get_ref().1, Side::Server));
        Ok::<_, std::io::Error>(Seen::of(tls.get_ref().1, peer))
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    (
        accepted.map_err(|error| text(&error)),
        connected.map_err(|error| text(&error)),
    )
}

async fn mutual(server: &Identity, client: &Identity, expect: &Expect) -> (Result<Seen, String>, Result<Seen, String>) {
    shake(
        (server, server.server_config(ClientAuth::Required, ALPN_H2)),
        (Some(client), client.client_config(expect, ALPN_HTTP_CLIENT)),
    )
    .await
}

#[tokio::test]
async fn members_of_federated_domains_know_each_other() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let (server, client) = (eu.identity(PAY, &[&us]), us.identity(CART, &[&eu]));
    for expect in [Expect::id(id(PAY)), Expect::TrustDomain(server.trust_domain())] {
        let (accepted, connected) = mutual(&server, &client, &expect).await;
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!((accepted.peer, connected.peer), (Ok(Some(id(CART))), Ok(Some(id(PAY)))));
        assert_eq!(accepted.version, ProtocolVersion::TLSv1_3);
        assert!(accepted.group.contains("X25519MLKEM768"), "{}", accepted.group);
        assert_eq!(
            accepted.alpn.as_deref(),
            Some(b"h2".as_slice()),
            "inbound chooses h2 of Istio's tokens"
        );
    }
}

#[tokio::test]
async fn the_wrong_peer_is_refused_by_name() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let server = eu.identity(PAY, &[&us]);
    let client = us.identity(CART, &[&eu]);
    for (expect, part) in [
        (
            Expect::id(id("spiffe://eu/ns/shop/sa/other")),
            "peer is spiffe://eu/ns/shop/sa/pay, not",
        ),
        (Expect::Ids(Arc::default()), "list of accepted identities is empty"),
        (
            Expect::TrustDomain(client.trust_domain()),
            "not a member of trust domain us",
        ),
        (Expect::System(Role::Registry, server.trust_domain()), "sa/registry"),
    ] {
        let (_, connected) = mutual(&server, &client, &expect).await;
        let error = connected.expect_err(part);
        assert!(error.contains(part), "{error}");
    }
    let stranger = us.identity(CART, &[]);
    let (_, connected) = mutual(&server, &stranger, &Expect::id(id(PAY))).await;
    assert!(connected.expect_err("unknown").contains("trust domain eu is not known"));
}

#[tokio::test]
async fn bad_certificates_do_not_get_in() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let server = eu.identity(PAY, &[&us]);
    let expired = |ca: &Ca| {
        let mut params = leaf(CART);
        params.not_before -= std::time::Duration::from_secs(7200);
        params.not_after -= std::time::Duration::from_secs(7200);
        ca.sign(&params)
    };
    let dns_only = {
        let mut params = leaf(CART);
        params.subject_alt_names = vec![rcgen::SanType::DnsName("cart.shop".try_into().unwrap())];
        us.sign(&params)
    };
    let signing = us.sign(&crate::identity::testing::signing("spiffe://us/ns/shop/sa/cart"));
    for ((certificate, key), part) in [
        (eu.sign(&leaf(CART)), "not signed by a CA of its own trust domain"),
        (expired(&us), "expired"),
        (dns_only, "no URI name"),
        (signing, "CA certificate, which must not authenticate"),
    ] {
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.into());
        // Such a certificate makes no SVID, so the client is put together by hand.
        let trust = Arc::new(Trust::default());
        trust.replace([eu.bundle()], None);
        let verifier = Verifier {
            trust,
            expect: None,
            client_auth: ClientAuth::Required,
        };
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(vec![certificate.into()], key)
            .unwrap();
        let (accepted, connected) = shake(
            (&server, server.server_config(ClientAuth::Required, ALPN_NONE)),
            (None, Arc::new(config)),
        )
        .await;
        let error = accepted.expect_err(part);
        assert!(error.contains(part), "{error} should say {part}");
        assert!(connected.is_err(), "{part}");
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_comes_in_where_that_is_allowed() {
    let eu = Ca::new("eu");
    let server = eu.identity("spiffe://eu/ns/isthmus-system/sa/registry", &[]);
    let anchors = vec![eu.der()];
    let newcomer = Bootstrap::new(server.trust_domain(), &RegionId::parse("eu").unwrap(), anchors).unwrap();
    let registry = Expect::System(Role::Registry, server.trust_domain());
    let try_with = |client_auth, expect: &Expect| {
        let client = newcomer.client_config(expect, ALPN_H2);
        let config = server.server_config(client_auth, ALPN_H2);
        let server = server.clone();
        async move { shake((&server, config), (None, client)).await }
    };
    let (accepted, connected) = try_with(ClientAuth::Optional, &registry).await;
    assert_eq!((accepted.unwrap().peer, connected.is_ok()), (Ok(None), true));
    let (accepted, _) = try_with(ClientAuth::Required, &registry).await;
    assert!(accepted.is_err());
    let gateway = Expect::System(Role::Gateway, server.trust_domain());
    assert!(
        try_with(ClientAuth::Optional, &gateway).await.1.is_err(),
        "not the registry"
    );
    let other = Bootstrap::new(
        server.trust_domain(),
        &RegionId::parse("eu").unwrap(),
        vec![Ca::new("eu").der()],
    );
    let config = other.unwrap().client_config(&registry, ALPN_H2);
    let (_, connected) = shake(
        (&server, server.server_config(ClientAuth::Optional, ALPN_H2)),
        (None, config),
    )
    .await;
    assert!(connected.expect_err("another root").contains("not signed by"));
}

#[tokio::test]
async fn a_new_svid_is_used_by_the_next_handshake() {
    let eu = Ca::new("eu");
    let (server, client) = (eu.identity(PAY, &[]), eu.identity("spiffe://eu/ns/shop/sa/cart", &[]));
    let expect = Expect::id(id(PAY));
    let config = server.server_config(ClientAuth::Required, ALPN_H2);
    let next = eu.svid(PAY);
    server.replace_svid(next.clone()).unwrap();
    assert!(
        Arc::ptr_eq(&config, &server.server_config(ClientAuth::Required, ALPN_H2)),
        "no new configuration"
    );
    let (_, connected) = mutual(&server, &client, &expect).await;
    assert_eq!(connected.unwrap().leaf.as_deref(), Some(next.chain()[0].as_ref()));
    let other = server.replace_svid(eu.svid("spiffe://eu/ns/shop/sa/other"));
    assert!(matches!(other, Err(IdentityError::OtherId { .. })));
    let forged = server.replace_svid(Ca::new("eu").svid(PAY));
    assert!(matches!(forged, Err(IdentityError::Svid(Fault::WrongCa(_)))));
}

#[tokio::test]
async fn no_session_outlives_its_anchors() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let (server, client) = (eu.identity(PAY, &[&us]), us.identity(CART, &[&eu]));
    let expect = Expect::id(id(PAY));
    let mut changed = server.changed();
    assert_eq!(
        mutual(&server, &client, &expect).await.0.unwrap().kind,
        HandshakeKind::Full
    );
    let again = mutual(&server, &client, &expect).await.0.unwrap();
    assert_eq!(
        (again.kind, again.peer),
        (HandshakeKind::Resumed, Ok(Some(id(CART)))),
        "sessions are resumed"
    );
    let old = server.server_config(ClientAuth::Required, ALPN_H2);

    assert!(server.replace_bundles([eu.bundle()]));
    assert!(changed.has_changed().unwrap());
    let (accepted, _) = mutual(&server, &client, &expect).await;
    assert!(accepted.expect_err("gone").contains("trust domain us is not known"));
    // A configuration that somebody still holds does resume, and is found out.
    let late = client.client_config(&expect, ALPN_HTTP_CLIENT);
    let (accepted, _) = shake((&server, old), (Some(&client), late)).await;
    let accepted = accepted.expect("TLS itself does not look again");
    assert_eq!(accepted.kind, HandshakeKind::Resumed);
    assert!(
        matches!(accepted.peer, Err(Fault::UnknownTrustDomain(_))),
        "{:?}",
        accepted.peer
    );

    assert!(server.replace_bundles([eu.bundle(), us.bundle()]));
    assert!(mutual(&server, &client, &expect).await.0.is_ok(), "and back again");
    changed.mark_unchanged();
    assert!(!server.replace_bundles([us.bundle(), eu.bundle()]), "the same bundles");
    assert!(!changed.has_changed().unwrap());
}

#[test]
fn an_open_connection_outlives_its_certificate_but_not_its_anchors() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let server = eu.identity(PAY, &[&us]);
    let mut params = leaf(CART);
    params.not_before -= std::time::Duration::from_secs(7200);
    params.not_after -= std::time::Duration::from_secs(7200);
    let chain = [CertificateDer::from(us.sign(&params).0)];
    let since = crate::model::Timestamp(crate::runtime::clock::wall().0 - 5_400_000);
    assert!(matches!(server.verify(&chain, Side::Client), Err(Fault::Expired(_))));
    assert_eq!(server.still_trusts(&chain, Side::Client, since), Ok(()));
    server.replace_bundles([]);
    let gone = server.still_trusts(&chain, Side::Client, since);
    assert!(matches!(gone, Err(Fault::UnknownTrustDomain(_))), "{gone:?}");
}

#[tokio::test]
async fn a_client_forgets_sessions_of_a_removed_domain() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let (server, client) = (eu.identity(PAY, &[&us]), us.identity(CART, &[&eu]));
    let expect = Expect::id(id(PAY));
    assert!(mutual(&server, &client, &expect).await.1.is_ok());
    assert!(client.replace_bundles([]));
    let (_, connected) = mutual(&server, &client, &expect).await;
    assert!(connected.expect_err("gone").contains("trust domain eu is not known"));
}

#[tokio::test]
async fn istios_peers_are_answered_as_they_expect() {
    let eu = Ca::new("eu");
    let (server, client) = (eu.identity(PAY, &[]), eu.identity("spiffe://eu/ns/shop/sa/cart", &[]));
    let expect = Expect::id(id(PAY));
    let (accepted, _) = shake(
        (&server, server.server_config(ClientAuth::Required, ALPN_NONE)),
        (Some(&client), client.client_config(&expect, ALPN_TCP_CLIENT)),
    )
    .await;
    assert_eq!(accepted.unwrap().alpn, None, "opaque TCP is answered without ALPN");
    let verifier = Verifier {
        trust: Arc::new(Trust::default()),
        expect: None,
        client_auth: ClientAuth::Required,
    };
    verifier.trust.replace([eu.bundle()], None);
    let old = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Own::new(client.svid())));
    let server_config = server.server_config(ClientAuth::Required, ALPN_NONE);
    let (accepted, _) = shake((&server, server_config), (None, Arc::new(old))).await;
    assert_eq!(accepted.unwrap().version, ProtocolVersion::TLSv1_2);
}

#[tokio::test]
async fn configurations_are_made_once_for_each_question() {
    let eu = Ca::new("eu");
    let identity = eu.identity(PAY, &[]);
    let expect = |text| Expect::id(id(text));
    let one = identity.client_config(&expect(PAY), ALPN_H2);
    assert!(Arc::ptr_eq(&one, &identity.client_config(&expect(PAY), ALPN_H2)));
    assert!(!Arc::ptr_eq(&one, &identity.client_config(&expect(CART), ALPN_H2)));
    assert!(!Arc::ptr_eq(
        &one,
        &identity.client_config(&expect(PAY), ALPN_TCP_CLIENT)
    ));
    assert!(identity.replace_bundles([Ca::new("us").bundle()]));
    assert!(
        !Arc::ptr_eq(&one, &identity.client_config(&expect(PAY), ALPN_H2)),
        "a new generation"
    );
}

#[test]
fn an_identity_needs_its_own_bundle() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let missing = Identity::new(eu.svid(PAY), [us.bundle()]);
    assert!(matches!(missing, Err(IdentityError::NoBundle(_))));
    let foreign = Identity::new(eu.svid(PAY), [Ca::new("eu").bundle()]);
    assert!(matches!(foreign, Err(IdentityError::Svid(Fault::WrongCa(_)))));
}
