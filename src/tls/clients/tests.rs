//! What is judged, by certificates made here.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::*;

/// Days from the epoch are what these tests count in.
fn since_epoch(day: u64) -> Duration {
    Duration::from_hours(24 * day)
}

fn at(day: u64) -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch(day))
}

struct Ca {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, days: std::ops::Range<u64>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let time = |day| std::time::SystemTime::UNIX_EPOCH + since_epoch(day);
    (params.not_before, params.not_after) = (time(days.start).into(), time(days.end).into());
    params
}

fn ca(name: &str, days: std::ops::Range<u64>) -> Ca {
    let mut params = params(name, days);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Ca { certificate, issuer: Issuer::new(params, key) }
}

impl Ca {
    fn client(&self, serial: u64, days: std::ops::Range<u64>, purpose: ExtendedKeyUsagePurpose) -> Certificate {
        let mut params = params("client", days);
        params.extended_key_usages = vec![purpose];
        params.serial_number = Some(SerialNumber::from(serial));
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap()
    }

    fn list(&self, revoked: &[u64], until: u64) -> CertificateRevocationListDer<'static> {
        let time = |day| (std::time::SystemTime::UNIX_EPOCH + since_epoch(day)).into();
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: time(100),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time(100),
            next_update: time(until),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        CertificateRevocationListDer::from(params.signed_by(&self.issuer).unwrap().der().to_vec())
    }
}

const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;

fn verifier(authorities: &[&Ca], lists: &[CertificateRevocationListDer<'static>]) -> Result<Verifier, PolicyError> {
    let authorities: Authorities = authorities.iter().map(|ca| ca.certificate.der().clone()).collect();
    Verifier::new(&authorities, &lists.to_vec(), true, &Arc::new(aws_lc_rs::default_provider()))
}

fn judged(verifier: &Verifier, certificate: &Certificate, day: u64) -> Result<(), CertificateError> {
    match verifier.verify_client_cert(certificate.der(), &[], at(day)) {
        Ok(_) => Ok(()),
        Err(Error::InvalidCertificate(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_certificate_is_good_from_its_first_day_to_its_last_by_an_authority_that_is_named() {
    let (one, other) = (ca("one", 100..200), ca("other", 100..200));
    let both = verifier(&[&other, &one], &[]).unwrap();
    let good = one.client(1, 110..120, CLIENT);
    assert_eq!(judged(&both, &good, 115), Ok(()));
    assert!(matches!(judged(&both, &good, 109), Err(CertificateError::NotValidYetContext { .. })));
    assert!(matches!(judged(&both, &good, 121), Err(CertificateError::ExpiredContext { .. })));
    let only_other = verifier(&[&other], &[]).unwrap();
    assert_eq!(judged(&only_other, &good, 115), Err(CertificateError::UnknownIssuer));
    let server = one.client(2, 110..120, ExtendedKeyUsagePurpose::ServerAuth);
    assert!(matches!(judged(&both, &server, 115), Err(CertificateError::InvalidPurposeContext { .. })));
    // The same name, and another key.
    let impostor = ca("one", 100..200).client(1, 110..120, CLIENT);
    judged(&both, &impostor, 115).unwrap_err();
}

#[test]
fn an_authority_past_its_own_time_vouches_for_nobody() {
    let (short, long) = (ca("short", 100..110), ca("long", 100..200));
    let both = verifier(&[&short, &long], &[]).unwrap();
    let [of_short, of_long] = [&short, &long].map(|ca| ca.client(1, 100..150, CLIENT));
    assert_eq!(judged(&both, &of_short, 109), Ok(()));
    assert_eq!(judged(&both, &of_short, 111), Err(CertificateError::UnknownIssuer));
    assert_eq!(judged(&both, &of_long, 111), Ok(()));
}

#[test]
fn a_revoked_certificate_is_refused_and_so_is_everyone_once_the_list_is_stale() {
    let one = ca("one", 100..200);
    let [good, revoked] = [1, 2].map(|serial| one.client(serial, 100..150, CLIENT));
    let strict = verifier(&[&one], &[one.list(&[2], 120)]).unwrap();
    assert_eq!(judged(&strict, &good, 110), Ok(()));
    assert_eq!(judged(&strict, &revoked, 110), Err(CertificateError::Revoked));
    assert!(matches!(judged(&strict, &good, 121), Err(CertificateError::ExpiredRevocationListContext { .. })));
    let other = ca("other", 100..200);
    let error = verifier(&[&one, &other], &[one.list(&[2], 120)]).unwrap_err();
    assert_eq!(error, PolicyError::NoListOf("CN=other".to_owned()));
    // Somebody else's list under the authority's name.
    let forged = verifier(&[&one], &[ca("one", 100..200).list(&[], 120)]).unwrap();
    forged.verify_client_cert(good.der(), &[], at(110)).unwrap_err();
}

#[test]
fn what_is_no_authority_and_no_list_is_told() {
    let one = ca("one", 100..200);
    let pem = one.certificate.pem();
    assert_eq!(authorities(pem.as_bytes()).unwrap().len(), 1);
    assert_eq!(authorities(format!("{pem}\nnotes between\n{pem}").as_bytes()).unwrap().len(), 2);
    for (text, error) in [
        (String::new(), PolicyError::NoCertificate),
        ("notes\n".to_owned(), PolicyError::NoCertificate),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), PolicyError::BadCertificate),
        (format!("{pem}{}", one.client(1, 100..110, CLIENT).pem()), PolicyError::NoAuthority("CN=client".to_owned())),
    ] {
        assert_eq!(authorities(text.as_bytes()).unwrap_err(), error, "{text}");
    }
    assert!(matches!(authorities(&pem.as_bytes()[..pem.len() - 30]), Err(PolicyError::NotPem(_))));
    let of_one = vec![one.certificate.der().clone()];
    assert_eq!(revocation_lists(pem.as_bytes(), &of_one).unwrap_err(), PolicyError::NoList);
    let broken = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert!(matches!(revocation_lists(broken, &of_one), Err(PolicyError::BadList(_))));
}

#[test]
fn two_policies_are_one_where_they_ask_the_same() {
    let (one, other) = (ca("one", 100..200), ca("other", 100..200));
    let policy = |authorities: &[&Ca], lists: &Lists, required| {
        let authorities: Authorities = authorities.iter().map(|ca| ca.certificate.der().clone()).collect();
        Policy::new(&authorities, lists, required).unwrap()
    };
    let first = policy(&[&one], &Vec::new(), true);
    assert!(first.is(&policy(&[&one], &Vec::new(), true)));
    assert!(!first.is(&policy(&[&one], &Vec::new(), false)));
    assert!(!first.is(&policy(&[&other], &Vec::new(), true)));
    assert!(!first.is(&policy(&[&one, &other], &Vec::new(), true)));
    assert!(!first.is(&policy(&[&one], &vec![one.list(&[1], 120)], true)));
}
