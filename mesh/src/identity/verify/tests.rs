use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};

use super::*;
use crate::{
    identity::testing::{Ca, leaf, signing, uri},
    runtime::clock,
};

const PAY: &str = "spiffe://eu/ns/shop/sa/pay";
const SUBJECT_ALT_NAME: [u64; 4] = [2, 5, 29, 17];
const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];

fn pay() -> SpiffeId {
    SpiffeId::parse(PAY).unwrap()
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf(PAY);
    change(&mut params);
    params
}

/// A sequence with one URI name in it.
fn names(text: &str) -> Vec<u8> {
    let bytes = u8::try_from(text.len()).unwrap();
    let mut der = vec![0x30, bytes + 2, 0x86, bytes];
    der.extend_from_slice(text.as_bytes());
    der
}

fn trust(bundles: &[Arc<Bundle>]) -> Trust {
    let trust = Trust::default();
    trust.replace(bundles.iter().cloned(), None);
    trust
}

fn verify(trust: &Trust, chain: &[Vec<u8>], side: Side) -> Result<SpiffeId, Fault> {
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from_slice(der)).collect();
    trust.verify(&chain[0], &chain[1..], side, unix_time(clock::wall()))
}

#[test]
fn each_rule_for_leaves_has_its_own_fault() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let dns = || SanType::DnsName("pay.shop".try_into().unwrap());
    let custom = |oid: &[u64], content| CustomExtension::from_oid_content(oid, content);
    let cases: Vec<(&str, CertificateParams, Option<Fault>)> = vec![
        ("good", leaf(PAY), None),
        (
            "a DNS name beside the ID",
            with(|it| it.subject_alt_names.push(dns())),
            None,
        ),
        ("no extended key usage", with(|it| it.extended_key_usages.clear()), None),
        ("no basic constraints", with(|it| it.is_ca = IsCa::NoCa), None),
        (
            "a subject",
            with(|it| it.distinguished_name.push(DnType::CommonName, "pay")),
            None,
        ),
        (
            "more key usages that do no harm",
            with(|it| it.key_usages = vec![DigitalSignature, KeyEncipherment, KeyAgreement]),
            None,
        ),
        ("no names", with(|it| it.subject_alt_names.clear()), Some(Fault::NoUri)),
        (
            "a DNS name only",
            with(|it| it.subject_alt_names = vec![dns()]),
            Some(Fault::NoUri),
        ),
        (
            "two IDs",
            with(|it| it.subject_alt_names.push(uri("spiffe://eu/other"))),
            Some(Fault::ManyUris(2)),
        ),
        (
            "an ID and another URI",
            with(|it| it.subject_alt_names.push(uri("https://eu/"))),
            Some(Fault::ManyUris(2)),
        ),
        (
            "another scheme",
            leaf("https://eu/pay"),
            Some(Fault::Id(SpiffeIdError::Scheme)),
        ),
        (
            "upper case",
            leaf("spiffe://EU/pay"),
            Some(Fault::Id(SpiffeIdError::TrustDomain)),
        ),
        (
            "a port",
            leaf("spiffe://eu:1/pay"),
            Some(Fault::Id(SpiffeIdError::TrustDomain)),
        ),
        (
            "a query",
            leaf("spiffe://eu/pay?a"),
            Some(Fault::Id(SpiffeIdError::Path)),
        ),
        (
            "an empty segment",
            leaf("spiffe://eu//pay"),
            Some(Fault::Id(SpiffeIdError::Path)),
        ),
        (
            "no path",
            leaf("spiffe://eu"),
            Some(Fault::NoPath(SpiffeId::parse("spiffe://eu").unwrap())),
        ),
        (
            "a CA",
            with(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            Some(Fault::Ca(pay())),
        ),
        (
            "no key usage",
            with(|it| it.key_usages.clear()),
            Some(Fault::NoKeyUsage(pay())),
        ),
        (
            "a key usage that is not critical",
            with(|it| {
                it.key_usages.clear();
                it.custom_extensions.push(custom(&KEY_USAGE, vec![3, 2, 7, 0x80]));
            }),
            Some(Fault::NoKeyUsage(pay())),
        ),
        (
            "no digitalSignature",
            with(|it| it.key_usages = vec![KeyEncipherment]),
            Some(Fault::NoDigitalSignature(pay())),
        ),
        (
            "keyCertSign",
            with(|it| it.key_usages = vec![DigitalSignature, KeyCertSign]),
            Some(Fault::SigningKeyUsage(pay())),
        ),
        (
            "cRLSign",
            with(|it| it.key_usages = vec![DigitalSignature, CrlSign]),
            Some(Fault::SigningKeyUsage(pay())),
        ),
        (
            "a server's extended key usage only",
            with(|it| it.extended_key_usages = vec![ServerAuth]),
            Some(Fault::ExtendedKeyUsage(pay())),
        ),
        (
            "a client's extended key usage only",
            with(|it| it.extended_key_usages = vec![ClientAuth]),
            Some(Fault::ExtendedKeyUsage(pay())),
        ),
        (
            "any extended key usage",
            with(|it| it.extended_key_usages = vec![Any]),
            Some(Fault::ExtendedKeyUsage(pay())),
        ),
        (
            "names that are not critical without a subject",
            with(|it| {
                it.subject_alt_names.clear();
                it.custom_extensions.push(custom(&SUBJECT_ALT_NAME, names(PAY)));
            }),
            Some(Fault::SanNotCritical(pay())),
        ),
        (
            "the extension twice",
            with(|it| it.custom_extensions.push(custom(&SUBJECT_ALT_NAME, names(PAY)))),
            Some(Fault::Malformed),
        ),
    ];
    let ca = Ca::new("eu");
    let trust = trust(&[ca.bundle()]);
    for (what, params, fault) in cases {
        let (certificate, _) = ca.sign(&params);
        let expected = fault.map_or(Ok(pay()), Err);
        assert_eq!(
            check_leaf(&CertificateDer::from_slice(&certificate)),
            expected,
            "{what}"
        );
        for side in [Side::Server, Side::Client] {
            assert_eq!(
                verify(&trust, std::slice::from_ref(&certificate), side),
                expected,
                "{what} as {side:?}"
            );
        }
    }
    let trailing = [ca.svid(PAY).chain()[0].to_vec(), vec![0]].concat();
    for bytes in [trailing, vec![], b"hello".to_vec()] {
        assert_eq!(check_leaf(&bytes.into()), Err(Fault::Malformed));
    }
}

