//! Until when a certificate is good, read from its DER: rustls judges by it and does not tell.

use rustls::pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const DAY: i64 = 86_400;

/// `notAfter` of the first of a chain, in seconds since 1970; `None` for what is no certificate.
pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<i64> {
    not_after(chain.first()?.as_ref())
}

fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut signed = Reader(Reader(certificate).sequence()?);
    let mut fields = Reader(signed.sequence()?);
    if fields.0.first() == Some(&VERSION) {
        fields.element()?;
    }
    let (_serial, _algorithm, _issuer) = (fields.element()?, fields.element()?, fields.element()?);
    let mut validity = Reader(fields.sequence()?);
    let (_not_before, not_after) = (validity.element()?, validity.element()?);
    time(not_after)
}

/// What is left of some DER.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element: its tag, and what is inside.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut length = usize::from(*first);
        // The high bit: so many bytes of length follow.
        if length >= 0x80 {
            let (bytes, behind) =
                rest.split_at_checked(length & 0x7f).filter(|(bytes, _)| bytes.len() <= 4)?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = behind;
        }
        let (inside, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some((*tag, inside))
    }

    fn sequence(&mut self) -> Option<&'a [u8]> {
        self.element().filter(|(tag, _)| *tag == SEQUENCE).map(|(_, inside)| inside)
    }
}

/// `YYMMDDhhmmssZ` from 1950 to 2049, or `YYYYMMDDhhmmssZ`: certificates have no other forms.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let (year, rest) = match tag {
        UTC_TIME => digits.split_at_checked(2)?,
        GENERALIZED_TIME => digits.split_at_checked(4)?,
        _ => return None,
    };
    let number = |digits: &[u8]| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    let year = match (tag, number(year)) {
        (UTC_TIME, year @ 0..50) => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| rest.get(at..at + 2).map(number));
    let (month, day) = (month.filter(|month| (1..=12).contains(month))?, day?);
    if rest.len() != 10 {
        return None;
    }
    Some(days(year, month, day) * DAY + hour? * 3600 + minute? * 60 + second?)
}

/// Days from 1970-01-01 to a date, either way.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the day that some have more is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Months of 31 and 30 days take turns, five by five.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates_are_read() {
        let utc = |text: &str| time((UTC_TIME, text.as_bytes()));
        let general = |text: &str| time((GENERALIZED_TIME, text.as_bytes()));
        assert_eq!(utc("700101000000Z"), Some(0));
        assert_eq!(utc("691231235959Z"), Some(-1));
        assert_eq!(utc("240229120000Z"), Some(1_709_208_000));
        assert_eq!(utc("240301000000Z"), Some(1_709_251_200));
        assert_eq!(utc("491231235959Z"), Some(2_524_607_999));
        assert_eq!(utc("500101000000Z"), Some(-631_152_000));
        assert_eq!(general("20500101000000Z"), Some(2_524_608_000));
        assert_eq!(general("21000301000000Z"), Some(4_107_542_400));
        assert_eq!(general("99991231235959Z"), Some(253_402_300_799));
        for wrong in
            ["", "Z", "2402291200Z", "240229120000", "24022912000xZ", "241329120000Z", "2402291200000Z"]
        {
            assert_eq!(utc(wrong), None, "{wrong}");
        }
        assert_eq!(time((SEQUENCE, b"700101000000Z")), None);
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let certificate = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert;
        let der: &[u8] = certificate.der();
        assert!(not_after(der).is_some());
        for end in 0..der.len() {
            assert_eq!(not_after(&der[..end]), None, "{end}");
        }
        assert_eq!(of_chain(&[]), None);
    }
}
