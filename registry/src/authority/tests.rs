use std::{sync::Arc, time::Duration};

use mesh::{
    identity::{Identity, KeyRequest, SpiffeId, TrustDomain, pem},
    model::{RegionId, Timestamp},
    runtime::clock,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use x509_parser::extensions::GeneralName;

use super::{Authority, AuthorityError, Root, attest};

fn domain() -> TrustDomain {
    TrustDomain::parse("eu.example").unwrap()
}

fn region() -> RegionId {
    RegionId::parse("eu").unwrap()
}

fn pay() -> SpiffeId {
    SpiffeId::parse("spiffe://eu.example/ns/shop/sa/pay").unwrap()
}

fn authority() -> (Authority, Root) {
    Authority::create(&region(), &domain(), clock::wall()).unwrap()
}

#[test]
fn what_it_issues_is_an_svid_that_verifies() {
    let (authority, root) = authority();
    let request = KeyRequest::generate().unwrap();
    let chain = authority
        .issue(request.der(), &pay(), attest::TTL, clock::wall())
        .unwrap();
    assert_eq!(chain.len(), 2, "leaf and issuing certificate, no root");
    let svid = request.complete(chain).unwrap();
    let bundle = Arc::new(root.bundle(1).unwrap());
    let identity = Identity::new(svid.clone(), [bundle]).expect("good");
    assert_eq!(identity.id(), pay());
    let life = svid.not_after().since(svid.not_before());
    assert!(
        life >= attest::TTL && life <= attest::TTL + Duration::from_secs(62),
        "{life:?}"
    );
    assert!(
        clock::wall().since(svid.not_before()) >= Duration::from_secs(60),
        "begins a minute ago"
    );
}

#[test]
fn only_the_key_of_a_request_counts() {
    let (authority, _) = authority();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    let evil = "spiffe://eu.example/ns/isthmus-system/sa/operator";
    params.subject_alt_names.push(SanType::URI(evil.try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let request = params.serialize_request(&key).unwrap();
    let chain = authority
        .issue(request.der(), &pay(), attest::TTL, clock::wall())
        .unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(matches!(names.value.general_names[..], [GeneralName::URI(uri)] if uri == pay().as_str()));
    assert!(!leaf.is_ca() && !leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let (authority, _) = authority();
    let mut forged = KeyRequest::generate().unwrap().der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    for bad in [forged.as_slice(), b"", b"hello", &[0x30; 20_000]] {
        let error = authority
            .issue(bad, &pay(), attest::TTL, clock::wall())
            .expect_err("refused");
        assert!(matches!(error, AuthorityError::Request), "{error}");
    }
}

#[test]
fn it_signs_for_its_own_domain_only() {
    let (authority, _) = authority();
    let request = KeyRequest::generate().unwrap();
    for id in ["spiffe://us.example/ns/shop/sa/pay", "spiffe://eu.example"] {
        let id = SpiffeId::parse(id).unwrap();
        let error = authority
            .issue(request.der(), &id, attest::TTL, clock::wall())
            .expect_err("refused");
        assert!(matches!(error, AuthorityError::ForeignId { .. }), "{id}: {error}");
    }
}

#[test]
fn a_certificate_never_outlives_its_issuer() {
    let (authority, _) = authority();
    let end = authority.not_after();
    let late = Timestamp(end.0 - 600_000);
    let request = KeyRequest::generate().unwrap();
    let chain = authority.issue(request.der(), &pay(), attest::TTL, late).unwrap();
    assert!(request.complete(chain).unwrap().not_after() <= end);
    let request = KeyRequest::generate().unwrap();
    let error = authority
        .issue(request.der(), &pay(), attest::TTL, end)
        .expect_err("expired");
    assert!(matches!(error, AuthorityError::Expired { .. }), "{error}");
}

#[test]
fn the_catalogue_keeps_an_authority_but_not_its_root() {
    let (authority, root) = authority();
    let record = authority.record();
    assert!(!record.chain.contains(&root.certificate().to_vec()));
    let again = Authority::from_record(&record, &domain()).unwrap();
    assert_eq!(again.record(), record);
    assert!(
        Authority::from_record(&record, &TrustDomain::parse("us.example").unwrap()).is_err(),
        "another domain's record"
    );
}

#[test]
fn a_root_reads_back_and_signs_the_next_issuing_certificate() {
    let (first, root) = authority();
    let again = Root::from_pem(&root.to_pem(), &region(), &domain()).unwrap();
    let second = again.issuing(clock::wall()).unwrap();
    assert_ne!(first.record().key, second.record().key);
    let bundle = Arc::new(root.bundle(1).unwrap());
    for authority in [first, second] {
        let request = KeyRequest::generate().unwrap();
        let chain = authority
            .issue(request.der(), &pay(), attest::TTL, clock::wall())
            .unwrap();
        Identity::new(request.complete(chain).unwrap(), [Arc::clone(&bundle)]).expect("the same root");
    }
    let error = Root::from_pem(&root.to_pem(), &region(), &TrustDomain::parse("us").unwrap()).expect_err("foreign");
    assert!(error.to_string().contains("URI name"), "{error}");
}

#[test]
fn an_operators_authority_is_proved_before_it_is_used() {
    let (authority, root) = authority();
    let (_, other_root) = self::authority();
    let record = authority.record();
    let chain = pem("CERTIFICATE", &record.chain[0]);
    let key = pem("PRIVATE KEY", &record.key);
    let anchor = |root: &Root| pem("CERTIFICATE", root.certificate());
    let load =
        |chain: &str, key: &str, root: &str| Authority::from_pem(&region(), &domain(), chain, key, root, clock::wall());
    load(&chain, &key, &anchor(&root)).expect("good");
    load(&anchor(&root), &root.to_pem(), &anchor(&root)).expect("a root that issues itself is good too");
    let leaf = {
        let request = KeyRequest::generate().unwrap();
        let chain = authority
            .issue(request.der(), &pay(), attest::TTL, clock::wall())
            .unwrap();
        pem("CERTIFICATE", &chain[0])
    };
    for (chain, key, root, text) in [
        (chain.as_str(), key.as_str(), anchor(&other_root), "do not verify"),
        ("", &key, anchor(&root), "issuing certificate file has no PEM"),
        (&chain, "", anchor(&root), "issuing key file has no PEM"),
        (&chain, &key, String::new(), "root certificate file has no PEM"),
        (&chain, &root.to_pem(), anchor(&root), "issuing key file does not fit"),
        (&leaf, &key, anchor(&root), "do not say CA"),
        (&chain, &key, leaf.clone(), "root certificate file is no CA"),
    ] {
        let error = load(chain, key, &root).expect_err(text);
        assert!(error.to_string().contains(text), "{error} should say {text}");
    }
}