#[test]
fn only_the_bundle_of_the_leafs_own_domain_counts() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let (stolen, _) = us.sign(&leaf(PAY));
    let (own, _) = eu.sign(&leaf(PAY));
    let chain = std::slice::from_ref(&stolen);
    let domain = TrustDomain::parse("eu").unwrap();
    let both = trust(&[eu.bundle(), us.bundle()]);
    assert_eq!(verify(&both, std::slice::from_ref(&own), Side::Client), Ok(pay()));
    assert_eq!(
        verify(&both, chain, Side::Client),
        Err(Fault::WrongCa(pay())),
        "another domain's CA"
    );
    let stranger = trust(&[us.bundle()]);
    assert_eq!(
        verify(&stranger, chain, Side::Client),
        Err(Fault::UnknownTrustDomain(domain.clone()))
    );
    let revoked = trust(&[eu.revoked(), us.bundle()]);
    assert_eq!(verify(&revoked, &[own], Side::Client), Err(Fault::Revoked(domain)));
    // The same name, another key: what an attacker who knows the root's subject would try.
    let (forged, _) = Ca::new("eu").sign(&leaf(PAY));
    assert_eq!(verify(&both, &[forged], Side::Server), Err(Fault::WrongCa(pay())));
}

#[test]
fn time_is_checked() {
    let ca = Ca::new("eu");
    let trust = trust(&[ca.bundle()]);
    let day = std::time::Duration::from_secs(86_400);
    let late = with(|it| {
        it.not_before -= 2 * day;
        it.not_after -= day;
    });
    let early = with(|it| it.not_before += 10 * std::time::Duration::from_secs(60));
    assert_eq!(
        verify(&trust, &[ca.sign(&late).0], Side::Client),
        Err(Fault::Expired(pay()))
    );
    assert_eq!(
        verify(&trust, &[ca.sign(&early).0], Side::Client),
        Err(Fault::NotYetValid(pay()))
    );
}

