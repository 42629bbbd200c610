//! Addresses: what is one, in which form it is kept, and which network targets are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rlibphonenumber::{NumberLengthType, PHONE_NUMBER_UTIL, PhoneNumberFormat};
use url::{Host, Url};

use crate::channel::Channel;

/// The longest e-mail address (RFC 5321 §4.5.3.1.3, less the angle brackets).
const MAX_EMAIL_BYTES: usize = 254;
/// The longest local part (RFC 5321 §4.5.3.1.1).
const MAX_LOCAL_PART_BYTES: usize = 64;
const MAX_URL_BYTES: usize = 2_048;
/// Room for the longest device token that a provider documents.
const MAX_TOKEN_BYTES: usize = 4_096;

/// Why an address is none. The message says what to write and never repeats the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an e-mail address.
    #[error(
        "write an e-mail address such as name@example.com, without spaces, line breaks or a display name"
    )]
    Email,
    /// Not a phone number.
    #[error(
        "write a phone number in international form such as +821012345678: +, the country code and the whole number, without \
         an extension"
    )]
    Phone,
    /// Not a chat.
    #[error("write a Telegram chat id such as 123456 or -100123456, or a public name such as @channel")]
    Telegram,
    /// Not a URL.
    #[error("write an absolute http or https URL with a host and without user name or password")]
    Url,
    /// A private, loopback or link-local target.
    #[error(
        "the webhook's host is not a public address; allow its network with channels.webhook.allowed_networks"
    )]
    PrivateTarget,
    /// Not a token.
    #[error("write the device token as the platform gave it, 1 to 4096 characters without spaces")]
    Token,
}

impl AddressError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            AddressError::Email => "invalid_email",
            AddressError::Phone => "invalid_phone",
            AddressError::Telegram => "invalid_telegram_chat",
            AddressError::Url => "invalid_url",
            AddressError::PrivateTarget => "private_target",
            AddressError::Token => "invalid_token",
        }
    }
}

/// Brings an address into the form in which it is kept and compared, or says what is wrong with it.
///
/// # Errors
/// The [`AddressError`] of the channel.
pub fn normalize(channel: Channel, address: &str) -> Result<String, AddressError> {
    match channel {
        Channel::Email => email(address),
        Channel::Sms | Channel::Alimtalk => phone(address),
        Channel::Telegram => telegram(address),
        Channel::Webhook => webhook(address).map(String::from),
        Channel::Apns | Channel::Fcm | Channel::Webpush => token(address),
        Channel::Inbox => Ok(String::new()),
    }
}

fn email(address: &str) -> Result<String, AddressError> {
    let address = address.trim_matches(' ');
    let (local, domain) = address.rsplit_once('@').ok_or(AddressError::Email)?;
    let local_ok = !local.is_empty()
        && local.len() <= MAX_LOCAL_PART_BYTES
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~.-".contains(&b));
    let labels_ok = domain.split('.').all(|label| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    });
    if !local_ok || !labels_ok || address.len() > MAX_EMAIL_BYTES {
        return Err(AddressError::Email);
    }
    Ok(format!("{local}@{}", domain.to_ascii_lowercase()))
}

/// E.164: a + and digits, the country code first. Google's numbering plans (libphonenumber) say which digits
/// belong to the number: a zero that is dialled inside the country only is left out, Italy's is kept. A number needs the
/// length of its country's numbers and no more: whether anybody has it is for carriers to say.
fn phone(address: &str) -> Result<String, AddressError> {
    let is_separator =
        |c: char| matches!(c, ' ' | '\u{a0}' | '-' | '\u{2010}' | '\u{2011}' | '(' | ')' | '.' | '/');
    let kept: String = address.trim().chars().filter(|c| !is_separator(*c)).collect();
    // No letters: a text message reaches no extension.
    if !kept.strip_prefix('+').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(AddressError::Phone);
    }
    let number = e164(&kept).ok_or(AddressError::Phone)?;
    // What is kept is compared by later on, so that it must be kept as it is when it comes again.
    if e164(&number).as_ref() == Some(&number) { Ok(number) } else { Err(AddressError::Phone) }
}

fn e164(number: &str) -> Option<String> {
    let number = PHONE_NUMBER_UTIL.parse(number, None).ok()?;
    let length = PHONE_NUMBER_UTIL.is_possible_number_with_reason(&number);
    matches!(length, Ok(NumberLengthType::IsPossible))
        .then(|| PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::E164).into_owned())
}

fn telegram(address: &str) -> Result<String, AddressError> {
    let digits = address.strip_prefix('-').unwrap_or(address);
    let is_id = (1..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let is_name = address.strip_prefix('@').is_some_and(|name| {
        (4..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    if is_id || is_name { Ok(address.to_owned()) } else { Err(AddressError::Telegram) }
}

/// Parses a webhook's URL. Whether its host may be called is for [`literal_target`] and for the resolver to say.
///
/// # Errors
/// [`AddressError::Url`] when it is not an absolute http(s) URL.
pub fn webhook(address: &str) -> Result<Url, AddressError> {
    if address.len() > MAX_URL_BYTES || address.chars().any(|c| c.is_control() || c == ' ') {
        return Err(AddressError::Url);
    }
    let url = Url::parse(address).map_err(|_| AddressError::Url)?;
    let plain = url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || !plain || url.host().is_none() {
        return Err(AddressError::Url);
    }
    Ok(url)
}

/// The address that a URL names by itself, without asking a resolver: an IP literal in any spelling, or a name that
/// always means this machine.
#[must_use]
pub fn literal_target(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let local =
                name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
            local.then_some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        }
    }
}

fn token(address: &str) -> Result<String, AddressError> {
    let plausible =
        (1..=MAX_TOKEN_BYTES).contains(&address.len()) && address.bytes().all(|b| b.is_ascii_graphic());
    if plausible { Ok(address.to_owned()) } else { Err(AddressError::Token) }
}

/// Whether an address is on the public internet: not loopback, private, link-local, shared, multicast, documentation,
/// benchmarking or reserved (the IANA special-purpose registries of RFC 6890), nor one of these wrapped in IPv6.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(ip),
        },
    }
}

