//! The kind of signature that two providers make alike, and words that are compared without telling by the time how much of
//! them was right.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use peal_common::settings::Secret;
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

/// Whether one of the keys signed an address and the fields of a form: HMAC-SHA1 over the address and every name with its
/// value, in the order of the names and without anything in between, in base64. Fields that are there twice with the same
/// value count once.
pub(super) fn of_form(keys: &[Secret], url: &str, form: &[(String, String)], signature: &str) -> bool {
    let Ok(signature) = STANDARD.decode(signature) else { return false };
    let fields: BTreeSet<_> = form.iter().collect();
    keys.iter().any(|key| {
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(key.expose().as_bytes()) else { return false };
        mac.update(url.as_bytes());
        for (name, value) in &fields {
            mac.update(name.as_bytes());
            mac.update(value.as_bytes());
        }
        mac.verify_slice(&signature).is_ok()
    })
}

/// Whether a word is one of the keys.
pub(super) fn is_one_of(keys: &[Secret], word: &str) -> bool {
    keys.iter().any(|key| bool::from(key.expose().as_bytes().ct_eq(word.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The examples of Twilio's documentation and of its libraries' tests.
    #[test]
    fn published_examples_are_valid_and_nothing_near_them() {
        let keys = [Secret::from("other".to_owned()), Secret::from("12345".to_owned())];
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let call = form(&[
            ("CallSid", "CA1234567890ABCDE"),
            ("From", "+14158675309"),
            ("Digits", "1234"),
            ("To", "+18005551212"),
            ("Caller", "+14158675309"),
        ]);
        let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        assert!(of_form(&keys, url, &call, signature));
        let twice = form(&[
            ("Sid", "CA123"),
            ("SidAccount", "AC123"),
            ("Digits", "5678"),
            ("Digits", "1234"),
            ("Digits", "1234"),
        ]);
        assert!(of_form(&keys, url, &twice, "IK+Dwps556ElfBT0I3Rgjkr1wJU="));

        assert!(!of_form(&keys[..1], url, &call, signature));
        assert!(!of_form(&keys, "https://mycompany.com/myapp.php?foo=1", &call, signature));
        assert!(!of_form(&keys, url, &call[1..], signature));
        for bad in ["", "x", "RSOYDt4T1cUTdK1PDd93/VVr8B9=", "RSOYDt4T1cUTdK1PDd93", "王"] {
            assert!(!of_form(&keys, url, &call, bad), "{bad}");
        }
    }

    #[test]
    fn a_word_is_a_key_or_not() {
        let keys = [Secret::from("one".to_owned()), Secret::from("two".to_owned())];
        assert!(is_one_of(&keys, "two"));
        for bad in ["", "on", "onetwo", "One"] {
            assert!(!is_one_of(&keys, bad));
        }
    }
}