#[test]
fn paths_go_through_good_intermediates_only() {
    let root = Ca::new("eu");
    let trust = trust(&[root.bundle()]);
    let through = |params: CertificateParams| {
        let ca = root.intermediate(params);
        verify(&trust, &[ca.sign(&leaf(PAY)).0, ca.der()], Side::Server)
    };
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = signing("spiffe://eu");
        change(&mut params);
        params
    };
    assert_eq!(through(signing("spiffe://eu")), Ok(pay()));
    assert_eq!(
        through(changed(&|it| it.subject_alt_names.clear())),
        Ok(pay()),
        "an ID is no must"
    );
    assert_eq!(
        through(signing("spiffe://eu/ca")),
        Err(Fault::Issuer(pay())),
        "an ID with a path"
    );
    assert_eq!(
        through(signing("spiffe://us")),
        Err(Fault::Issuer(pay())),
        "another domain's ID"
    );
    let reason = |params| match through(params) {
        Err(Fault::Path { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        reason(changed(&|it| it.is_ca = IsCa::ExplicitNoCa)),
        webpki::Error::EndEntityUsedAsCa
    );
    // A constraint on URIs that this validator does not evaluate: it must refuse, even where the name would fit.
    let constraint = [vec![0x30, 0x08, 0xa0, 0x06], names("eu")].concat();
    let constrained = changed(&|it| {
        it.custom_extensions
            .push(CustomExtension::from_oid_content(&NAME_CONSTRAINTS, constraint.clone()));
    });
    assert_eq!(reason(constrained), webpki::Error::NameConstraintViolation);
    let first = root.intermediate(changed(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
    let second = first.intermediate(signing("spiffe://eu"));
    let chain = [second.sign(&leaf(PAY)).0, second.der(), first.der()];
    assert!(
        matches!(
            verify(&trust, &chain, Side::Server),
            Err(Fault::Path {
                reason: webpki::Error::PathLenConstraintViolated,
                ..
            })
        ),
        "{:?}",
        verify(&trust, &chain, Side::Server)
    );
    let missing = root.intermediate(signing("spiffe://eu"));
    assert_eq!(
        verify(&trust, &[missing.sign(&leaf(PAY)).0], Side::Server),
        Err(Fault::WrongCa(pay()))
    );
}

#[test]
fn replacing_bundles_tells_whether_anchors_changed() {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let own = TrustDomain::parse("eu").unwrap();
    let trust = Trust::default();
    assert!(trust.replace([eu.bundle(), us.bundle()], Some(&own)));
    assert!(!trust.replace([us.bundle(), eu.bundle()], Some(&own)), "the same");
    assert!(
        !trust.replace([us.bundle_of(8), eu.bundle()], Some(&own)),
        "a sequence is no anchor"
    );
    assert_eq!(trust.bundle(&us.bundle().trust_domain().clone()).unwrap().sequence(), 8);
    assert!(trust.replace([], Some(&own)), "us is gone");
    assert!(trust.bundle(&own).is_some(), "the own domain stays");
    assert!(
        trust.replace([Ca::new("eu").bundle()], Some(&own)),
        "its anchors may still change"
    );
}

#[test]
fn faults_say_what_is_wrong() {
    let texts = [
        Fault::NoUri.to_string(),
        Fault::WrongCa(pay()).to_string(),
        Fault::Expired(pay()).to_string(),
        Fault::UnknownTrustDomain(pay().trust_domain()).to_string(),
    ];
    for (text, part) in texts.iter().zip([
        "no URI name",
        "not signed by a CA of its own",
        "expired",
        "not known here",
    ]) {
        assert!(text.contains(part), "{text}");
    }
    let error = rustls::Error::from(Fault::WrongCa(pay()));
    assert_eq!(Fault::of(&error), Some(&Fault::WrongCa(pay())));
}
