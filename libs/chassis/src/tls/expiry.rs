//! Until when a certificate is good: rustls judges by it and does not tell.

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// `notAfter` of the first of a chain, in seconds since 1970; `None` for what is no certificate.
pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let (_rest, certificate) = parse_x509_certificate(chain.first()?).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_counts_and_what_is_none_has_no_end() {
        let of = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, 3, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        // Up to 2049 years have two digits in a certificate, and four from 2050 on.
        assert_eq!(of_chain(&[of(2024), of(2100)]), Some(1_709_251_200));
        assert_eq!(of_chain(&[of(2100)]), Some(4_107_542_400));
        assert_eq!(of_chain(&[]), None);
        assert_eq!(of_chain(&[of(2024)[1..].to_vec().into()]), None);
    }
}
