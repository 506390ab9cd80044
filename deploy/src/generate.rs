//! `generate`: identifiers and keys, in the shapes of the reference.

use std::{process::ExitCode, time::SystemTime};

use aws_lc_rs::{agreement, encoding::AsBigEndian, rand};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::{Span, Timestamp, civil, tz::TimeZone};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize, SanType, SerialNumber,
};

use crate::{Fatal, cli::Thing, print, write};

/// Generates.
pub(crate) fn run(what: Thing) -> Result<ExitCode, Fatal> {
    match what {
        Thing::Uuid(_) => print(&format!("{}\n", uuid::Uuid::new_v4())),
        Thing::Rand { length, base64, hex, .. } => random(&length, base64, hex),
        Thing::WgKeypair(_) => {
            let (private, public) = x25519()?;
            pair(&STANDARD.encode(private), &STANDARD.encode(public))
        }
        Thing::RealityKeypair(_) => {
            let (private, public) = x25519()?;
            pair(&URL_SAFE_NO_PAD.encode(private), &URL_SAFE_NO_PAD.encode(public))
        }
        Thing::VapidKeypair(_) => {
            let (private, public) = p256().map_err(|_| "generate a P-256 key: failed")?;
            pair(&URL_SAFE_NO_PAD.encode(private), &URL_SAFE_NO_PAD.encode(public))
        }
        Thing::TlsKeypair { server_name, months, .. } => {
            let (key, certificate) = tls(&server_name, months)?;
            print(&format!("{key}\n{certificate}\n"))
        }
    }
}

fn pair(private: &str, public: &str) -> Result<ExitCode, Fatal> {
    print(&format!("PrivateKey: {private}\nPublicKey: {public}\n"))
}

/// Most bytes that `rand` gives.
const MAX_RANDOM: usize = 1 << 30;

fn random(length: &str, base64: bool, hex: bool) -> Result<ExitCode, Fatal> {
    let length: i64 =
        length.parse().map_err(|_| format!("strconv.Atoi: parsing {length:?}: invalid syntax"))?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RANDOM);
    let length = length.ok_or_else(|| format!("length must be from 0 to {MAX_RANDOM}"))?;
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes).map_err(|_| "no random numbers from the system")?;
    if base64 {
        print(&format!("{}\n", STANDARD.encode(bytes)))
    } else if hex {
        let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        print(&text)
    } else {
        write(&bytes)
    }
}

/// A clamped scalar (RFC 7748 §5), as WireGuard's tools print it, and its point.
fn x25519() -> Result<([u8; 32], Vec<u8>), Fatal> {
    let mut scalar = [0; 32];
    rand::fill(&mut scalar).map_err(|_| "no random numbers from the system")?;
    scalar[0] &= 248;
    scalar[31] = (scalar[31] & 127) | 64;
    let key = agreement::PrivateKey::from_private_key(&agreement::X25519, &scalar);
    let public = key.and_then(|key| key.compute_public_key().map_err(|_| rejected()));
    let public = public.map_err(|_| "derive the public key: failed")?;
    Ok((scalar, public.as_ref().to_vec()))
}

fn rejected() -> aws_lc_rs::error::KeyRejected {
    aws_lc_rs::error::Unspecified.into()
}

fn p256() -> Result<(Vec<u8>, Vec<u8>), aws_lc_rs::error::Unspecified> {
    let key = agreement::PrivateKey::generate(&agreement::ECDH_P256)?;
    let scalar: aws_lc_rs::encoding::EcPrivateKeyBin<'_> = key.as_be_bytes()?;
    let public = key.compute_public_key()?;
    Ok((scalar.as_ref().to_vec(), public.as_ref().to_vec()))
}

/// RSA-2048 key and self-signed certificate as PEM.
fn tls(name: &str, months: i32) -> Result<(String, String), Fatal> {
    let fail = |error: rcgen::Error| format!("generate certificate: {error}");
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(fail)?;
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| "no random numbers from the system")?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let now = Timestamp::now();
    params.not_before = SystemTime::from(now - Span::new().hours(1)).into();
    params.not_after = SystemTime::from(months_later(now, months)?).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().map_err(fail)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// The same day of a later month as Go counts: the 31st of a short month is the 1st or so of the next.
fn months_later(now: Timestamp, months: i32) -> Result<Timestamp, Fatal> {
    let fail = |error: jiff::Error| format!("valid months: {error}");
    let today = now.to_zoned(TimeZone::UTC);
    let first = civil::date(today.year(), today.month(), 1);
    let month = first.checked_add(Span::new().try_months(months).map_err(fail)?).map_err(fail)?;
    let day = month.checked_add(Span::new().days(today.day() - 1)).map_err(fail)?;
    let then = day.to_datetime(today.time()).to_zoned(TimeZone::UTC).map_err(fail)?;
    Ok(then.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_overflow_as_in_go() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let later = |text, months| months_later(at(text), months).unwrap().to_string();
        assert_eq!(later("2026-01-31T10:00:00Z", 1), "2026-03-03T10:00:00Z");
        assert_eq!(later("2026-11-22T02:22:50Z", 2), "2027-01-22T02:22:50Z");
        assert_eq!(later("2026-03-15T00:00:00Z", -3), "2025-12-15T00:00:00Z");
        assert!(months_later(at("2026-03-15T00:00:00Z"), i32::MAX).is_err());
    }

    #[test]
    fn scalars_are_clamped_and_differ() {
        let (one, _) = x25519().unwrap();
        let (two, public) = x25519().unwrap();
        assert_ne!(one, two);
        assert_eq!((two[0] & 7, two[31] & 0xc0, public.len()), (0, 0x40, 32));
        let (scalar, point) = p256().unwrap();
        assert_eq!((scalar.len(), point.len(), point[0]), (32, 65, 4));
    }
}
