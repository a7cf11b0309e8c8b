use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::identity::{
    KeyRequest,
    testing::{Ca, leaf},
};

const PAY: &str = "spiffe://eu/ns/shop/sa/pay";

#[test]
fn an_svid_survives_a_restart_in_files_that_only_its_user_reads() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("identity");
    assert!(Svid::load(&directory).unwrap().is_none(), "nothing there yet");
    let root = Ca::new("eu");
    let issuing = root.intermediate(crate::identity::testing::signing("spiffe://eu"));
    let (certificate, key) = issuing.sign(&leaf(PAY));
    let svid = Svid::parse(vec![certificate, issuing.der()], key).unwrap();
    svid.save(&directory).unwrap();
    let again = Svid::load(&directory).unwrap().expect("saved");
    assert_eq!(again.chain(), svid.chain());
    assert_eq!((again.id().as_str(), again.key_pkcs8()), (PAY, svid.key_pkcs8()));
    let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(KEY_FILE), mode("")), (0o600, 0o700));
    root.svid(PAY).save(&directory).unwrap();
    assert_ne!(Svid::load(&directory).unwrap().expect("replaced").chain(), svid.chain());
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        2,
        "no temporary file is left"
    );
}

#[test]
fn a_torn_pair_counts_as_none() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Ca::new("eu");
    ca.svid(PAY).save(directory.path()).unwrap();
    let other = pem("PRIVATE KEY", ca.svid(PAY).key_pkcs8());
    write_private(directory.path(), KEY_FILE, &other).unwrap();
    assert!(Svid::load(directory.path()).unwrap().is_none());
    write_private(directory.path(), KEY_FILE, "hello").unwrap();
    let error = Svid::load(directory.path()).expect_err("no PEM");
    assert!(error.to_string().contains("key.pem is not PEM"), "{error}");
}

#[test]
fn a_key_must_be_the_certificates() {
    let ca = Ca::new("eu");
    let (certificate, _) = ca.sign(&leaf(PAY));
    let (_, other) = ca.sign(&leaf(PAY));
    assert!(matches!(
        Svid::parse(vec![certificate.clone()], other),
        Err(SvidError::Key(..))
    ));
    assert!(matches!(
        Svid::parse(vec![certificate], vec![1, 2]),
        Err(SvidError::Key(..))
    ));
    assert!(matches!(Svid::parse(vec![], vec![]), Err(SvidError::Empty)));
    let strange = KeyRequest::generate().unwrap().complete(vec![ca.sign(&leaf(PAY)).0]);
    assert!(
        matches!(strange, Err(SvidError::Key(..))),
        "an answer to another request"
    );
}

#[test]
fn it_is_renewed_at_half_its_life() {
    let svid = Ca::new("eu").svid(PAY);
    let half = svid.not_before().0.midpoint(svid.not_after().0);
    assert!((svid.renew_at().0 - half).abs() < 1000);
    assert!(!format!("{svid:?}").contains("key"), "{svid:?}");
}
