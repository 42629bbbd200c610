//! Who sends: the application server's key and its signed word to each push service (RFC 8292).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use p256::ecdsa::SigningKey;
use peal_common::vapid::VapidKey;
use serde_json::json;
use url::Url;

use crate::channels::jwt;

/// How long a signed word counts: less than the 24 hours of RFC 8292 §2, with room for clocks that differ.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// It is signed anew when so much of that is left.
const RENEW: Duration = Duration::from_secs(60 * 60);
/// Push services whose words are kept; there are a handful in the world.
const MAX_KEPT: usize = 64;

/// The key of an application server, and how the push services reach whoever runs it.
pub(super) struct Vapid {
    key: SigningKey,
    /// The public key, as browsers take it for `applicationServerKey`.
    public: String,
    subject: String,
    /// By origin.
    words: Mutex<HashMap<String, Word>>,
}

struct Word {
    header: String,
    expires: Timestamp,
}

impl fmt::Debug for Vapid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vapid").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Vapid {
    /// A key and the `mailto:` or `https:` address of whoever runs the application server.
    pub(super) fn new(key: &VapidKey, subject: String) -> Self {
        let public = key.public();
        Vapid { key: SigningKey::from(key.secret_key()), public, subject, words: Mutex::default() }
    }

    /// The value of `Authorization` for the push service of `endpoint`; `None` when that has no origin.
    pub(super) fn authorization(&self, endpoint: &Url, now: Timestamp) -> Option<String> {
        let origin = endpoint.origin();
        if !origin.is_tuple() {
            return None;
        }
        let origin = origin.ascii_serialization();
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(word) = words.get(&origin)
            && now.checked_add(RENEW).is_ok_and(|soon| soon < word.expires)
        {
            return Some(word.header.clone());
        }
        let expires = now.checked_add(LIFETIME).ok()?;
        let header = format!("vapid t={}, k={}", self.sign(&origin, expires), self.public);
        if words.len() >= MAX_KEPT {
            words.clear();
        }
        words.insert(origin, Word { header: header.clone(), expires });
        Some(header)
    }

    fn sign(&self, origin: &str, expires: Timestamp) -> String {
        let claims = json!({"aud": origin, "exp": expires.as_second(), "sub": self.subject});
        jwt::es256(&self.key, &json!({"typ": "JWT", "alg": "ES256"}), &claims)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jiff::ToSpan as _;
    use p256::ecdsa::Signature;
    use p256::ecdsa::VerifyingKey;
    use p256::ecdsa::signature::Verifier as _;
    use serde_json::Value;

    use super::*;

    fn vapid() -> Vapid {
        Vapid::new(&VapidKey::generate(), "mailto:ops@example.com".to_owned())
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH.checked_add(hours.hours()).unwrap()
    }

    #[test]
    fn a_word_names_the_push_service_and_bears_a_signature() {
        let endpoint = Url::parse("https://push.example.com:8443/s/1?x").unwrap();
        let header = vapid().authorization(&endpoint, at(0)).unwrap();
        let (token, key) = header.strip_prefix("vapid t=").unwrap().split_once(", k=").unwrap();
        let key = VerifyingKey::from_sec1_bytes(&URL_SAFE_NO_PAD.decode(key).unwrap()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        key.verify(signed.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().1).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&claims).unwrap(),
            json!({"aud": "https://push.example.com:8443", "exp": 12 * 3600, "sub": "mailto:ops@example.com"})
        );
    }

    #[test]
    fn a_word_is_signed_anew_before_it_expires() {
        let (vapid, endpoint) = (vapid(), Url::parse("https://push.example.com/s/1").unwrap());
        let word = |hours| vapid.authorization(&endpoint, at(hours)).unwrap();
        let first = word(0);
        assert_eq!(word(10), first);
        assert_ne!(word(11), first);
        let other = Url::parse("https://other.example.com/").unwrap();
        assert_ne!(vapid.authorization(&other, at(11)).unwrap(), word(11));
        assert_eq!(vapid.authorization(&Url::parse("data:x").unwrap(), at(0)), None);
    }
}