/// The IPv4 address inside an IPv4-mapped (RFC 4291 §2.5.5.2), NAT64 (RFC 6052) or 6to4 (RFC 3056) address.
#[must_use]
pub fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = ip.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (s0, s1, s2, s3, s4, s5) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(s6, s7)),
        (0, 0, 0, 0, 0, 0) if s6 != 0 => Some(join(s6, s7)),
        (0x2002, high, low, ..) => Some(join(high, low)),
        _ => None,
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [s0, s1, ..] = ip.segments();
    // Global unicast is 2000::/3 (RFC 4291 §2.4); carved out of it: Teredo and other protocol assignments
    // (2001::/23), documentation (2001:db8::/32, 3fff::/20).
    (0x2000..0x4000).contains(&s0)
        && !(s0 == 0x2001 && (s1 < 0x200 || s1 == 0xdb8))
        && !(s0 == 0x3fff && s1 < 0x1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn emails_are_checked_and_their_domain_lowered() {
        assert_eq!(normalize(Channel::Email, "A.b+c@Example.COM").unwrap(), "A.b+c@example.com");
        for bad in [
            "",
            "a",
            "@x",
            "a@",
            "a b@x.de",
            "a@x..de",
            "a@-x.de",
            "a\r\nBcc: b@x.de",
            "a@x.de\r\n",
            "a\0@x.de",
            "Name <a@x.de>",
            ".a@x.de",
            "a..b@x.de",
            "a@x_y.de",
        ] {
            assert_eq!(normalize(Channel::Email, bad), Err(AddressError::Email), "{bad:?}");
        }
    }

    #[test]
    fn phones_are_kept_in_e164() {
        for (written, kept) in [
            ("+82 10-1234-5678", "+821012345678"),
            ("+82 010-1234-5678", "+821012345678"),
            (" +82\u{a0}10.1234.5678 ", "+821012345678"),
            ("+1 (415) 555-0100", "+14155550100"),
            ("+49 30/123456", "+4930123456"),
            // These zeros, ones and eights belong to their numbers.
            ("+39 06 1234567", "+39061234567"),
            ("+225 07 07 12 34 56", "+2250707123456"),
            ("+7 843 234-56-78", "+78432345678"),
            // These are dialled inside their countries only, and Argentina's mobiles have a 9 in front from abroad.
            ("+44 (0)20 7946 0018", "+442079460018"),
            ("+39 (0)6 1234567", "+39061234567"),
            ("+54 11 15 2345 6789", "+5491123456789"),
        ] {
            assert_eq!(normalize(Channel::Sms, written).as_deref(), Ok(kept), "{written:?}");
            assert_eq!(normalize(Channel::Alimtalk, written).as_deref(), Ok(kept), "{written:?}");
        }
        for bad in [
            "",
            "821012345678",
            "010-1234-5678",
            "(415) 555-0100",
            "00821012345678",
            "+0123456789",
            "+82abc",
            "+1-800-FLOWERS",
            "+1 415 555 0100 ext. 5",
            "+1234567890123456",
            "+1",
            "++821012345678",
            "+１４１５５５５０１００",
            "+999 1234567",
            "+1 415 555",
            "+49 00 6088813185",
        ] {
            assert_eq!(normalize(Channel::Sms, bad), Err(AddressError::Phone), "{bad:?}");
        }
    }

    #[test]
    fn private_targets_are_recognised_in_every_spelling() {
        for bad in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/",
            "http://10.1.2.3/",
            "http://192.168.0.1/",
            "http://172.16.0.1/",
            "http://0.0.0.0/",
            "http://100.64.0.1/",
            "http://[fe80::1]/",
            "http://[fc00::1]/",
            "http://localhost/",
            "http://x.localhost./",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[::]/",
            "http://[::127.0.0.1]/",
            "http://255.255.255.255/",
            "http://224.0.0.1/",
        ] {
            let url = webhook(bad).unwrap();
            assert!(!is_public(literal_target(&url).unwrap()), "{bad}");
        }
        assert!(is_public(literal_target(&webhook("https://8.8.8.8/x").unwrap()).unwrap()));
        assert!(is_public("2606:4700::1".parse().unwrap()));
        assert_eq!(literal_target(&webhook("https://example.com/x").unwrap()), None);
    }

    #[test]
    fn webhook_urls_are_absolute_http_without_credentials() {
        for bad in [
            "example.com",
            "/x",
            "ftp://x/",
            "http://u:p@x/",
            "http://",
            "https://x/\r\na",
            "javascript:alert(1)",
        ] {
            assert_eq!(webhook(bad), Err(AddressError::Url), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_kept_number_stays_as_it_is(written in "\\+?[0-9]{1,3}[0-9 ()./-]{4,16}") {
            if let Ok(kept) = normalize(Channel::Sms, &written) {
                prop_assert_eq!(normalize(Channel::Sms, &kept), Ok(kept.clone()));
                prop_assert!(kept[1..].bytes().all(|byte| byte.is_ascii_digit()));
            }
        }

        #[test]
        fn no_text_brings_the_parsers_down(text in any::<String>()) {
            for channel in Channel::ALL {
                if let Ok(normal) = normalize(channel, &text) {
                    prop_assert!(!normal.contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}
